# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A small LSTM, its state carried from step to step, to be laid beside the quickstart's GPT: on Python's standard library or your text.

jaxlm train --config=configs/lstm_tiny.py --workdir=runs/lstm

Parameters (4.3M), text, tokenizer, tokens a step and optimizer are those of configs/gpt_tiny.py. Both on tiny shakespeare (1.1 MB), cut into
100 documents by `mkdir shakespeare && split -l 400 --additional-suffix=.txt input.txt shakespeare/`, a tenth of them held out:

SAME="--config.source.path=shakespeare/ --config.data.holdout=0.1 --config.model.dtype=bfloat16 --config.eval.every=40"
jaxlm train --config=configs/gpt_tiny.py $SAME --workdir=runs/gpt
jaxlm train --config=configs/lstm_tiny.py $SAME --workdir=runs/lstm
jaxlm curves runs/gpt runs/lstm

Result: held-out bits per byte after as many steps of 2,048 tokens (byte trigrams of the same text: 2.777)

| steps | 40 | 80 | 120 | 160 | 200 | 240 | minutes of training steps |
|---|---|---|---|---|---|---|---|
| GPT, 4 layers of 256, rows of 256 shuffled | 2.410 | 2.244 | 2.167 | 2.109 | 2.078 | 2.052 | 7.2 |
| LSTM, 2 layers of 432, rows of 64 carried | 2.774 | 2.430 | 2.230 | 2.128 | 2.083 | 2.058 | 8.2 |

on 2 cores of an AMD EPYC, Python 3.12 and jax 0.12, partly at once and beside the work of others; alone, a step took 0.85 s (GPT) and 1.0 s
(LSTM). The learning rate is the one that was chosen for the GPT. Evaluated in windows, a state anew for each 64 tokens, the LSTM has 2.092
(jaxlm evaluate --workdir=runs/lstm --config.data.packing=windows --config.data.shuffle=true). The page's own text has not been measured.
"""
from jaxlm import build


def get_config(variant: str = ""):
    c = build.defaults(model="lstm", objective="causal_lm", source="text", tokenizer="bpe")
    c.source.path = "{stdlib}"
    # Of that library only: folders of these names in your own text are read.
    c.source.exclude += tuple(f"{{stdlib}}/{part}" for part in (
        "site-packages", "test", "*/test", "*/tests", "idlelib", "lib2to3"))
    c.tokenizer.vocab_size = 4096
    # Rows are windows of one text each: gradients reach 64 tokens back, the state to the document's beginning.
    c.data.packing = "stream"
    c.data.shuffle = False
    c.data.seq_len = 64
    c.data.holdout = 0.02

    c.model.layers = 2
    c.model.embed = 256
    c.model.hidden = 432
    c.model.scan = False  # unrolled layers run faster on a CPU

    c.train.steps = 240
    c.train.batch_size = 32
    c.train.baseline = "trigram"
    c.train.sample_tokens = 120
    c.train.sample = "class Reader:\n    def __init__(self"
    c.generate.top_p = 0.95
    c.eval.every = 80
    c.checkpoints.every = 80

    c.optimizer.name = "muon"
    c.optimizer.lr = 3e-3
    c.optimizer.b2 = 0.95
    c.optimizer.weight_decay = 0.1
    c.schedule.name = "cosine"
    c.schedule.warmup = 24
    return build.variant(c, variant)

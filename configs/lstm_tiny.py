# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A small LSTM on the Python standard library's own sources, its state carried from step to step.

jaxlm train --config=configs/lstm_tiny.py --workdir=runs/lstm

Parameters, text, tokenizer, tokens a step and optimizer are those of configs/gpt_tiny.py (4.3M), so that their curves can be compared.
Result: not measured; no run of this page has been finished.
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

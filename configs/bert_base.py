# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""BERT base, uncased (110M): masked words and next sentences, first on rows of 128 tokens, then of 512.

jaxlm train --config=configs/bert_base.py --config.source.path=my_texts/ --workdir=runs/bert_base
jaxlm train --config=configs/bert_base.py --config.source.path=my_texts/ --workdir=runs/bert_base --config.data.seq_len=512 \
    --config.objective.predictions=80 --config.train.steps=1_000_000 --config.train.allow_changes=true

Text: a document a file; a sentence ends at its full stop (data.sentences="line" where each has its own line).
Cost: 546 MFLOPs a token, and so 1.6e19 FLOPs for the 900,000 updates of the first command: days on one accelerator.
Published shape and settings: Devlin et al. 2018, appendix A.2, and its run_pretraining.py.
"""
from jaxlm import build


def get_config(variant: str = ""):
    c = build.defaults(model="bert", objective="mlm", source="text", tokenizer="wordpiece")
    c.tokenizer.vocab_size = 30_522
    c.data.packing = "sentences"
    c.data.sentences = "text"
    c.data.seq_len = 128
    c.data.holdout = 0.002
    c.objective.pairs = "nsp"
    c.objective.predictions = 20

    c.model.layers = 12
    c.model.embed = 768
    c.model.heads = 12
    c.model.max_len = 512
    c.model.dtype = "bfloat16"

    c.train.steps = 900_000
    c.train.batch_size = 256
    c.train.log_every = 100
    c.eval.every = 10_000
    c.eval.batches = 64
    c.checkpoints.every = 5000

    c.optimizer.name = "adamw"
    c.optimizer.lr = 1e-4
    c.optimizer.b2 = 0.999
    c.optimizer.eps = 1e-6
    c.optimizer.weight_decay = 0.01
    c.optimizer.decay = r"(kernel|tokens|positions|types)$"  # all but biases and norms
    c.schedule.name = "linear"
    c.schedule.warmup = 10_000
    c.schedule.total = 1_000_000
    c.schedule.final = 0.0
    c.rules = "fsdp"
    c.mesh.data = 1
    c.mesh.fsdp = -1
    return build.variant(c, variant)

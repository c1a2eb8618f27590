# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""ALBERT base (12M): one layer in all twelve, small tables, masked words and the order of two sentences, by LAMB.

jaxlm train --config=configs/albert_base.py --config.source.path=my_texts/ --workdir=runs/albert_base

Text: a document a file; a sentence ends at its full stop (data.sentences="line" where each has its own line).
Cost: 570 MFLOPs a token, as of a BERT of that depth (its parameters are fewer, its products are not), and so 1.5e20 FLOPs
for these 125,000 updates of 2.1M tokens.
Published shape and settings: Lan et al. 2019, section 4.1; whole words are masked and not runs of up to three.
"""
from jaxlm import build


def get_config(variant: str = ""):
    c = build.defaults(model="albert", objective="mlm", source="text", tokenizer="unigram")
    c.tokenizer.vocab_size = 30_000
    c.data.packing = "sentences"
    c.data.sentences = "text"
    c.data.seq_len = 512
    c.data.holdout = 0.002
    c.objective.pairs = "sop"
    c.objective.whole_word = True

    c.model.layers = 12
    c.model.embed = 768
    c.model.heads = 12
    c.model.embedding_size = 128
    c.model.max_len = 512
    c.model.dtype = "bfloat16"

    c.train.steps = 125_000
    c.train.batch_size = 4096
    c.train.accumulate = 4
    c.train.log_every = 100
    c.eval.every = 2500
    c.eval.batches = 8
    c.eval.batch_size = 1024
    c.checkpoints.every = 2500

    c.optimizer.name = "lamb"
    c.optimizer.lr = 1.76e-3
    c.optimizer.b2 = 0.999
    c.optimizer.eps = 1e-6
    c.optimizer.weight_decay = 0.01
    c.optimizer.decay = r"(kernel|tokens|positions|types)$"  # all but biases and norms
    c.schedule.name = "linear"
    c.schedule.warmup = 3125
    c.schedule.final = 0.0
    c.rules = "fsdp"
    c.mesh.data = 1
    c.mesh.fsdp = -1
    return build.variant(c, variant)

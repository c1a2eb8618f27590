# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""T5 v1.1 small (77M) on your own text or a TFDS text data set, for a data-parallel mesh of accelerators.

jaxlm train --config=configs/t5_small.py --config.source.path=my_texts/ --workdir=runs/t5_small
jaxlm train --config=configs/t5_small.py:source=tfds --config.source.dataset=lm1b --workdir=runs/t5_small

Published shape and objective (Raffel et al. 2020, appendix, and the v1.1 checkpoints): 128 rows of 512 source and 114 target positions,
15 % of the tokens in spans of 3, no dropout, Adafactor at 1 / sqrt(step) from step 10,000 on. Differences: the rate rises to
0.01 up to there, where the published one begins with it; the vocabulary is learned here; documents do not run together within a row;
and the published run has 1,000,000 steps. Not measured; no run of this page has been finished.
"""
from jaxlm import build


def get_config(variant: str = ""):
    c = build.defaults(model="t5", objective="denoise", source="text", tokenizer="unigram")
    c.tokenizer.specials = "t5"
    c.tokenizer.special_tokens = tuple(f"<extra_id_{i}>" for i in range(100))
    c.tokenizer.vocab_size = 32_128
    c.data.source_len = 512
    c.data.seq_len = 114
    c.data.holdout = 0.005

    c.objective.z_loss = 1e-4

    c.model.layers = 8
    c.model.heads = 6
    c.model.head_dim = 64
    c.model.embed = 512
    c.model.mlp = 1024
    c.model.gated = True
    c.model.activation = "gelu_tanh"
    c.model.tie_embeddings = False
    c.model.logit_scale = False
    c.model.embed_dropout = 0.0
    c.model.attention_dropout = 0.0
    c.model.residual_dropout = 0.0
    c.model.mlp_dropout = 0.0
    c.model.dtype = "bfloat16"

    c.train.steps = 100_000
    c.train.batch_size = 128
    c.train.sample_tokens = 0
    c.train.baseline = ""
    c.eval.every = 5000
    c.eval.batches = 64
    c.checkpoints.every = 5000

    c.optimizer.name = "adafactor"
    c.optimizer.lr = 1e-2
    c.optimizer.weight_decay = 0.0
    c.optimizer.clip_norm = 0.0
    c.schedule.name = "rsqrt"
    c.schedule.warmup = 10_000
    c.schedule.timescale = 10_000
    c.rules = "fsdp"
    c.mesh.data = 1
    c.mesh.fsdp = -1
    return build.variant(c, variant)

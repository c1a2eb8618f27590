# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A Llama-like 1.2B decoder (the shape of Llama 3.2 1B) for a small TPU or GPU slice.

jaxlm train --config=configs/llama_1b.py --config.source.path=my_texts/ --config.tokenizer.path=tokenizer.json \
    --workdir=runs/llama_1b
"""
from jaxlm import build


def get_config(variant: str = ""):
    c = build.defaults(model="llama", objective="causal_lm", source="text", tokenizer="file")
    c.tokenizer.path = "tokenizer.json"
    c.data.seq_len = 4096
    c.data.holdout = 0.005

    c.model.layers = 16
    c.model.embed = 2048
    c.model.heads = 32
    c.model.kv_heads = 8
    c.model.head_dim = 64
    c.model.mlp = 8192
    c.model.max_len = 4096
    c.model.rope_theta = 500_000.0
    c.model.tie_embeddings = True
    c.model.dtype = "bfloat16"
    c.model.remat = "dots"
    c.objective.chunks = 8  # the logits of 128k tokens of vocabulary never exist at once
    c.objective.z_loss = 1e-4

    c.train.steps = 50_000
    c.train.batch_size = 256
    c.eval.every = 2000
    c.eval.batches = 8
    c.checkpoints.every = 1000

    c.optimizer.lr = 4e-4
    c.optimizer.b2 = 0.95
    c.optimizer.weight_decay = 0.1
    c.schedule.name = "wsd"
    c.schedule.warmup = 2000
    c.rules = "fsdp"
    c.mesh.data = 1
    c.mesh.fsdp = -1
    return build.variant(c, variant)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Llama 3 8B for a pod: parameters split over every device, layers over four.

jaxlm train --config=configs/llama_8b.py --config.source.path=my_texts/ --config.tokenizer.path=tokenizer.json \
    --workdir=runs/llama_8b
Plan without hardware: jaxlm inspect --config=configs/llama_8b.py --config.source.path=my_texts/ --devices=64
Published shape: Llama 3 (Dubey et al. 2024), table 3.
"""
from jaxlm import build


def get_config(variant: str = ""):
    c = build.defaults(model="llama", objective="causal_lm", source="text", tokenizer="file")
    c.tokenizer.path = "tokenizer.json"
    c.data.seq_len = 8192
    c.data.holdout = 0.001

    c.model.vocab_size = 128_256
    c.model.layers = 32
    c.model.embed = 4096
    c.model.heads = 32
    c.model.kv_heads = 8
    c.model.head_dim = 128
    c.model.mlp = 14_336
    c.model.max_len = 8192
    c.model.rope_theta = 500_000.0
    c.model.tie_embeddings = False
    c.model.dtype = "bfloat16"
    c.model.remat = "full"
    c.objective.chunks = 16

    c.train.steps = 100_000
    c.train.batch_size = 512
    c.eval.every = 2000
    c.eval.batches = 8
    c.checkpoints.every = 500

    c.optimizer.lr = 3e-4
    c.optimizer.b2 = 0.95
    c.optimizer.weight_decay = 0.1
    c.schedule.name = "cosine"
    c.schedule.warmup = 8000
    c.rules = "fsdp_tp"
    c.mesh.data = 1
    c.mesh.fsdp = -1
    c.mesh.tensor = 4
    return build.variant(c, variant)

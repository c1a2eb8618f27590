# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Mixtral 8x7B for a pod: 8 experts a layer of which a token uses 2, split over four devices, the rest over all.

jaxlm train --config=configs/mixtral_8x7b.py --config.source.path=my_texts/ --config.tokenizer.path=tokenizer.json \
    --workdir=runs/mixtral_8x7b
Plan without hardware: jaxlm inspect --config=configs/mixtral_8x7b.py --config.source.path=my_texts/ --devices=64
(46.7B parameters, 12.9B of them active)
Published shape and balance coefficient: Mixtral of Experts (Jiang et al. 2024), table 1, and its config.json. How it was
trained was not published: optimizer and schedule are those of configs/llama_8b.py.
"""
from jaxlm import build


def get_config(variant: str = ""):
    c = build.defaults(model="llama", objective="causal_lm", source="text", tokenizer="file")
    c.tokenizer.path = "tokenizer.json"
    c.data.seq_len = 8192
    c.data.holdout = 0.001

    c.model.vocab_size = 32_000
    c.model.layers = 32
    c.model.embed = 4096
    c.model.heads = 32
    c.model.kv_heads = 8
    c.model.head_dim = 128
    c.model.mlp = 14_336
    c.model.experts = 8
    c.model.experts_per_token = 2
    c.model.router_aux = 0.02
    c.model.max_len = 32_768
    c.model.rope_theta = 1_000_000.0
    c.model.tie_embeddings = False
    c.model.dtype = "bfloat16"
    c.model.remat = "full"
    c.objective.chunks = 8

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
    c.rules = "fsdp"
    c.mesh.data = 1
    c.mesh.fsdp = -1
    c.mesh.expert = 4
    return build.variant(c, variant)

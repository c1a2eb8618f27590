# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""GPT-2 small (124M) on your own text or a TFDS text data set, for one accelerator or a data-parallel mesh.

jaxlm train --config=configs/gpt_small.py --config.source.path=my_texts/ --workdir=runs/gpt_small
jaxlm train --config=configs/gpt_small.py:source=tfds --config.source.dataset=lm1b --workdir=runs/gpt_small

Cost: 0.86 GFLOPs a token at 1,024 tokens, so 2.6e17 FLOPs for these 10,000 updates of 30k tokens: hours on one GPU.
Published shape: Radford et al. 2019; optimizer settings: Brown et al. 2020, table 2.1 and appendix B.
"""
from jaxlm import build


def get_config(variant: str = ""):
    c = build.defaults(model="gpt", objective="causal_lm", source="text", tokenizer="bpe")
    c.tokenizer.vocab_size = 50304  # a multiple of 128, for matrix units and tensor parallelism
    c.data.seq_len = 1024
    c.data.holdout = 0.005

    c.model.layers = 12
    c.model.embed = 768
    c.model.heads = 12
    c.model.max_len = 1024
    c.model.dtype = "bfloat16"

    c.train.steps = 10_000
    c.train.batch_size = 32
    c.eval.every = 1000
    c.eval.batches = 64
    c.checkpoints.every = 1000

    c.optimizer.lr = 6e-4
    c.optimizer.b2 = 0.95
    c.optimizer.weight_decay = 0.1
    c.schedule.name = "cosine"
    c.schedule.warmup = 500
    c.rules = "fsdp"
    c.mesh.data = 1
    c.mesh.fsdp = -1
    return build.variant(c, variant)

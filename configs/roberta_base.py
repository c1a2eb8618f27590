# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""RoBERTa base (125M): masked tokens alone, in rows of 512 of one document (the paper's DOC-SENTENCES).

jaxlm train --config=configs/roberta_base.py --config.source.path=my_texts/ --workdir=runs/roberta_base

Text: a document a file; a sentence ends at its full stop (data.sentences="line" where each has its own line).
Cost: 602 MFLOPs a token, and so 1.3e21 FLOPs for these 500,000 updates of 4.2M tokens: a pod for days.
Published shape and settings: Liu et al. 2019, section 4.2 and table 9.
"""
from jaxlm import build


def get_config(variant: str = ""):
    c = build.defaults(model="bert", objective="mlm", source="text", tokenizer="bpe")
    c.tokenizer.vocab_size = 50_265
    c.tokenizer.special_tokens = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    c.data.packing = "sentences"
    c.data.sentences = "text"
    c.data.seq_len = 512
    c.data.holdout = 0.002

    c.model.layers = 12
    c.model.embed = 768
    c.model.heads = 12
    c.model.max_len = 512
    c.model.types = 1
    c.model.position_offset = 2
    c.model.norm_eps = 1e-5
    c.model.pooler = False
    c.model.pair_head = False
    c.model.dtype = "bfloat16"

    c.train.steps = 500_000
    c.train.batch_size = 8192
    c.train.accumulate = 8
    c.train.log_every = 100
    c.eval.every = 5000
    c.eval.batches = 8
    c.eval.batch_size = 1024
    c.checkpoints.every = 2500

    c.optimizer.name = "adamw"
    c.optimizer.lr = 6e-4
    c.optimizer.b2 = 0.98
    c.optimizer.eps = 1e-6
    c.optimizer.weight_decay = 0.01
    c.optimizer.decay = r"(kernel|tokens|positions|types)$"  # all but biases and norms
    c.optimizer.clip_norm = 0.0
    c.schedule.name = "linear"
    c.schedule.warmup = 24_000
    c.schedule.final = 0.0
    c.rules = "fsdp"
    c.mesh.data = 1
    c.mesh.fsdp = -1
    return build.variant(c, variant)

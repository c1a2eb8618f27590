# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A shape as a config of jaxlm, and its random tokens as a corpus: what both jaxlm contenders start from."""
import pathlib

import numpy as np

from benchmarks import data, drawn
from benchmarks.job import Job
from jaxlm import build
from jaxlm.checkpoints.hf import families, table
from jaxlm.cli import experiment as experiments
from jaxlm.core import tree
from jaxlm.data import corpus

# As Hugging Face calls the families of shapes.
MODEL_TYPES = {"gpt": "gpt2"}
# Where the optimizer's default does not decay what every other contender does: all matrices but the positions of GPT-2.
DECAYED = {"bert": r"(kernel|tokens|positions|types)$"}


def config(job: Job):
    """What `jaxlm train` would be given: the model's own defaults but for the shape, the optimizer, the type and dropout."""
    s, c = job.shape, drawn.config(job.shape)
    c.model.vocab_size, c.model.layers, c.model.embed, c.model.heads, c.model.mlp = s.vocab, s.layers, s.embed, s.heads, s.hidden
    c.model.dtype, c.model.remat = job.dtype, s.remat
    c.model.scan = job.option.get("scan", False)
    if s.family == "t5":
        c.model.head_dim = s.head_dim
    else:
        c.model.max_len = s.length
    if s.family == "bert":
        c.model.pooler = c.model.pair_head = False
    else:
        c.model.tie_embeddings = s.tied
    if s.family == "llama":
        c.model.kv_heads = s.keys
    for rate in ("embed_dropout", "attention_dropout", "residual_dropout", "mlp_dropout"):
        if rate in c.model:
            c.model[rate] = s.dropout
    c.train.steps, c.train.batch_size, c.train.accumulate = 10**9, s.batch, s.accumulate
    c.optimizer.lr, c.optimizer.weight_decay, c.optimizer.clip_norm = job.lr, job.weight_decay, job.clip
    c.optimizer.b1, c.optimizer.b2, c.optimizer.eps = job.b1, job.b2, job.eps
    c.optimizer.decay = DECAYED.get(s.family, c.optimizer.decay)
    c.optimizer.moment_dtype = job.option.get("moment_dtype", "float32")
    c.schedule.name, c.schedule.warmup = "constant", 0
    c.eval.every = c.checkpoints.every = 0
    build.validate(c)
    return c


def text(job: Job) -> corpus.Corpus:
    """The stream of tokens as a corpus of one document."""
    stream = np.load(job.path / "tokens.npy")
    plan = drawn.plan(job.shape, build.section(drawn.config(job.shape), "objective"), stream)
    return corpus.Corpus(plan, None, plan.store, None, {})


def state(job: Job, run: experiments.Experiment):
    """The state from the exported weights, or fresh where there are none."""
    if not job.has_weights:
        return run.init({})
    return run.init(tree.flatten(params(job, run.target.params)))


def params(job: Job, target):
    """The exported weights as parameters like `target`."""
    family = job.shape.family
    form = families.form({"model_type": MODEL_TYPES.get(family, family)}, tree.paths(target))
    return table.to_params(data.weights(job.path), form, target)


def scratch(job: Job) -> pathlib.Path:
    return pathlib.Path(job.scratch) / "run"

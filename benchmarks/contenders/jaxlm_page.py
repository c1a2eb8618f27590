# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A shape as a config of jaxlm, and its random tokens as a corpus: what both jaxlm contenders start from."""
import pathlib

import numpy as np

from benchmarks import data
from benchmarks.job import Job
from jaxlm import build
from jaxlm.checkpoints.hf import families, table
from jaxlm.cli import experiment as experiments
from jaxlm.core import tree
from jaxlm.data import corpus, pack, store

# As Hugging Face calls the families of shapes.
MODEL_TYPES = {"gpt": "gpt2", "llama": "llama"}


def config(job: Job):
    """What `jaxlm train` would be given: the model's own defaults but for the shape, the optimizer and the type."""
    s = job.shape
    c = build.defaults(model=s.family, objective="causal_lm", source="text", tokenizer="byte")
    c.source.path = "unused"
    c.model.vocab_size, c.model.layers, c.model.embed, c.model.heads, c.model.mlp = s.vocab, s.layers, s.embed, s.heads, s.hidden
    c.model.max_len = c.data.seq_len = s.length
    c.model.dtype, c.model.tie_embeddings, c.model.remat = job.dtype, s.tied, s.remat
    c.model.scan = job.option.get("scan", False)
    if s.family == "llama":
        c.model.kv_heads = s.keys
    c.data.shuffle, c.data.holdout = False, 0.0
    c.objective.chunks = s.chunks
    c.train.steps, c.train.batch_size, c.train.accumulate = 10**9, s.batch, s.accumulate
    c.optimizer.lr, c.optimizer.weight_decay, c.optimizer.clip_norm = job.lr, job.weight_decay, job.clip
    c.optimizer.b1, c.optimizer.b2, c.optimizer.eps = job.b1, job.b2, job.eps
    c.optimizer.moment_dtype = job.option.get("moment_dtype", "float32")
    c.schedule.name, c.schedule.warmup = "constant", 0
    c.eval.every = c.checkpoints.every = 0
    build.validate(c)
    return c


def text(job: Job) -> corpus.Corpus:
    """The stream of tokens as one document: row i is tokens [i L, i L + L], as for every other contender."""
    stream = np.load(job.path / "tokens.npy")
    held = store.Store(stream, np.array([0, len(stream) - 1]), np.array([len(stream)]), 0)
    return corpus.Corpus(pack.Windows(held, job.shape.length, drop_last=True), None, held, None, {})


def state(job: Job, run: experiments.Experiment):
    """The state from the exported weights, or fresh where there are none."""
    if not job.has_weights:
        return run.init({})
    return run.init(tree.flatten(params(job, run.target.params)))


def params(job: Job, target):
    """The exported weights as parameters like `target`."""
    form = families.form({"model_type": MODEL_TYPES[job.shape.family]}, tree.paths(target))
    return table.to_params(data.weights(job.path), form, target)


def scratch(job: Job) -> pathlib.Path:
    return pathlib.Path(job.scratch) / "run"

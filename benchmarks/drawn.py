# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What jaxlm's own pipeline makes of the stream of tokens for objectives that draw: the same masks and spans for every contender."""
import dataclasses

import numpy as np

from benchmarks.data import MASK, SENTINELS
from benchmarks.shapes import Shape
from jaxlm import build
from jaxlm.core.types import Vocabulary
from jaxlm.data import pack, pipeline, sampler, store, texts

OBJECTIVES = {"bert": "mlm", "t5": "denoise"}
FIELDS = {"bert": ("tokens", "predict", "targets", "weights"), "t5": ("source_tokens", "tokens", "targets", "weights")}


def config(s: Shape):
    """The parts of a config that say what is read: objective and data."""
    c = build.defaults(model=s.family, objective=OBJECTIVES.get(s.family, "causal_lm"), source="text", tokenizer="byte")
    c.source.path = "unused"
    c.data.seq_len, c.data.source_len = s.length, s.source
    c.data.shuffle, c.data.holdout = False, 0.0
    if s.family == "bert":
        c.objective.predictions = s.predictions
    else:
        c.objective.chunks = s.chunks
    return c


def vocabulary(s: Shape) -> Vocabulary:
    """Ids that objectives ask for: data.MASK and data.SENTINELS have a meaning, and 0 ends a text and begins a target."""
    bare = Vocabulary.bare(s.vocab)
    return dataclasses.replace(bare, mask=MASK, sentinels=tuple(SENTINELS)) if s.drawn else bare


def held(stream: np.ndarray) -> store.Store:
    """The stream as one document: row i of a decoder is tokens [i L, i L + L], as for every other contender."""
    return store.Store(stream, np.array([0, len(stream) - 1]), np.array([len(stream)]), 0)


def plan(s: Shape, objective, stream: np.ndarray):
    """The rows of the stream; objective: the section of a config."""
    if s.family == "t5":
        return texts.Texts(held(stream), s.length, s.source, objective.sizes, cut=True)
    return pack.Windows(held(stream), s.length, drop_last=True)


def size(s: Shape, rows: int) -> int:
    """Tokens of a stream that fills so many rows, with what separates documents."""
    if s.family == "t5":
        return rows * build.section(config(s), "objective").lengths(s.source)[0] + 2
    return rows * s.length + 1


def batches(s: Shape, stream: np.ndarray, count: int) -> list[tuple[np.ndarray, ...]]:
    """FIELDS of the first batches of a run of seed 0."""
    c = config(s)
    objective = build.build(c, "objective", vocabulary(s))
    source = sampler.Sampler(plan(s, build.section(c, "objective"), stream), s.batch, 0, shuffle=False)
    made = [pipeline.make(source, objective.prepare, step) for step in range(count)]
    if not all((batch[name] > 0).all() for batch in made for name in batch if name.endswith("segments")):
        raise ValueError(f"rows of {s} have padding, which other contenders do not mask: choose a length that texts fill")
    return [tuple(batch[name] for name in FIELDS[s.family]) for batch in made]

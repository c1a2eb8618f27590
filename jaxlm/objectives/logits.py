# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The formulation of a loss over the vocabulary that suits the program being traced, and the layout."""
from jaxlm.core.types import Array
from jaxlm.parallel import compiler, place


def form() -> str:
    """A name of ops.loss.FORMS."""
    if place.splits("seq"):
        return "apart"
    if place.platform() != "cpu" or not place.alone():
        return "flat"
    return "library" if compiler.library() else "cpu"


def own(x: Array) -> Array:
    """Table or bias [V, ...] as `cross_entropy` takes it in chunks: [parts of rows, parts of positions, V, ...]."""
    acts, stored = ("act_vocab", None), ("vocab", "embed")
    return place.copies(x, ("batch", "seq"), acts[:x.ndim], stored[:x.ndim])

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The formulation of a loss over the vocabulary that suits the program being traced."""
from jaxlm.parallel import compiler, place


def form() -> str:
    """A name of ops.loss.FORMS."""
    if place.splits("seq"):
        return "apart"
    if place.platform() != "cpu" or not place.alone():
        return "flat"
    return "library" if compiler.library() else "cpu"

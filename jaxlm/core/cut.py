# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What the code that computes a part of a batch has to know of the whole: where the part's rows begin in it."""
import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import jax

_ALONG: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("jaxlm_cut", default=())


@contextlib.contextmanager
def along(axes: tuple[str, ...]) -> Iterator[None]:
    """Trace what is inside jax.shard_map over these mesh axes, which cut a batch into equal parts of rows, the first of them outermost."""
    token = _ALONG.set(axes)
    try:
        yield
    finally:
        _ALONG.reset(token)


def rows_before(rows: int) -> jax.Array | int:
    """How many rows of the batch come before those of this part, which has `rows`; the number 0 where nothing is cut."""
    axes = _ALONG.get()
    return jax.lax.axis_index(axes) * rows if axes else 0


def total(sums: Any) -> Any:
    """Sums of this part (any tree of arrays), added up over all parts of the batch; every part gets them."""
    axes = _ALONG.get()
    return jax.lax.psum(sums, axes) if axes else sums

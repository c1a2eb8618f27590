# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What the code that computes a part of a batch has to know of the whole: where the part's rows begin in it, and sums over all rows."""
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


def whole() -> bool:
    """Whether nothing is cut."""
    return not _ALONG.get()


def rows_before(rows: int) -> jax.Array | int:
    """How many rows of the batch come before those of this part, which has `rows`; the number 0 where nothing is cut."""
    return 0 if whole() else jax.lax.axis_index(_ALONG.get()) * rows


def total(sums: Any) -> Any:
    """Sums of this part (any tree of arrays), added up over all parts of the batch; every part gets them."""
    return sums if whole() else jax.lax.psum(sums, _ALONG.get())


def largest(x: jax.Array) -> jax.Array:
    """The largest of all parts' x, element by element; every part gets it."""
    return x if whole() else jax.lax.pmax(x, _ALONG.get())

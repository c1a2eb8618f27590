# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Who may see whom, as a value: small enough to travel to a kernel, and made dense only where a formulation needs it.

Letters: B rows, T queries, S keys.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Mask:
    """Which keys a query sees. Queries and keys are compared by their slot numbers, which are counts unless given."""

    causal: bool = True
    # 0 = none. Causal: a query sees the keys with 0 <= q - k < window; otherwise |q - k| < window. May be traced, so
    # that a scanned layer brings its own.
    window: int | Array = 0
    prefix: Array | None = None  # int32 [B]: the first slots of a row, which every query of that row sees
    q_segments: Array | None = None  # int32 [B, T]; a query sees only keys of its own segment
    k_segments: Array | None = None  # int32 [B, S]
    q_index: Array | None = None  # int32 [T] or [B, T], slot numbers
    k_index: Array | None = None  # int32 [S] or [B, S]


def dense(mask: Mask, queries: int, keys: int) -> Array:
    """The mask as booleans [B or 1, 1, T, S], True where seen."""
    q = index(mask.q_index, queries)[:, None, :, None]
    k = index(mask.k_index, keys)[:, None, None, :]
    seen = None
    if mask.causal:
        seen = q >= k
    window = mask.window
    if not isinstance(window, int) or window:
        near = q - k < window
        if not mask.causal:
            near &= k - q < window
        if not isinstance(window, int):
            near |= window <= 0
        seen = near if seen is None else seen & near
    if mask.prefix is not None and seen is not None:
        seen |= k < mask.prefix[:, None, None, None]
    if mask.q_segments is not None:
        same = mask.q_segments[:, None, :, None] == mask.k_segments[:, None, None, :]
        seen = same if seen is None else seen & same
    return jnp.ones((1, 1, queries, keys), bool) if seen is None else seen


def index(index: Array | None, size: int) -> Array:
    """Slot numbers [B or 1, size]; an iota and not an arange, so that a symbolic length exports."""
    if index is None:
        return lax.broadcasted_iota(jnp.int32, (1, size), 1)
    return index[None] if index.ndim == 1 else index

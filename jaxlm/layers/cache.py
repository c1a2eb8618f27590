# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The decoding cache as plain arrays, and what a batch means with and without one.

Letters: B rows, T positions of this call, S slots, K key/value heads, H size of a head.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxlm.core.types import Array, Batch
from jaxlm.ops.masks import Mask
from jaxlm.parallel.place import constrain

Cache = dict[str, Any]


def empty(layers: int, rows: int, length: int, kv_heads: int, head_dim: int, dtype: str, source: int = 0) -> Cache:
    """k, v [layers, B, S, K, H]; segments [B, S], 0 = empty or padding; positions [B, S]; index, the next free slot.

    After `rewind` the index is [B]: each row has its own. source: positions of an encoder-decoder's source; then there is
    `source` too, with k and v of its S and their segments.
    """
    # New buffers each time: a caller that donates its cache must not give the same one away twice.
    new = lambda slots: constrain(
        jnp.zeros((layers, rows, slots, kv_heads, head_dim), dtype), "layers", "batch", None, "act_kv_heads", None
    )
    ids = lambda slots: constrain(jnp.zeros((rows, slots), jnp.int32), "batch", None)
    out = {"k": new(length), "v": new(length), "segments": ids(length), "positions": ids(length), "index": jnp.zeros((), jnp.int32)}
    return {**out, "source": {"k": new(source), "v": new(source), "segments": ids(source)}} if source else out


def rewind(cache: Cache, counts: Array) -> Cache:
    """The cache without the last counts [B] slots of each row: they are free again, and no query sees a free slot."""
    return {**cache, "index": jnp.broadcast_to(cache["index"], counts.shape) - counts}


def _write(old: Array, new: Array, index: Array) -> Array:
    """old [B, S, ...] with new [B, T, ...] at the index, one for all rows or one for each."""
    new = new.astype(old.dtype)
    if index.ndim == 0:
        return lax.dynamic_update_slice_in_dim(old, new, index, 1)
    return jax.vmap(lambda old, new, at: lax.dynamic_update_slice_in_dim(old, new, at, 0))(old, new, index)


@dataclasses.dataclass(frozen=True)
class View:
    """One layer's part of the stored keys and values, during a call; the store is carried whole, updated in place."""

    store: dict[str, Array]
    layer: Any  # int or traced
    index: Array

    def extend(self, k: Array, v: Array) -> tuple[Array, Array, dict[str, Array]]:
        """This layer's keys and values [B, S, K, H] with k, v [B, T, K, H] written at the index, and the new store."""
        out, layer = {}, lambda x: lax.dynamic_index_in_dim(x, self.layer, 0, keepdims=False)
        for name, new in (("k", k), ("v", v)):
            old = self.store[name]
            if self.index.ndim:
                out[name] = lax.dynamic_update_index_in_dim(old, _write(layer(old), new, self.index), self.layer, 0)
            else:
                out[name] = lax.dynamic_update_slice(old, new[None].astype(old.dtype), (self.layer, 0, self.index, 0, 0))
        return layer(out["k"]), layer(out["v"]), out


@dataclasses.dataclass(frozen=True)
class Span:
    """What one call sees of its sequences: the batch's own positions, or those appended to a cache."""

    positions: Array  # int32 [B, T]
    mask: Mask
    index: Array | None = None  # the slot where this call begins; None without a cache
    store: dict[str, Array] | None = None  # k and v, which the layers fill
    rest: dict[str, Array] | None = None  # the other entries, already past this call

    def view(self, store: dict[str, Array] | None, layer: Any) -> View | None:
        """What one layer needs of the store; None without a cache."""
        return None if store is None else View(store, layer, self.index)

    def cache(self, store: dict[str, Array] | None) -> Cache | None:
        """The cache after this call, from the layers' keys and values."""
        return None if store is None else {**store, **self.rest}


def span(batch: Batch, cache: Cache | None, causal: bool = True) -> Span:
    """Segments default to all 1 and positions to counting on; with a cache, T slots are appended at its index.

    A query sees the slots up to its own whose segment is its own, so that unequal prompts are padded on the left with
    segment 0. The caller keeps index + T within the cache's length; beyond it the last slots would be overwritten.
    """
    tokens = batch["tokens"]
    index = None if cache is None else cache["index"]
    positions = batch.get("positions")
    if positions is None:
        positions = lax.broadcasted_iota(jnp.int32, tokens.shape, 1)
        positions = positions if index is None else positions + index.reshape(-1, 1)
    segments = batch.get("segments")
    if cache is None:
        return Span(positions, Mask(causal, q_segments=segments, k_segments=segments))
    if segments is None:
        segments = jnp.ones(tokens.shape, jnp.int32)
    # One row's own slot is every row's: written in place, where the slots of several rows are scattered over a copy.
    at = index.reshape(()) if index.shape == (1,) else index
    write = lambda old, new: _write(old, new, at)
    seen = write(cache["segments"], segments)
    rest = {"segments": seen, "positions": write(cache["positions"], positions), "index": index + tokens.shape[1]}
    slots = lax.broadcasted_iota(jnp.int32, (*at.shape, tokens.shape[1]), at.ndim) + jnp.expand_dims(at, -1)
    mask = Mask(causal, q_segments=segments, k_segments=seen, q_index=slots)
    return Span(positions, mask, at, {"k": cache["k"], "v": cache["v"]}, rest)

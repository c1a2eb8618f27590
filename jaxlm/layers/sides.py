# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The two sides of an encoder-decoder: a stack that reads the source both ways, and one that looks at what that gave.

Letters: B rows, T positions of the decoder, S of the source, D features, K key/value heads, H size of a head.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.errors import UserError
from jaxlm.core.types import Array, Batch
from jaxlm.layers import cache as caches
from jaxlm.layers import stack
from jaxlm.ops.masks import Mask


def source(batch: Batch, cache: caches.Cache | None) -> Batch | None:
    """The encoder's side of a batch under the names of a decoder's; None where the cache holds what was read of it.

    UserError when there is neither, ValueError when the cache has room for another length.
    """
    if "source_tokens" in batch:
        length = batch["source_tokens"].shape[1]
        if cache is not None and cache["source"]["segments"].shape[1] != length:
            raise ValueError(f"a source of {length} positions and a cache with room for {cache['source']['segments'].shape[1]}")
        return {name.removeprefix("source_"): x for name, x in batch.items() if name.startswith("source_")}
    if cache is None:
        raise UserError("this model reads a source and the batch has no source_tokens: take an objective that gives one, such as "
                        "objective=seq2seq, or a decoder, such as model=gpt")
    return None


def encode(blocks: nnx.Module, x: Array, read: Batch, *, layers: int, run: dict[str, Any], key: Array | None, **attention: Any) -> Array:
    """x [B, S, D] through the encoder's layers. run: how (scan, remat), as in stack.run; the rest goes to attention."""
    mask = caches.span(read, None, causal=False).mask
    with jax.named_scope("encoder"):
        return stack.run(blocks, x, lambda block, x, layer, key, _: (block(x, mask, key=key, **attention)[0], None), layers=layers,
                         key=key, **run)[0]


@dataclasses.dataclass(frozen=True)
class Memory:
    """What a decoder sees of its source: the encoder's output, or each layer's keys and values of it, made before."""

    mask: Mask
    segments: Array  # int32 [B, S]
    hidden: Array | None = None  # [B, S, D]
    keys: dict[str, Array] | None = None  # k, v [layers, B, S, K, H]


def memory(batch: Batch, read: Batch | None, hidden: Array | None, cache: caches.Cache | None) -> Memory:
    """Of a source that was read now (its batch and the encoder's output), or else of the cache."""
    tokens = batch["tokens"]
    ones = lambda like: jnp.ones(like.shape, jnp.int32)
    stored = cache["source"] if read is None else None
    seen = stored["segments"] if read is None else read.get("segments", ones(read["tokens"]))
    mask = Mask(causal=False, q_segments=batch.get("segments", ones(tokens)), k_segments=seen)
    return Memory(mask, seen, hidden, None if stored is None else {"k": stored["k"], "v": stored["v"]})


def decode(blocks: nnx.Module, x: Array, span: caches.Span, memory: Memory, cache: caches.Cache | None, *, layers: int,
           run: dict[str, Any], key: Array | None, **attention: Any) -> tuple[Array, caches.Cache | None]:
    """x [B, T, D] through the decoder's layers, and the cache after them (None without one).

    Keys and values of a source that was read now are kept in the cache, in the place of those it had.
    """
    fresh = cache is not None and memory.keys is None

    def call(block, carry, layer, key, inputs):
        x, store = carry
        keys = block.cross.keys(memory.hidden) if memory.keys is None else (inputs["k"], inputs["v"])
        x, store = block(x, span.mask, cache=span.view(store, layer), key=key, source=keys, source_mask=memory.mask, **attention)
        return (x, store), keys if fresh else None

    with jax.named_scope("decoder"):
        (x, store), keys = stack.run(blocks, (x, span.store), call, layers=layers, key=key, inputs=memory.keys, **run)
    if cache is None:
        return x, None
    if not fresh:
        return x, {**span.cache(store), "source": cache["source"]}
    k, v = (new.astype(old.dtype) for new, old in zip(keys, (cache["source"]["k"], cache["source"]["v"]), strict=True))
    return x, {**span.cache(store), "source": {"k": k, "v": v, "segments": memory.segments}}

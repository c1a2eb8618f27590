# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Buckets of distances between a query and a key (Raffel et al. 2020): near ones are told apart, far ones by their logarithm."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


@functools.cache
def table(count: int, furthest: int, both_ways: bool) -> np.ndarray:
    """int32 [2 * furthest + 1]: the bucket of key - query = -furthest .. furthest.

    both_ways: the upper half of the buckets is of keys that come after. Otherwise those are in the bucket of distance 0.
    On the host: whether a distance falls below an edge must not depend on a platform's logarithm.
    """
    distance = np.arange(-furthest, furthest + 1)
    size = count // 2 if both_ways else count
    after = np.where(distance > 0, size, 0) if both_ways else 0
    apart = np.abs(distance) if both_ways else np.maximum(-distance, 0)
    single = size // 2
    ratio = np.log(np.maximum(apart, single).astype(np.float32) / np.float32(single)) / np.float32(np.log(furthest / single))
    far = np.minimum(single + (ratio * np.float32(size - single)).astype(np.int32), size - 1)
    return (after + np.where(apart < single, apart, far)).astype(np.int32)


def buckets(distance: Array, count: int, furthest: int, both_ways: bool) -> Array:
    """int32, the bucket in 0 .. count - 1 of each distance = key - query."""
    return jnp.take(jnp.asarray(table(count, furthest, both_ways)), jnp.clip(distance, -furthest, furthest) + furthest)

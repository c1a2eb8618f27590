# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A 32-bit sum over all bits of an array, computed where the array lives and the same on any mesh.

Orbax stores large chunks without a checksum: a flipped bit on disk would come back as a different weight.
"""
import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.types import Array


def _one(x: Array) -> Array:
    """sum of word[i] * (2 i + 1) modulo 2**32: one changed word always changes it, more almost always."""
    x = x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x
    bits = jax.dtypes.itemsize_bits(x.dtype)
    words = jax.lax.bitcast_convert_type(x, jnp.uint32 if bits >= 32 else jnp.dtype(f"uint{bits}")).astype(jnp.uint32)
    index = jnp.zeros((), jnp.uint32)
    stride = 1
    for axis in reversed(range(words.ndim)):
        place = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride % 2**32)
        index = index + place if index.ndim else place
        stride *= words.shape[axis]
    # Modular sums of integers do not depend on their order, hence not on how the array is split.
    return jnp.sum(words * (2 * index + 1), dtype=jnp.uint32)


@jax.jit
def _all(leaves: list[Array]) -> Array:
    return jnp.stack([_one(x) for x in leaves])


def digests(leaves: dict[str, Array]) -> dict[str, int]:
    """{path: digest} of arrays that live on one set of devices."""
    if not leaves:
        return {}
    sums = jax.device_get(_all(list(leaves.values())))
    return dict(zip(leaves, np.asarray(sums).tolist(), strict=True))

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A 32-bit sum over all bits of an array, computed where the array lives and the same on any mesh.

Orbax stores large chunks without a checksum: a flipped bit on disk would come back as a different weight.
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.types import Array

# Parts in which an array on one CPU is summed: element-wise first, where XLA:CPU adds a long sum up one number after another
# (1.5 GB on two cores: 0.53 s, in 8 parts 0.09, in 16 and in 64 0.39). Of fewer numbers it is one sum.
_PARTS, _LEAST = 8, 1 << 16


def _words(x: Array) -> Array:
    """The bits of each number, as uint32."""
    x = x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x
    bits = jax.dtypes.itemsize_bits(x.dtype)
    return jax.lax.bitcast_convert_type(x, jnp.uint32 if bits >= 32 else jnp.dtype(f"uint{bits}")).astype(jnp.uint32)


def _one(x: Array) -> Array:
    """sum of word[i] * (2 i + 1) modulo 2**32: one changed word always changes it, more almost always."""
    words = _words(x)
    index = jnp.zeros((), jnp.uint32)
    stride = 1
    for axis in reversed(range(words.ndim)):
        place = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride % 2**32)
        index = index + place if index.ndim else place
        stride *= words.shape[axis]
    # Modular sums of integers do not depend on their order, hence not on how the array is split.
    return jnp.sum(words * (2 * index + 1), dtype=jnp.uint32)


def _folded(x: Array) -> Array:
    """The same sum of an array that is whole."""
    words = _words(x).reshape(-1)
    size = words.size // _PARTS
    index = jnp.arange(size, dtype=jnp.uint32)
    part = lambda start, index: words[start : start + len(index)] * (2 * (index + jnp.uint32(start % 2**32)) + 1)
    whole = functools.reduce(jnp.add, [part(i * size, index) for i in range(_PARTS)])
    return jnp.sum(whole, dtype=jnp.uint32) + jnp.sum(part(_PARTS * size, index[: words.size % _PARTS]), dtype=jnp.uint32)


@functools.partial(jax.jit, static_argnums=1)
def _all(leaves: list[Array], whole: bool) -> Array:
    return jnp.stack([(_folded if whole and x.size >= _LEAST else _one)(x) for x in leaves])


def digests(leaves: dict[str, Array]) -> dict[str, int]:
    """{path: digest} of arrays that live on one set of devices."""
    if not leaves:
        return {}
    devices = next(iter(leaves.values())).devices()
    sums = jax.device_get(_all(list(leaves.values()), len(devices) == 1 and next(iter(devices)).platform == "cpu"))
    return dict(zip(leaves, np.asarray(sums).tolist(), strict=True))

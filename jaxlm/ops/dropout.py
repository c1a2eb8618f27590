# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Dropout as a function of a key; no key, no dropout."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.random import threefry2x32_p

from jaxlm.core import cut

Array = jax.Array


def dropout(x: Array, rate: float, key: Array | None, shared: tuple[int, ...] = (), rows: bool = True) -> Array:
    """x with each element zeroed with probability `rate` and the rest scaled up by 1 / (1 - rate).

    Along the dimensions `shared` all elements have one fate (positions: the locked masks of Gal and Ghahramani 2016).
    rows: the first dimension is rows of the batch; False of weights.
    """
    if key is None or rate == 0.0:
        return x
    shape = tuple(1 if i in shared else n for i, n in enumerate(x.shape))
    return only(x, kept(key, rate, shape, rows), rate)


def only(x: Array, keep: Array, rate: float) -> Array:
    """x where keep is True, scaled up by 1 / (1 - rate), and 0 elsewhere."""
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))


def kept(key: Array, rate: float, shape: tuple[int, ...], rows: bool = True) -> Array:
    """bool of that shape, True with probability 1 - rate, 0 < rate < 1: a function of the key and of an element's indices alone, however
    it is split over devices, the first of them being that in the whole batch where only a part of its rows is computed (core/cut.py).

    The numbers are Threefry's, as jax.random's are, but computed element by element along with what they decide: of
    `jax.random.bernoulli` XLA:CPU makes loops over arrays in memory (2 x 8 x 512 x 512 on two cores of an AMD EPYC: 39 ms and 2.8;
    a step of T5 small with dropout compiles in 11 s and not in 25).
    """
    words = jax.random.key_data(key)
    if words.shape != (2,):  # of a generator that is not Threefry
        words = jax.random.bits(key, (2,), jnp.uint32)
    shape, wanted = shape or (1,), shape
    first = cut.rows_before(shape[0]) if rows else 0
    index = lambda dimension: lax.broadcasted_iota(jnp.uint32, shape, dimension)
    number = lambda dimension: index(dimension) if dimension or isinstance(first, int) else index(dimension) + first.astype(jnp.uint32)
    last = len(shape) - 1
    row = jnp.zeros(shape, jnp.uint32)
    for dimension in range(last):
        row = row * jnp.uint32(shape[dimension]) + number(dimension)
    # Older XLA:CPUs compute what is fused wherever it is asked for, past every barrier: a fate anew in each pass over a norm's rows.
    draw = threefry if jax.__version_info__ >= (0, 12) else threefry2x32_p.bind
    drawn, _ = draw(words[0], words[1], row, number(last))
    return (drawn < jnp.uint32(min(round((1.0 - rate) * 2**32), 2**32 - 1))).reshape(wanted)


def threefry(key0: Array, key1: Array, x0: Array, x1: Array) -> tuple[Array, Array]:
    """Threefry-2x32 in 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): two random words, uint32 as
    all arguments, of a key of two and of each pair of counters."""
    keys = (key0, key1, key0 ^ key1 ^ jnp.uint32(0x1BD11BDA))
    x0, x1 = x0 + key0, x1 + key1
    for turn in range(5):
        for by in ((13, 15, 26, 6), (17, 29, 16, 24))[turn % 2]:
            x0 = x0 + x1
            x1 = x0 ^ ((x1 << jnp.uint32(by)) | (x1 >> jnp.uint32(32 - by)))
        x0, x1 = x0 + keys[(turn + 1) % 3], x1 + keys[(turn + 2) % 3] + jnp.uint32(turn + 1)
    return x0, x1

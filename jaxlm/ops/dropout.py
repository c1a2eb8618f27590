# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Dropout as a function of a key; no key, no dropout."""

import jax
import jax.numpy as jnp

Array = jax.Array


def dropout(x: Array, rate: float, key: Array | None, shared: tuple[int, ...] = ()) -> Array:
    """x with each element zeroed with probability `rate` and the rest scaled up by 1 / (1 - rate).

    Along the dimensions `shared` all elements have one fate (positions: the locked masks of Gal and Ghahramani 2016).
    """
    if key is None or rate == 0.0:
        return x
    shape = tuple(1 if i in shared else n for i, n in enumerate(x.shape))
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, shape), x / (1.0 - rate), jnp.zeros((), x.dtype))

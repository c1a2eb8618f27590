# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""One row times a matrix, as decoding one stream does for every weight and token, at the speed at which memory is read.

XLA:CPU gives its libraries products of two rows or more. Of one row it makes a product of float32, for which it converts a
bfloat16 weight into a copy outside the loop over tokens, and reads twice the bytes for every token (24 x 2 weights of
768 x 3072, on two cores with AVX-512: 32 ms and here 9; float32 25 and 16, which is the rate of reading).

Letters: I inputs, O outputs.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

# Blocks of rows of the weight that are added up in one pass, each read in one stream: of 8 and of 32 blocks XLA:CPU makes slower
# code. A sum of blocks is element-wise, so that it is computed along with the products.
BLOCKS = 16
# Below this many numbers starting operations counts, and the product is one operation.
LEAST = 1 << 16
# jaxlib 0.10 converts all blocks of a bfloat16 weight before it cuts one: better once, outside the loop, than for every token.
_CONVERTS_BLOCKS = jax.__version_info__ >= (0, 12)


def suits(inputs: int, outputs: int, dtype: jnp.dtype) -> bool:
    """Whether `times` is worth it for a weight of this size."""
    return dtype in (jnp.float32, jnp.bfloat16) and inputs * outputs >= LEAST and _blocks(inputs) > 3


def times(x: Array, w: Array) -> Array:
    """x [I] times w [I, O] in x's type, [O]; products and sums are float32, rounded once."""
    # Tied to x, which differs from token to token, the weight is read as it is stored: what does not depend on the loop is
    # taken out of it, here its conversion to float32.
    x, w = lax.optimization_barrier((x, w)) if _CONVERTS_BLOCKS else (x, w)
    wide = x.astype(jnp.float32)
    size = len(x) // _blocks(len(x))
    y = _summed([wide[i : i + size, None] * w[i : i + size].astype(jnp.float32) for i in range(0, len(x), size)])
    while (blocks := _blocks(len(y))) > 1:
        size = len(y) // blocks
        y = _summed([y[i : i + size] for i in range(0, len(y), size)])
    return jnp.sum(y, 0).astype(x.dtype)


def _blocks(rows: int) -> int:
    """The most blocks into which that many rows can be cut."""
    return max(n for n in range(1, BLOCKS + 1) if rows % n == 0)


def _summed(blocks: list[Array]) -> Array:
    return functools.reduce(jnp.add, blocks)

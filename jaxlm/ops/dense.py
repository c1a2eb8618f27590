# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Rows times a weight, with the weight's gradient in the form that XLA:CPU's libraries are fast at.

Letters: R rows, K inputs, M outputs.
"""

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

# Parts of the rows that the weight's gradient is summed over as a dimension of its own: without one, XLA folds the
# transposed operand into the product again.
_PARTS = 8


@jax.custom_vjp
def matmul(x: Array, w: Array) -> Array:
    """x [R, K] @ w [K, M], both of one type, in that type."""
    return x @ w


def _backward(saved: tuple[Array, Array], d_y: Array) -> tuple[Array, Array]:
    x, w = saved
    return lax.dot_general(d_y, w, (((1,), (1,)), ((), ()))), _weight(x, d_y)


def _weight(x: Array, d_y: Array) -> Array:
    """[K, M], x [R, K] transposed times d_y [R, M].

    Of a transposed operand oneDNN makes a copy for its tiles at a third of the speed of the product itself, so that in
    bfloat16 the narrower operand is transposed before (3072 rows on one core with AMX, K x M = 384 x 1536: 6.5 -> 4.3 ms;
    transposing the wider one takes 4 to 10 ms). In float32 it gains nothing.
    """
    if x.dtype != jnp.bfloat16 or x.shape[0] % _PARTS:
        return lax.dot_general(x, d_y, (((0,), (0,)), ((), ())))
    if x.shape[1] <= d_y.shape[1]:
        return _transposed_first(x, d_y)
    # Without the barrier the transposed result becomes a product of the transposed wide operand.
    return lax.optimization_barrier(_transposed_first(d_y, x)).T


def _transposed_first(a: Array, b: Array) -> Array:
    cut = lambda x: x.reshape(_PARTS, -1, x.shape[1])
    return lax.dot_general(cut(a), cut(b), (((0, 1), (0, 1)), ((), ())))


matmul.defvjp(lambda x, w: (matmul(x, w), (x, w)), _backward)

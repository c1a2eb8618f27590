# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Rows times a weight, with the weight's gradient in the form that XLA:CPU's libraries are fast at; and float32 of bfloat16.

Letters: R rows, K inputs, M outputs.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

# Parts of the rows that the weight's gradient is summed over as a dimension of its own: without one, XLA folds the
# transposed operand into the product again.
_PARTS = 8
# Float32 numbers of 4096 bytes.
_ALIKE = 1024


@jax.custom_vjp
def matmul(x: Array, w: Array) -> Array:
    """x [R, K] @ w [K, M], both of one type, in that type."""
    return x @ w


def _backward(saved: tuple[Array, Array], d_y: Array) -> tuple[Array, Array]:
    x, w = saved
    return lax.dot_general(d_y, w, (((1,), (1,)), ((), ()))), weight(x, d_y)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def matmul_of(of: Callable[..., Array], x: tuple[Array, ...], w: Array) -> Array:
    """of(*x) @ w, of which the backward pass finds x saved and makes of(*x) again."""
    return of(*x) @ w


def _backward_of(of, saved, d_y):
    # Without the barrier the compiler would find that it has computed this before, and keep it.
    (x, w), d_y = lax.optimization_barrier((saved, d_y))
    made, back = jax.vjp(of, *x)
    d_made, d_w = _backward((made, w), d_y)
    return back(d_made), d_w


def weight(x: Array, d_y: Array) -> Array:
    """[K, M], x [R, K] transposed times d_y [R, M].

    Of a transposed operand oneDNN makes a copy for its tiles at a third of the speed of the product itself, so that in
    bfloat16 the narrower operand is transposed before (3072 rows on one core with AMX, K x M = 384 x 1536: 6.5 -> 4.3 ms;
    transposing the wider one takes 4 to 10 ms). In float32 it gains nothing, but where d_y is a multiple of 1024 wide, of whose
    columns each number has the same place in a cache, oneDNN is half as fast as with x (1024 rows on two cores, K x M = 768 x
    3072: 32 -> 16 ms with the result transposed, 768 x 2304: 12 ms).
    """
    if x.dtype == jnp.float32 and d_y.shape[1] % _ALIKE == 0 and x.shape[1] % _ALIKE:
        return lax.optimization_barrier(weight(d_y, x)).T
    if x.dtype != jnp.bfloat16 or x.shape[0] % _PARTS:
        return lax.dot_general(x, d_y, (((0,), (0,)), ((), ())))
    if x.shape[1] <= d_y.shape[1]:
        return _transposed_first(x, d_y)
    # Without the barrier the transposed result becomes a product of the transposed wide operand.
    return lax.optimization_barrier(_transposed_first(d_y, x)).T


def _transposed_first(a: Array, b: Array) -> Array:
    cut = lambda x: x.reshape(_PARTS, -1, x.shape[1])
    return lax.dot_general(cut(a), cut(b), (((0, 1), (0, 1)), ((), ())))


def wide(a: Array, b: Array, dimensions: tuple, scale: float = 1.0, library: bool = False) -> Array:
    """scale * the product of a and b in float32, whatever their type; dimensions as of lax.dot_general.

    library: the program is compiled with oneDNN's products, and writes float32 of bfloat16 operands where it is asked to in
    the one form that XLA makes such a call of, a product that is converted and multiplied by a constant
    (`parallel.compiler.library`; anywhere else that would be rounded to bfloat16; of products too small for oneDNN XLA leaves
    the rounding out). Asked for float32, XLA:CPU converts the operands first, and multiplies at a quarter of the speed
    (1024 x 768 x 50257 on two cores with AMX: 284 and 72 ms).
    """
    if library and a.dtype == jnp.bfloat16:
        if scale == 1:  # would be simplified away; halves are exact
            a, scale = a * jnp.bfloat16(0.5), 2.0
        return scale * lax.dot_general(a, b, dimensions).astype(jnp.float32)
    product = lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)
    return product if scale == 1 else scale * product


matmul_of.defvjp(lambda of, x, w: (matmul_of(of, x, w), (x, w)), _backward_of)
matmul.defvjp(lambda x, w: (matmul(x, w), (x, w)), _backward)

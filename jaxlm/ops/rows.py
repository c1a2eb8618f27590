# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What all rows share (biases, scales of norms), with gradients as sums over rows in the one form that XLA:CPU runs fast.

A sum over rows and positions at once, [B, L, D] -> [D], takes it 12 to 18 times as long as the same sum over one merged
dimension, [B * L, D] -> [D] (measured: 12 x 256 x 1536 in float32, one core of an AMD EPYC, 12.0 and 0.7 ms). Merging is
free where positions are whole. Letters: R rows, D features.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


# Parts in which a long sum of a bfloat16 program is begun. XLA:CPU cuts a long reduction into windows, for which its operand
# must lie in memory in float32; a sum of parts is element-wise, so that it is computed along with what makes the operand, in
# half the time or less (rows of 3072 x 1536 on one core with AVX-512: 1.0 ms and 1.8; means of 3072 x 384: 0.2 and 0.55).
# In float32 programs YNNPACK sums, which is as fast, and which parts would only keep from it.
PARTS = 8


def total(x: Array, narrow: bool) -> Array:
    """Float32 [D], the sum over the rows of x [R, D]; narrow: in a bfloat16 program."""
    if narrow and x.shape[0] % PARTS == 0:
        # Every 8th row, and not the first eighth of them: each device adds up its own where rows are split.
        apart = x.reshape(-1, PARTS, x.shape[1])
        x = summed([apart[:, i] for i in range(PARTS)])
    return jnp.sum(x, 0, dtype=jnp.float32)


def mean(x: Array, narrow: bool) -> Array:
    """Float32 [R, 1], the mean of each row of x [R, D]; narrow: in a bfloat16 program."""
    size = x.shape[1]
    if narrow and size % PARTS == 0:
        x = summed(jnp.split(x, PARTS, 1))
    return jnp.sum(x, 1, keepdims=True, dtype=jnp.float32) / size


def summed(parts: Sequence[Array]) -> Array:
    """Float32 sum of equal arrays, one addition after another."""
    return functools.reduce(jnp.add, [part.astype(jnp.float32) for part in parts])


def _narrow(x: Array) -> bool:
    return x.dtype == jnp.bfloat16


@jax.custom_vjp
def add(x: Array, b: Array) -> Array:
    """x [..., *b.shape] + b, in x's type."""
    return x + b.astype(x.dtype).reshape((1,) * (x.ndim - b.ndim) + b.shape)


def _add_backward(b: Array, d_y: Array) -> tuple[Array, Array]:
    # Without the barrier the compiler makes d_y twice, for the sum and for the product that it goes into.
    flat = lax.optimization_barrier(d_y.reshape(-1, b.size))
    return flat.reshape(d_y.shape), total(flat, _narrow(flat)).reshape(b.shape).astype(b.dtype)


add.defvjp(lambda x, b: (add(x, b), b), _add_backward)


def _stored(x: Array) -> Array:
    """x, in memory: what a norm and its gradient pass over three times and more.

    Else XLA:CPU computes it anew in each pass; where norms follow one another with sums between them (post-norm blocks), through
    all of them to the first one (a bfloat16 step of BERT base, 8 x 128, two cores of an AMD EPYC: 2,093 ms and 850).
    """
    return lax.optimization_barrier(x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def layer_norm(eps: float, x: Array, scale: Array, bias: Array | None) -> Array:
    """Rows of x [R, D] at mean 0 and variance 1, times scale [D], plus bias [D]: in float32, returned in x's type."""
    return _layer_norm_forward(eps, x, scale, bias)[0]


def _layer_norm_forward(eps, x, scale, bias):
    x = _stored(x)
    wide, narrow = x.astype(jnp.float32), _narrow(x)
    middle = mean(wide, narrow)
    rate = lax.rsqrt(mean(jnp.square(wide - middle), narrow) + eps)
    y = (wide - middle) * rate * scale.astype(jnp.float32)[None]
    y = y if bias is None else y + bias.astype(jnp.float32)[None]
    return y.astype(x.dtype), (x, middle, rate, scale, bias)


def _layer_norm_backward(eps, saved, d_y):
    x, middle, rate, scale, bias = saved
    d_y = _stored(d_y)
    normal = (x.astype(jnp.float32) - middle) * rate
    wide, narrow = d_y.astype(jnp.float32), _narrow(x)
    d_bias = None if bias is None else total(wide, narrow).astype(bias.dtype)
    d_scale = total(wide * normal, narrow).astype(scale.dtype)
    wide = wide * scale.astype(jnp.float32)[None]
    # Without the parts along the mean and along the row itself, which the norm takes out.
    along = mean(wide * normal, narrow)
    d_x = rate * (wide - mean(wide, narrow) - normal * along)
    return d_x.astype(x.dtype), d_scale, d_bias


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def rms_norm(eps: float, offset: float, x: Array, scale: Array) -> Array:
    """Rows of x [R, D] at root mean square 1, times (offset + scale [D]): in float32, returned in x's type."""
    return _rms_norm_forward(eps, offset, x, scale)[0]


def _rms_norm_forward(eps, offset, x, scale):
    x = _stored(x)
    wide = x.astype(jnp.float32)
    rate = lax.rsqrt(mean(jnp.square(wide), _narrow(x)) + eps)
    y = wide * rate * (offset + scale.astype(jnp.float32))[None]
    return y.astype(x.dtype), (x, rate, scale)


def _rms_norm_backward(eps, offset, saved, d_y):
    x, rate, scale = saved
    d_y = _stored(d_y)
    normal = x.astype(jnp.float32) * rate
    wide, narrow = d_y.astype(jnp.float32), _narrow(x)
    d_scale = total(wide * normal, narrow).astype(scale.dtype)
    wide = wide * (offset + scale.astype(jnp.float32))[None]
    along = mean(wide * normal, narrow)
    return (rate * (wide - normal * along)).astype(x.dtype), d_scale


rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)

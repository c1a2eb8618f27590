# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What a loss asks of logits along a long vocabulary, with each of them read as few times as XLA:CPU allows.

A long reduction it cuts into windows, for which its operand must lie in memory: exponentials, comparisons and the logits
converted are then written and read again. Here a row is first folded into an eighth of its length, which is element-wise
and computed along with what makes the operand (1024 rows of 50257 with both products of the head, two cores with AMX,
bfloat16: 602 -> 332 ms with `dense.wide`, and 489 -> 283 MB). In a float32 program YNNPACK would sum the exponentials, and keep
them all in memory of its own, which no analysis of the program shows (1024 rows of 50304: 83 ms and 206 MB, folded 8.5 and 26).
jaxlib 0.10 drops the barrier that keeps it from that, and is still quicker with the fold (121 ms and 79, 206 MB both times).

Letters: R rows, V ids.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

# Parts that a row is folded into (of 16, three quarters as fast), and the ids from which it is.
PARTS, LEAST = 8, 512


@jax.custom_vjp
def statistics(logits: Array, targets: Array) -> tuple[Array, Array]:
    """(log of the normaliser, the target's logit), float32 [R] each, of float32 logits [R, V] and int32 targets [R].

    A target outside of the ids has the logit of the nearest.
    """
    return _forward(logits, targets)[0]


def _forward(logits, targets):
    most = _along(jnp.maximum, jnp.max, lambda x: x, logits)[:, None]
    most = jnp.where(jnp.isfinite(most), most, 0.0)  # or the difference of two infinities would be no number
    log_z = most[:, 0] + jnp.log(_along(jnp.add, jnp.sum, lambda x, m: jnp.exp(x - m), logits, most))
    target = jnp.take_along_axis(logits, targets[:, None], axis=1, mode="clip")[:, 0]
    return (log_z, target), (logits, log_z, targets)


def _backward(saved, cotangents):
    logits, log_z, targets = saved
    d_log_z, d_target = cotangents
    hit = _column(logits) == jnp.clip(targets, 0, logits.shape[1] - 1)[:, None]
    # Made again from the logits: keeping the exponentials costs as much memory as these.
    return d_log_z[:, None] * jnp.exp(logits - log_z[:, None]) + jnp.where(hit, d_target[:, None], 0.0), None


statistics.defvjp(_forward, _backward)


def leads(logits: Array, targets: Array, target: Array) -> Array:
    """bool [R]: whether the target, whose logit is target [R], is the first of the largest; not differentiable."""
    def ahead(x: Array, column: Array, best: Array, at: Array) -> Array:
        return (x > best) | ((x == best) & (column < at))

    logits, target = lax.stop_gradient(logits), lax.stop_gradient(target)
    return ~_along(jnp.logical_or, jnp.any, ahead, logits, _column(logits), target[:, None], targets[:, None])


def _column(logits: Array) -> Array:
    return lax.broadcasted_iota(jnp.int32, logits.shape, 1)


def _along(join: Callable, reduce: Callable, of: Callable, *operands: Array) -> Array:
    """`reduce` along the rows of of(*operands), operands [R, V] or [R, 1], folded into PARTS; join is the same of two."""
    size = operands[0].shape[1]
    fold = size // PARTS if size >= LEAST else 0
    part = lambda start, stop: of(*(x[:, start:stop] if x.shape[1] == size else x for x in operands))
    whole = [reduce(part(PARTS * fold, size), 1)] if size > PARTS * fold else []
    if fold:
        # Without the barrier YNNPACK takes the fold along with the reduction, for which the parts are copied out of the logits.
        folded = lax.optimization_barrier(functools.reduce(join, [part(i * fold, (i + 1) * fold) for i in range(PARTS)]))
        whole.append(reduce(folded, 1))
    return functools.reduce(join, whole)

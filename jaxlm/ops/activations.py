# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Activation functions by name. Each is computed in float32 and rounded once: on bfloat16 every step would round."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxlm.core.errors import UserError, nearest

Array = jax.Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),  # with the error function
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),  # GPT-2's
    "gelu_quick": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}


def find(name: str, again: bool = False) -> Callable[[Array], Array]:
    """The activation of that name; UserError with the nearest name when there is none.

    again: of what the gradient needs, only the input is kept for it and the rest computed again. Left to autodiff,
    the float32 steps in between are kept, several times the bytes of a bfloat16 input.
    """
    if name not in ACTIVATIONS:
        raise UserError(
            f"activation '{name}' does not exist{nearest(name, ACTIVATIONS)} There are: {', '.join(ACTIVATIONS)}."
        )
    function = ACTIVATIONS[name]
    return functools.partial(_again if again else _once, function)


def _once(function: Callable[[Array], Array], x: Array) -> Array:
    return function(x.astype(jnp.float32)).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _again(function: Callable[[Array], Array], x: Array) -> Array:
    return _once(function, x)


def _again_backward(function, x, d_y):
    # Without the barrier the compiler would find that it has computed this before, and keep it.
    x, d_y = lax.optimization_barrier((x, d_y))
    return jax.vjp(functools.partial(_once, function), x)[1](d_y)


_again.defvjp(lambda function, x: (_once(function, x), x), _again_backward)

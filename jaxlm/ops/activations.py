# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Activation functions by name. Each is computed in float32 and rounded once: on bfloat16 every step would round."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

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


def find(name: str) -> Callable[[Array], Array]:
    """The activation of that name; UserError with the nearest name when there is none."""
    if name not in ACTIVATIONS:
        raise UserError(
            f"activation '{name}' does not exist{nearest(name, ACTIVATIONS)} There are: {', '.join(ACTIVATIONS)}."
        )
    function = ACTIVATIONS[name]
    return lambda x: function(x.astype(jnp.float32)).astype(x.dtype)

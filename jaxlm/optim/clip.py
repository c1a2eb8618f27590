# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The norm of all gradients together, and clipping by it (Pascanu et al. 2013)."""
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxlm.core.types import Array
from jaxlm.ops import rows
from jaxlm.parallel import place


def norm(tree: Any) -> Array:
    """Float32 []: the square root of the sum of all squares in the tree."""
    return jnp.sqrt(sum((_squares(x) for x in jax.tree.leaves(tree)), jnp.zeros((), jnp.float32)))


def _squares(x: Array) -> Array:
    square = lambda x: jnp.square(x.astype(jnp.float32))
    if place.platform() == "cpu" and place.alone() and x.size % rows.PARTS == 0:
        # For what ops/rows.py says; without the barrier YNNPACK takes these additions too, for which the parts are copied out of x.
        return jnp.sum(jax.lax.optimization_barrier(rows.summed([square(part) for part in x.reshape(rows.PARTS, -1)])))
    return jnp.sum(square(x))


def by_norm(most: float) -> optax.GradientTransformation:
    """Gradients whose norm is above `most` are scaled down to it; optax's clip_by_global_norm with this norm."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        factor = most / jnp.maximum(norm(updates), most)
        return jax.tree.map(lambda x: (x * factor).astype(x.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

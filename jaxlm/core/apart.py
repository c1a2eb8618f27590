# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Stacked parameters taken apart, one array a layer, for a loop that reads them again and again.

XLA:CPU multiplies by whole arrays: a layer's part of a stack is copied out of it for every product, which for decoding
means that all weights are read, written and read again for every token.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxlm.core.types import Array, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Apart:
    """What stands in a tree of parameters in the place of a stack [layers, ...]; `stack.run` is unrolled then."""

    layers: tuple[Array, ...]


def split(stack: Array, layers: int) -> tuple[Array, ...]:
    """Each layer's part of a stack [layers, ...]."""
    return tuple(jnp.squeeze(part, 0) for part in lax.split(stack, (1,) * layers, 0))


def take_apart(params: Params, axes: Params) -> Params:
    """Parameters with their stacks apart; axes: the logical ones, a tuple for each. Kinds of leaves that are not arrays stay."""
    def one(axes: tuple, leaf: Any) -> Any:
        if not axes or axes[0] != "layers" or not isinstance(leaf, jax.Array):
            return leaf
        return Apart(split(leaf, leaf.shape[0]))

    return jax.tree.map(one, axes, params, is_leaf=lambda x: isinstance(x, tuple))


def is_apart(leaf: Any) -> bool:
    return isinstance(leaf, Apart)


def any_apart(params: Params) -> bool:
    """Whether a stack of the tree is apart."""
    return any(map(is_apart, jax.tree.leaves(params, is_leaf=is_apart)))

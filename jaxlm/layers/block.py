# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""One transformer block: attention and feed-forward with residuals, in the three orders of norms in use."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from jaxlm.core.types import Array
from jaxlm.layers.attention import Attention
from jaxlm.layers.cache import View
from jaxlm.layers.mlp import Mlp
from jaxlm.layers.moe import Moe
from jaxlm.ops.dropout import dropout
from jaxlm.ops.masks import Mask
from jaxlm.ops.route import Load

ORDERS = ("pre", "post", "sandwich")


class Block(nnx.Module):
    """pre: x + f(norm(x)) (GPT-2). post: norm(x + f(x)) (BERT). sandwich: x + post_norm(f(norm(x))) (Gemma 2)."""

    def __init__(
        self, attention: Attention, mlp: Mlp | Moe, norm: Callable[[], nnx.Module], *, order: str = "pre", rate: float = 0.0
    ):
        if order not in ORDERS:
            raise ValueError(f"block order '{order}' is none of {', '.join(ORDERS)}")
        self.order, self.rate = order, rate
        self.attention, self.mlp = attention, mlp
        self.norm1, self.norm2 = norm(), norm()
        self.post_norm1 = norm() if order == "sandwich" else None
        self.post_norm2 = norm() if order == "sandwich" else None

    def __call__(
        self, x: Array, mask: Mask, *, cache: View | None = None, key: Array | None = None, **attention: Any
    ) -> tuple[Array, dict[str, Array] | None]:
        """The block's output and the cache's new store; further arguments go to the attention layer."""
        x, store, load = self.routed(x, mask, cache=cache, key=key, **attention)
        if load is not None:
            raise ValueError("this block has experts, whose load must reach the loss: call `routed`")
        return x, store

    def routed(
        self, x: Array, mask: Mask, *, cache: View | None = None, key: Array | None = None, **attention: Any
    ) -> tuple[Array, dict[str, Array] | None, Load | None]:
        """The same, and what the router of its experts did (None without experts)."""
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        store = load = None

        def attend(y: Array) -> Array:
            nonlocal store
            y, store = self.attention(y, mask, cache=cache, key=keys[0], **attention)
            return y

        def feed_forward(y: Array) -> Array:
            nonlocal load
            if isinstance(self.mlp, Moe):
                y, load = self.mlp(y, mask.q_segments)
                return y
            return self.mlp(y)

        x = self._residual(x, attend, self.norm1, self.post_norm1, keys[1])
        x = self._residual(x, feed_forward, self.norm2, self.post_norm2, keys[2])
        return x, store, load

    def _residual(
        self, x: Array, f: Callable, norm: nnx.Module, post_norm: nnx.Module | None, key: Array | None
    ) -> Array:
        y = f(x if self.order == "post" else norm(x))
        if post_norm is not None:
            y = post_norm(y)
        y = x + dropout(y, self.rate, key)
        return norm(y) if self.order == "post" else y

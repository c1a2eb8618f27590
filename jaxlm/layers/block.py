# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""One transformer block: attention (and that over a source) and feed-forward with residuals, in the three orders of norms in use."""

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
    """pre: x + f(norm(x)) (GPT-2). post: norm(x + f(x)) (BERT). sandwich: x + post_norm(f(norm(x))) (Gemma 2).

    cross: attention over a source, between the two others (Vaswani et al. 2017); with norm_cross, and post_norm_cross.
    """

    def __init__(
        self, attention: Attention, mlp: Mlp | Moe, norm: Callable[[], nnx.Module], *, order: str = "pre", rate: float = 0.0,
        cross: Attention | None = None,
    ):
        if order not in ORDERS:
            raise ValueError(f"block order '{order}' is none of {', '.join(ORDERS)}")
        self.order, self.rate = order, rate
        self.attention, self.mlp = attention, mlp
        self.norm1, self.norm2 = norm(), norm()
        self.post_norm1 = norm() if order == "sandwich" else None
        self.post_norm2 = norm() if order == "sandwich" else None
        self.cross = cross
        self.norm_cross = None if cross is None else norm()
        self.post_norm_cross = norm() if cross is not None and order == "sandwich" else None

    def __call__(
        self, x: Array, mask: Mask, *, cache: View | None = None, key: Array | None = None, **attention: Any
    ) -> tuple[Array, dict[str, Array] | None]:
        """The block's output and the cache's new store; further arguments go to the attention layer."""
        x, store, load = self.routed(x, mask, cache=cache, key=key, **attention)
        if load is not None:
            raise ValueError("this block has experts, whose load must reach the loss: call `routed`")
        return x, store

    def routed(
        self,
        x: Array,
        mask: Mask,
        *,
        cache: View | None = None,
        key: Array | None = None,
        source: tuple[Array, Array] | None = None,
        source_mask: Mask | None = None,
        **attention: Any,
    ) -> tuple[Array, dict[str, Array] | None, Load | None]:
        """The same, and what the router of its experts did (None without experts).

        source, source_mask: what `cross` looks at, its own `keys` of the source, and who may see whom of them.
        """
        dropped = getattr(self.mlp, "rate", 0.0) > 0
        needed = 3 + 2 * (self.cross is not None) + dropped
        keys = (None,) * needed if key is None else jax.random.split(key, needed)
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
            return self.mlp(y, keys[-1] if dropped else None)

        x = self._residual(x, attend, self.norm1, self.post_norm1, keys[1])
        if self.cross is not None:
            look = lambda y: self.cross(y, source_mask, source=source, key=keys[3])[0]
            with jax.named_scope("cross"):
                x = self._residual(x, look, self.norm_cross, self.post_norm_cross, keys[4])
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

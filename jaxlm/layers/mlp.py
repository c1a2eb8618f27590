# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The feed-forward part of a block, gated (GLU) or not."""

import math
from collections.abc import Callable

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jaxlm.core.types import Array
from jaxlm.layers.linear import Init, Linear, after, flat, normal
from jaxlm.ops import activations
from jaxlm.ops.dropout import dropout
from jaxlm.parallel import place
from jaxlm.parallel.place import constrain


class Mlp(nnx.Module):
    """down(activation(up(x))), or down(activation(gate(x)) * up(x)) (Shazeer 2020) when gated; rate: dropout of what `down` reads."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        size: int,
        hidden: int,
        *,
        activation: str = "gelu_tanh",
        gated: bool = False,
        bias: bool = True,
        rate: float = 0.0,
        init: Init = normal(),
        out_init: Init = normal(),
        dtype: str = "float32",
    ):
        self.activation, self.rate = activation, rate
        common = dict(bias=bias, dtype=dtype, float8=True)
        self.up = Linear(rngs, (size,), (hidden,), ("embed", "mlp"), init=init, **common)
        self.gate = Linear(rngs, (size,), (hidden,), ("embed", "mlp"), init=init, **common) if gated else None
        self.down = Linear(rngs, (hidden,), (size,), ("mlp", "embed"), init=out_init, **common)

    def __call__(self, x: Array, key: Array | None = None) -> Array:
        with jax.named_scope("mlp"):
            act = _merged(activations.find(self.activation, again=place.platform() == "cpu"))
            parts = (self.up(x),) if self.gate is None else (self.gate(x), self.up(x))

            hidden = lambda first, *second: checkpoint_name(math.prod(second, start=act(first)), "mlp_hidden")
            if self.rate and key is not None:
                out = self.down(dropout(constrain(hidden(*parts), "batch", "seq", "act_mlp"), self.rate, key))
            else:
                out = after(hidden, parts, self.down)
            return constrain(out, "batch", "seq", "act_embed")


def _merged(act: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The activation over rows and positions as one dimension, as the product before and after it has them: XLA:CPU computes
    its gradient in one pass then, and else keeps the float32 steps of it."""
    return lambda x: act(x.reshape(-1, x.shape[-1])).reshape(x.shape) if flat() else act(x)

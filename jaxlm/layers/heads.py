# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What stands on an encoder: the head of masked tokens, the pooled first token, and a verdict on every token."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.types import Array
from jaxlm.layers.linear import Init, Linear, gathered, normal, param, zeros
from jaxlm.layers.norm import LayerNorm
from jaxlm.ops import activations
from jaxlm.parallel.place import constrain


class MaskedHead(nnx.Module):
    """norm(activation(dense(x))), which meets the token table, and the bias of its logits (Devlin et al. 2018)."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        size: int,
        out: int,
        vocab_size: int,
        *,
        activation: str = "gelu",
        eps: float = 1e-12,
        tied: bool = True,
        init: Init = normal(),
        dtype: str = "float32",
    ):
        """out: features of the table. tied: the table is that of the embeddings, so that this head has none."""
        self.activation = activation
        self.dense = Linear(rngs, (size,), (out,), ("embed", None), init=init, dtype=dtype)
        self.norm = LayerNorm(rngs, out, eps=eps, dtype=dtype)
        self.bias = param(rngs, (vocab_size,), "vocab", init=zeros, dtype=dtype)
        self.table = None if tied else param(rngs, (vocab_size, out), "vocab", "embed", init=init, dtype=dtype)

    def __call__(self, x: Array, embeddings: Array) -> tuple[Array, Array, Array]:
        """(hidden, table [V, E], bias [V]) of x [B, P, D]: logits = hidden @ table.T + bias."""
        with jax.named_scope("masked_head"):
            x = self.norm(activations.find(self.activation)(self.dense(x)))
            table = embeddings if self.table is None else gathered(self.table.get_value(), ("vocab", "embed"))
            return x, table, gathered(self.bias.get_value(), ("vocab",))


class Pooler(nnx.Module):
    """tanh(dense(x)) of each row's first token [B, D]; a row padded on the left begins behind its padding."""

    def __init__(self, rngs: nnx.Rngs, size: int, *, init: Init = normal(), dtype: str = "float32"):
        self.dense = Linear(rngs, (size,), (size,), ("embed", None), init=init, dtype=dtype)

    def __call__(self, x: Array, segments: Array | None) -> Array:
        with jax.named_scope("pooler"):
            if segments is None:
                first = x[:, 0]
            else:
                begin = jnp.argmax(segments > 0, axis=1)[:, None]
                first = take(x, begin)[:, 0]
            return constrain(activations.find("tanh")(self.dense(first)), "batch", None)


class Discriminator(nnx.Module):
    """A logit for every token, float32 [B, L]: was it replaced (ELECTRA, Clark et al. 2020)?"""

    def __init__(self, rngs: nnx.Rngs, size: int, *, activation: str = "gelu", init: Init = normal(), dtype: str = "float32"):
        self.activation = activation
        self.dense = Linear(rngs, (size,), (size,), ("embed", None), init=init, dtype=dtype)
        self.out = Linear(rngs, (size,), (1,), ("embed", None), init=init, dtype=dtype)

    def __call__(self, x: Array) -> Array:
        with jax.named_scope("discriminator"):
            return self.out(activations.find(self.activation)(self.dense(x)))[:, :, 0].astype(jnp.float32)


def take(x: Array, index: Array) -> Array:
    """x [B, L, D] at index [B, P] of each row, [B, P, D]; an index beyond the row gives NaN."""
    whole = constrain(x, "batch", None, "act_embed")  # positions may be split, and any of them may be asked for
    taken = jnp.take_along_axis(whole, index[:, :, None], axis=1, mode="fill", fill_value=jnp.nan)
    return constrain(taken, "batch", None, "act_embed")

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Tokens to vectors: a table, positions, sentence types, their norm and projection, and the table of an untied head."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.errors import UserError
from jaxlm.core.types import Array
from jaxlm.layers.linear import Init, Linear, gathered, normal, param
from jaxlm.layers.norm import LayerNorm
from jaxlm.ops.dropout import dropout
from jaxlm.parallel.place import constrain

POSITIONS = ("none", "learned", "sinusoidal")


class Embed(nnx.Module):
    """tokens [B, L] -> [B, L, D] in `dtype`: embed/tokens, and embed/positions and embed/types where asked for.

    norm_eps: a LayerNorm of the sum (BERT), embed/norm; 0 = none. project: features of the result, by embed/projection
    (ALBERT, ELECTRA); 0 = those of the table.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        vocab_size: int,
        size: int,
        *,
        max_len: int = 0,
        positions: str = "none",
        types: int = 0,
        scale: float = 1.0,
        rate: float = 0.0,
        norm_eps: float = 0.0,
        project: int = 0,
        dtype: str = "float32",
        param_dtype: str = "float32",
        init: Init = normal(),
    ):
        if vocab_size < 1:
            raise UserError("vocab_size is 0: set it, or let the tokenizer set it")
        self.kind, self.scale, self.rate, self.dtype, self.size = positions, scale, rate, dtype, size
        self.tokens = param(rngs, (vocab_size, size), "vocab", "embed", init=init, dtype=param_dtype)
        learned = positions == "learned"
        self.positions = (
            param(rngs, (max_len, size), "positions", "embed", init=init, dtype=param_dtype) if learned else None
        )
        self.types = param(rngs, (types, size), "types", "embed", init=init, dtype=param_dtype) if types else None
        self.norm = LayerNorm(rngs, size, eps=norm_eps, dtype=param_dtype) if norm_eps else None
        # Two dimensions called embed would be split over the same devices.
        self.projection = (
            Linear(rngs, (size,), (project,), (None, "embed"), init=init, dtype=param_dtype) if project else None
        )

    def __call__(self, tokens: Array, positions: Array, types: Array | None = None, key: Array | None = None) -> Array:
        """positions [B, L]. An id or position beyond its table gives NaN: taking the last row would hide it."""
        with jax.named_scope("embed"):
            x = _take(self.tokens, "vocab", tokens, self.dtype)
            if self.scale != 1.0:
                x = x * jnp.asarray(self.scale, x.dtype)
            if self.positions is not None:
                x = x + _take(self.positions, "positions", positions, self.dtype)
            elif self.kind == "sinusoidal":
                x = x + sinusoidal(positions, self.size).astype(x.dtype)
            if self.types is not None:
                x = x + _take(self.types, "types", jnp.zeros_like(tokens) if types is None else types, self.dtype)
            if self.norm is not None:
                x = self.norm(x)
            x = dropout(x, self.rate, key)
            if self.projection is not None:
                x = self.projection(x)
            return constrain(x, "batch", "seq", "act_embed")

    def table(self) -> Array:
        """embed/tokens [V, D] as a tied head uses it: features gathered, so that logits need no sum over devices."""
        return gathered(self.tokens.get_value(), ("vocab", "embed"))


class Positions(nnx.Module):
    """What one side of an encoder-decoder makes of the vectors of tokens [B, L, D], whose table both sides share.

    Positions are added (positions/table where they are learned), then a LayerNorm where norm_eps is above 0
    (positions/norm), then dropout.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        size: int,
        *,
        kind: str,
        max_len: int,
        rate: float = 0.0,
        norm_eps: float = 0.0,
        dtype: str = "float32",
        init: Init = normal(),
    ):
        self.size, self.rate = size, rate
        self.table = param(rngs, (max_len, size), "positions", "embed", init=init, dtype=dtype) if kind == "learned" else None
        self.norm = LayerNorm(rngs, size, eps=norm_eps, dtype=dtype) if norm_eps else None

    def __call__(self, x: Array, positions: Array, key: Array | None = None) -> Array:
        """positions [B, L]. One beyond the table gives NaN: taking the last row would hide it."""
        with jax.named_scope("positions"):
            learned = self.table is not None
            x = x + (_take(self.table, "positions", positions, x.dtype) if learned else sinusoidal(positions, self.size).astype(x.dtype))
            x = x if self.norm is None else self.norm(x)
            return constrain(dropout(x, self.rate, key), "batch", "seq", "act_embed")


class Head(nnx.Module):
    """The unembedding table of a model that does not tie it: head/table [V, D]."""

    def __init__(
        self, rngs: nnx.Rngs, vocab_size: int, size: int, *, param_dtype: str = "float32", init: Init = normal()
    ):
        self.table = param(rngs, (vocab_size, size), "vocab", "embed", init=init, dtype=param_dtype)

    def __call__(self) -> Array:
        return gathered(self.table.get_value(), ("vocab", "embed"))


def _take(table: nnx.Param, axis: str, index: Array, dtype: str) -> Array:
    # Features gathered first: looked up in a table that is split both ways, the result would be moved whole.
    # Cast after the lookup: the gradient of a frequent token is a sum of thousands, kept in the table's own type.
    # The constraint is for the gradient: a scatter straight into split features would replicate what it adds.
    rows = constrain(gathered(table.get_value(), (axis, "embed")), axis, None)
    return jnp.take(rows, index, axis=0, mode="fill", fill_value=jnp.nan).astype(dtype)


def sinusoidal(positions: Array, size: int) -> Array:
    """Float32 [B, L, size]: sines in the first half, cosines in the second (Vaswani et al. 2017; tensor2tensor)."""
    rate = 10000.0 ** -(jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    radians = positions[:, :, None].astype(jnp.float32) * rate[None, None, :]
    return jnp.concatenate([jnp.sin(radians), jnp.cos(radians)], -1)

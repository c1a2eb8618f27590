# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""GPT-2 (Radford et al. 2019): pre-norm transformer decoder with learned positions, tanh GELU and a tied head."""

import dataclasses

import jax
from flax import nnx

from jaxlm.core.functional import Functional
from jaxlm.core.types import Array, Batch, Outputs
from jaxlm.layers import cache as caches
from jaxlm.layers import checks, stack
from jaxlm.layers.attention import Attention
from jaxlm.layers.block import Block
from jaxlm.layers.embed import POSITIONS, Embed, Head
from jaxlm.layers.linear import normal
from jaxlm.layers.mlp import Mlp
from jaxlm.layers.norm import LayerNorm


@dataclasses.dataclass(frozen=True)
class Config:
    """The default is GPT-2 small but for its vocabulary."""

    vocab_size: int = 0  # 0: the tokenizer's
    max_len: int = 1024
    layers: int = 12
    heads: int = 12
    embed: int = 768
    mlp: int = 0  # 0: 4 * embed
    positions: str = "learned"  # learned | sinusoidal
    activation: str = "gelu_tanh"
    norm_eps: float = 1e-5
    bias: bool = True  # in projections and norms
    tie_embeddings: bool = True
    init_std: float = 0.02  # projections onto the residual stream: divided by sqrt(2 * layers)
    embed_dropout: float = 0.0
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    attention_backend: str = "auto"
    dtype: str = "float32"  # of activations and products
    param_dtype: str = "float32"
    scan: bool = True  # False: unrolled; the parameters are the same
    remat: str = "none"

    def problems(self) -> list[str]:
        return [
            *checks.at_least(self, 0, "vocab_size", "mlp"),
            *checks.at_least(self, 1, "max_len", "layers", "heads", "embed"),
            *checks.multiple(self, "embed", "heads"),
            *checks.one_of(self, positions=POSITIONS[1:]),
            *checks.even(self, "embed", when=self.positions == "sinusoidal"),
            *checks.rates(self, "embed_dropout", "attention_dropout", "residual_dropout"),
            *checks.common(self),
        ]


class GPT(nnx.Module):
    """Parameters: embed, blocks (stacked), norm, and head when not tied."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        c = self.config = config
        init, out_init = normal(c.init_std), normal(c.init_std / (2 * c.layers) ** 0.5)
        common = dict(init=init, dtype=c.param_dtype)

        def layer(rngs: nnx.Rngs) -> Block:
            attention = Attention(
                rngs,
                c.embed,
                c.heads,
                c.heads,
                c.embed // c.heads,
                qkv_bias=c.bias,
                out_bias=c.bias,
                rate=c.attention_dropout,
                backend=c.attention_backend,
                out_init=out_init,
                **common,
            )
            mlp = Mlp(
                rngs, c.embed, c.mlp or 4 * c.embed, activation=c.activation, bias=c.bias, out_init=out_init, **common
            )
            return Block(attention, mlp, lambda: self._norm(rngs), rate=c.residual_dropout)

        self.embed = Embed(
            rngs,
            c.vocab_size,
            c.embed,
            max_len=c.max_len,
            positions=c.positions,
            rate=c.embed_dropout,
            dtype=c.dtype,
            param_dtype=c.param_dtype,
            init=init,
        )
        self.blocks = stack.make(rngs, c.layers, layer)
        self.norm = self._norm(rngs)
        self.head = (
            None if c.tie_embeddings else Head(rngs, c.vocab_size, c.embed, param_dtype=c.param_dtype, init=init)
        )

    def _norm(self, rngs: nnx.Rngs) -> LayerNorm:
        c = self.config
        return LayerNorm(rngs, c.embed, eps=c.norm_eps, bias=c.bias, dtype=c.param_dtype)

    def __call__(self, batch: Batch, key: Array | None = None, cache: caches.Cache | None = None) -> Outputs:
        c = self.config
        span = caches.span(batch, cache)
        embed_key, key = (None, None) if key is None else jax.random.split(key)
        x = self.embed(batch["tokens"], span.positions, key=embed_key)

        def call(block, carry, layer, key, inputs):
            x, store = carry
            return block(x, span.mask, cache=span.view(store, layer), key=key), None

        (x, store), _ = stack.run(
            self.blocks,
            (x, span.store),
            call,
            layers=c.layers,
            scan=c.scan,
            key=key,
            remat=c.remat if cache is None else "none",
        )
        table = self.embed.table() if self.head is None else self.head()
        return Outputs(self.norm(x), table, cache=span.cache(store))

    def cache(self, rows: int, length: int) -> caches.Cache:
        c = self.config
        return caches.empty(c.layers, rows, length, c.heads, c.embed // c.heads, c.dtype)

    def rewind(self, cache: caches.Cache, counts: Array) -> caches.Cache:
        return caches.rewind(cache, counts)


def build(config: Config) -> Functional:
    """The model as pure functions; UserError when the config cannot be built."""
    checks.raise_problems("gpt", config)
    return Functional(lambda rngs: GPT(config, rngs))

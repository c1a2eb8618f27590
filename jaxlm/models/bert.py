# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""BERT (Devlin et al. 2018): a post-norm transformer that sees both ways, and the heads that it is pre-trained with.

By fields alone: RoBERTa (position_offset=2, types=1), DistilBERT (types=0, no pooler) and ELECTRA's generator
and discriminator (embedding_size, discriminator).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.errors import UserError
from jaxlm.core.functional import Functional
from jaxlm.core.types import Array, Batch, Outputs
from jaxlm.layers import cache as caches
from jaxlm.layers import checks, stack
from jaxlm.layers.attention import Attention
from jaxlm.layers.block import Block
from jaxlm.layers.embed import Embed
from jaxlm.layers.heads import Discriminator, MaskedHead, Pooler, take
from jaxlm.layers.linear import Linear, normal
from jaxlm.layers.mlp import Mlp
from jaxlm.layers.norm import LayerNorm


@dataclasses.dataclass(frozen=True)
class Config:
    """The default is BERT base with both its heads, but for its vocabulary."""

    vocab_size: int = 0  # 0: the tokenizer's
    max_len: int = 512
    layers: int = 12
    heads: int = 12
    embed: int = 768
    mlp: int = 0  # 0: 4 * embed
    embedding_size: int = 0  # features of the tables, projected to embed where they differ; 0: embed
    types: int = 2  # sentence types; 0: none
    position_offset: int = 0  # the first position's row of its table, which has max_len rows more (RoBERTa: 2)
    activation: str = "gelu"
    norm_eps: float = 1e-12
    masked_head: bool = True  # outputs become what masked tokens are told from; without: the last layer's
    tie_embeddings: bool = True  # the masked head's table is that of the embeddings
    pooler: bool = True
    pair_head: bool = True  # two labels of the pooled vector: next sentence, or sentence order
    discriminator: bool = False  # a logit for every token (ELECTRA)
    init_std: float = 0.02
    embed_dropout: float = 0.1
    attention_dropout: float = 0.1
    residual_dropout: float = 0.1
    attention_backend: str = "auto"
    dtype: str = "float32"  # of activations and products
    param_dtype: str = "float32"
    scan: bool = True  # False: unrolled; the parameters are the same
    remat: str = "none"

    causal: ClassVar[bool] = False  # a position sees those after it
    shared: ClassVar[bool] = False  # one layer's parameters in all layers

    def problems(self) -> list[str]:
        out = [
            *checks.at_least(self, 0, "vocab_size", "mlp", "embedding_size", "types", "position_offset"),
            *checks.at_least(self, 1, "max_len", "layers", "heads", "embed"),
            *checks.multiple(self, "embed", "heads"),
            *checks.rates(self, "embed_dropout", "attention_dropout", "residual_dropout"),
            *checks.common(self),
        ]
        if self.pair_head and not self.pooler:
            out.append("pair_head is true and pooler is false: the pair's labels are told from the pooled vector")
        return out


_NO_CACHE = (
    "an encoder sees the text on both sides of a word and does not continue it: generate with a decoder, such as "
    "model=gpt or model=llama"
)


class Encoder(nnx.Module):
    """Parameters: embed (tables, norm, projection), blocks (stacked, or one that is shared), and the heads."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        c = self.config = config
        init = normal(c.init_std)
        common = dict(init=init, dtype=c.param_dtype)
        size = c.embedding_size or c.embed

        def layer(rngs: nnx.Rngs) -> Block:
            attention = Attention(
                rngs,
                c.embed,
                c.heads,
                c.heads,
                c.embed // c.heads,
                rate=c.attention_dropout,
                backend=c.attention_backend,
                out_init=init,
                **common,
            )
            mlp = Mlp(rngs, c.embed, c.mlp or 4 * c.embed, activation=c.activation, out_init=init, **common)
            norm = lambda: LayerNorm(rngs, c.embed, eps=c.norm_eps, dtype=c.param_dtype)
            return Block(attention, mlp, norm, order="post", rate=c.residual_dropout)

        self.embed = Embed(
            rngs,
            c.vocab_size,
            size,
            max_len=c.max_len + c.position_offset,
            positions="learned",
            types=c.types,
            rate=c.embed_dropout,
            norm_eps=c.norm_eps,
            project=c.embed if c.shared or size != c.embed else 0,
            dtype=c.dtype,
            param_dtype=c.param_dtype,
            init=init,
        )
        self.blocks = stack.make(rngs, c.layers, layer, c.shared)
        self.pooler = Pooler(rngs, c.embed, **common) if c.pooler else None
        self.pair = Linear(rngs, (c.embed,), (2,), ("embed", None), **common) if c.pair_head else None
        self.discriminator = (
            Discriminator(rngs, c.embed, activation=c.activation, **common) if c.discriminator else None
        )
        self.masked = (
            MaskedHead(
                rngs,
                c.embed,
                size,
                c.vocab_size,
                activation=c.activation,
                eps=c.norm_eps,
                tied=c.tie_embeddings,
                **common,
            )
            if c.masked_head
            else None
        )

    def __call__(self, batch: Batch, key: Array | None = None, cache: caches.Cache | None = None) -> Outputs:
        """With `predict` in the batch only those positions go through the masked head: hidden is [B, P, E]."""
        c = self.config
        if cache is not None:
            raise UserError(_NO_CACHE)
        span = caches.span(batch, None, causal=False)
        embed_key, key = (None, None) if key is None else jax.random.split(key)
        positions = self._counted(batch) + c.position_offset if c.position_offset else span.positions
        x = self.embed(batch["tokens"], positions, batch.get("types"), key=embed_key)

        def call(block, x, layer, key, inputs):
            return block(x, span.mask, key=key)[0], None

        x, _ = stack.run(
            self.blocks, x, call, layers=c.layers, scan=c.scan, key=key, remat=c.remat, shared=c.shared
        )
        head, table, bias = {}, None, None
        if self.pooler is not None:
            head["pooled"] = self.pooler(x, batch.get("segments"))
        if self.pair is not None:
            head["pair"] = self.pair(head["pooled"]).astype(jnp.float32)
        if self.discriminator is not None:
            head["discriminator"] = self.discriminator(x)
        if self.masked is not None:
            x = take(x, batch["predict"]) if "predict" in batch else x
            x, table, bias = self.masked(x, self.embed.table())
        return Outputs(x, table, bias, head)

    def _counted(self, batch: Batch) -> Array:
        """Positions, which default to counting tokens that are not padding, as RoBERTa's."""
        if "positions" in batch or "segments" not in batch:
            return caches.span(batch, None).positions
        return jnp.maximum(jnp.cumsum((batch["segments"] > 0).astype(jnp.int32), axis=1) - 1, 0)

    def cache(self, rows: int, length: int) -> caches.Cache:
        raise UserError(_NO_CACHE)


def build(config: Config) -> Functional:
    """The model as pure functions; UserError when the config cannot be built."""
    checks.raise_problems("bert", config)
    return Functional(lambda rngs: Encoder(config, rngs))

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""T5 (Raffel et al. 2020): an encoder-decoder with RMS norms first, no biases, and distances in the place of positions.

Version 1.1, and so FLAN-T5, by fields: gated, activation=gelu_tanh, tie_embeddings=false, logit_scale=false. Distances are counted in
slots: within a document those are the distances of its positions. Paths of parameters, x = encoder and decoder:
  embed/tokens    x/relative/table [buckets, heads]    x/norm/scale    head/table (not tied)
  x/blocks/{attention,cross}/{q,k,v,o}/kernel (cross: the decoder's)   x/blocks/{norm1,norm_cross,norm2}/scale
  x/blocks/mlp/{up,gate,down}/kernel (gate, whose activation is taken: v1.1)
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.functional import Functional
from jaxlm.core.types import Array, Batch, Outputs
from jaxlm.layers import cache as caches
from jaxlm.layers import checks, sides, stack
from jaxlm.layers.attention import Attention
from jaxlm.layers.block import Block
from jaxlm.layers.embed import Embed, Head
from jaxlm.layers.linear import normal
from jaxlm.layers.mlp import Mlp
from jaxlm.layers.norm import RMSNorm
from jaxlm.layers.relative import RelativeBias
from jaxlm.ops.dropout import dropout
from jaxlm.ops.masks import Mask


@dataclasses.dataclass(frozen=True)
class Config:
    """The default is the small model of the paper but for its vocabulary."""

    vocab_size: int = 0  # 0: the tokenizer's
    layers: int = 6  # of the encoder, and of the decoder too
    decoder_layers: int = 0  # 0: layers
    heads: int = 8
    head_dim: int = 64  # of itself: heads * head_dim need not be embed
    embed: int = 512
    mlp: int = 2048
    gated: bool = False
    activation: str = "relu"
    buckets: int = 32  # of distances, half of them of single ones
    max_distance: int = 128  # from here on all distances are one
    norm_eps: float = 1e-6
    tie_embeddings: bool = True
    logit_scale: bool = True  # logits times embed ** -0.5
    embed_dropout: float = 0.1  # of embeddings, and of each side's last vectors
    attention_dropout: float = 0.1
    residual_dropout: float = 0.1
    mlp_dropout: float = 0.1  # of the hidden features
    attention_backend: str = "auto"
    dtype: str = "float32"  # of activations and products
    param_dtype: str = "float32"
    scan: bool = True  # False: unrolled; the parameters are the same
    remat: str = "none"

    source: ClassVar[bool] = True  # it reads one beside the tokens

    @property
    def size_decoder_layers(self) -> int:
        return self.decoder_layers or self.layers

    def problems(self) -> list[str]:
        out = [
            *checks.at_least(self, 0, "vocab_size", "decoder_layers"),
            *checks.at_least(self, 1, "layers", "heads", "head_dim", "embed", "mlp"),
            *checks.at_least(self, 4, "buckets"),
            *checks.rates(self, "embed_dropout", "attention_dropout", "residual_dropout", "mlp_dropout"),
            *checks.common(self),
        ]
        if self.buckets % 4:
            out.append(f"buckets is {self.buckets}: an encoder has half of them for each direction, and half of those for single "
                       "distances, so that it must be a multiple of 4")
        if self.max_distance <= self.buckets // 2:
            out.append(f"max_distance is {self.max_distance}: it must be above buckets / 2 = {self.buckets // 2}, the single distances "
                       "of a decoder")
        return out


class Side(nnx.Module):
    """Encoder or decoder: relative (all layers' bias), blocks (stacked), norm."""

    def __init__(self, c: Config, rngs: nnx.Rngs, layers: int, cross: bool):
        common = dict(dtype=c.param_dtype)
        norm = lambda rngs: RMSNorm(rngs, c.embed, eps=c.norm_eps, **common)
        # As published: scores are not scaled, so that the query's matrix begins smaller by sqrt(head_dim).
        std = normal(c.embed**-0.5)

        def layer(rngs: nnx.Rngs) -> Block:
            attention = lambda: Attention(
                rngs, c.embed, c.heads, c.heads, c.head_dim, qkv_bias=False, out_bias=False, scale=1.0, rate=c.attention_dropout,
                backend=c.attention_backend, init=std, query_init=normal((c.embed * c.head_dim) ** -0.5),
                out_init=normal((c.heads * c.head_dim) ** -0.5), **common)
            feed = Mlp(rngs, c.embed, c.mlp, activation=c.activation, gated=c.gated, bias=False, rate=c.mlp_dropout, init=std,
                       out_init=normal(c.mlp**-0.5), **common)
            return Block(attention(), feed, lambda: norm(rngs), rate=c.residual_dropout, cross=attention() if cross else None)

        self.rate = c.embed_dropout
        self.relative = RelativeBias(rngs, c.heads, c.buckets, c.max_distance, both_ways=not cross, init=std, **common)
        self.blocks = stack.make(rngs, layers, layer)
        self.norm = norm(rngs)

    def end(self, x: Array, key: Array | None) -> Array:
        return dropout(self.norm(x), self.rate, key)


class T5(nnx.Module):
    """Parameters: embed, encoder, decoder, and head when not tied."""

    source = True

    def __init__(self, config: Config, rngs: nnx.Rngs):
        c = self.config = config
        self.embed = Embed(rngs, c.vocab_size, c.embed, rate=c.embed_dropout, dtype=c.dtype, param_dtype=c.param_dtype, init=normal(1.0))
        self.encoder = Side(c, rngs, c.layers, cross=False)
        self.decoder = Side(c, rngs, c.size_decoder_layers, cross=True)
        self.head = (
            None if c.tie_embeddings else Head(rngs, c.vocab_size, c.embed, param_dtype=c.param_dtype, init=normal(c.embed**-0.5))
        )

    def __call__(self, batch: Batch, key: Array | None = None, cache: caches.Cache | None = None) -> Outputs:
        c = self.config
        keys = (None,) * 6 if key is None else jax.random.split(key, 6)
        run = dict(scan=c.scan, remat=c.remat if cache is None else "none")
        read, hidden = sides.source(batch, cache), None
        if read is not None:
            length = read["tokens"].shape[1]
            x = self.embed(read["tokens"], read["tokens"], key=keys[0])
            bias = self.encoder.relative(Mask(causal=False), length, length)
            x = sides.encode(self.encoder.blocks, x, read, layers=c.layers, run=run, key=keys[1], bias=bias)
            hidden = self.encoder.end(x, keys[2])
        span, memory = caches.span(batch, cache), sides.memory(batch, read, hidden, cache)
        x = self.embed(batch["tokens"], span.positions, key=keys[3])
        slots = x.shape[1] if cache is None else cache["segments"].shape[1]
        bias = self.decoder.relative(span.mask, x.shape[1], slots)
        x, cache = sides.decode(self.decoder.blocks, x, span, memory, cache, layers=c.size_decoder_layers, run=run, key=keys[4], bias=bias)
        x = self.decoder.end(x, keys[5])
        x = x * jnp.asarray(c.embed**-0.5, x.dtype) if c.logit_scale else x
        return Outputs(x, self.embed.table() if self.head is None else self.head(), cache=cache)

    def cache(self, rows: int, length: int, source: int) -> caches.Cache:
        c = self.config
        return caches.empty(c.size_decoder_layers, rows, length, c.heads, c.head_dim, c.dtype, source)

    def rewind(self, cache: caches.Cache, counts: Array) -> caches.Cache:
        return caches.rewind(cache, counts)


def build(config: Config) -> Functional:
    """The model as pure functions; UserError when the config cannot be built."""
    checks.raise_problems("t5", config)
    return Functional(lambda rngs: T5(config, rngs))

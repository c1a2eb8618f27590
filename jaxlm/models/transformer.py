# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The transformer (Vaswani et al. 2017): an encoder of the source and a decoder that looks at it, one table for all tokens.

By fields alone: BART (Lewis et al. 2019: positions=learned, position_offset=2, embed_norm, embed_scale=false, activation=gelu,
logit_bias, init_std), Marian (activation=silu, logit_bias) and mBART (as BART, order=pre). Paths of parameters, x = encoder and decoder:
  embed/tokens            x/positions/table    x/positions/norm/{scale,bias}    x/norm/{scale,bias} (order=pre)
  x/blocks/{attention,cross}/{q,k,v,o}/{kernel,bias} (cross: the decoder's)     x/blocks/{norm1,norm_cross,norm2}/{scale,bias}
  x/blocks/mlp/{up,down}/{kernel,bias}         head/table (not tied)            logit_bias
"""

import dataclasses
from typing import ClassVar

import jax
from flax import nnx

from jaxlm.core.functional import Functional
from jaxlm.core.types import Array, Batch, Outputs
from jaxlm.layers import cache as caches
from jaxlm.layers import checks, sides, stack
from jaxlm.layers.attention import Attention
from jaxlm.layers.block import Block
from jaxlm.layers.embed import POSITIONS, Embed, Head, Positions
from jaxlm.layers.linear import gathered, glorot, normal, param, zeros
from jaxlm.layers.mlp import Mlp
from jaxlm.layers.norm import LayerNorm

ORDERS = ("post", "pre")


@dataclasses.dataclass(frozen=True)
class Config:
    """The default is the base model of the paper but for its vocabulary."""

    vocab_size: int = 0  # 0: the tokenizer's; of source and target
    max_len: int = 512  # of each side
    layers: int = 6  # of the encoder, and of the decoder too
    decoder_layers: int = 0  # 0: layers
    heads: int = 8
    decoder_heads: int = 0  # 0: heads
    embed: int = 512
    mlp: int = 0  # 0: 4 * embed
    decoder_mlp: int = 0  # 0: mlp
    positions: str = "sinusoidal"  # learned | sinusoidal
    position_offset: int = 0  # the first position's row of a learned table, which has max_len rows more (BART: 2)
    embed_scale: bool = True  # embeddings times sqrt(embed)
    embed_norm: bool = False  # a norm of each side's embeddings with their positions (BART)
    order: str = "post"  # of norms; pre: and one after each side's last layer
    activation: str = "relu"
    norm_eps: float = 1e-6
    tie_embeddings: bool = True
    logit_bias: bool = False  # added to the logits (BART, Marian: final_logits_bias)
    init_std: float = 0.0  # 0: as published, Glorot's uniform matrices and embeddings of embed ** -0.5
    embed_dropout: float = 0.1
    attention_dropout: float = 0.0
    residual_dropout: float = 0.1
    mlp_dropout: float = 0.0  # of the hidden features
    attention_backend: str = "auto"
    dtype: str = "float32"  # of activations and products
    param_dtype: str = "float32"
    scan: bool = True  # False: unrolled; the parameters are the same
    remat: str = "none"

    source: ClassVar[bool] = True  # it reads one beside the tokens

    @property
    def size_decoder_layers(self) -> int:
        return self.decoder_layers or self.layers

    @property
    def size_decoder_heads(self) -> int:
        return self.decoder_heads or self.heads

    def problems(self) -> list[str]:
        out = [
            *checks.at_least(self, 0, "vocab_size", "mlp", "decoder_layers", "decoder_heads", "decoder_mlp", "position_offset", "init_std"),
            *checks.at_least(self, 1, "max_len", "layers", "heads", "embed"),
            *checks.multiple(self, "embed", "heads"),
            *(checks.multiple(self, "embed", "decoder_heads") if self.decoder_heads > 0 else []),
            *checks.one_of(self, positions=POSITIONS[1:], order=ORDERS),
            *checks.even(self, "embed", when=self.positions == "sinusoidal"),
            *checks.rates(self, "embed_dropout", "attention_dropout", "residual_dropout", "mlp_dropout"),
            *checks.common(self),
        ]
        if self.position_offset and self.positions == "sinusoidal":
            out.append(f"position_offset is {self.position_offset}: sinusoidal positions have no table, set it to 0")
        return out


class Side(nnx.Module):
    """Encoder or decoder: positions, blocks (stacked), and norm when it comes first in a block."""

    def __init__(self, c: Config, rngs: nnx.Rngs, layers: int, heads: int, mlp: int, cross: bool):
        common = dict(dtype=c.param_dtype)
        norm = lambda rngs: LayerNorm(rngs, c.embed, eps=c.norm_eps, dtype=c.param_dtype)
        init = lambda inputs, outputs: normal(c.init_std) if c.init_std else glorot(inputs, outputs)
        square, wide = init(c.embed, c.embed), init(c.embed, mlp)

        def layer(rngs: nnx.Rngs) -> Block:
            attention = lambda: Attention(rngs, c.embed, heads, heads, c.embed // heads, rate=c.attention_dropout,
                                          backend=c.attention_backend, init=square, out_init=square, **common)
            feed = Mlp(rngs, c.embed, mlp, activation=c.activation, rate=c.mlp_dropout, init=wide, out_init=wide, **common)
            return Block(attention(), feed, lambda: norm(rngs), order=c.order, rate=c.residual_dropout,
                         cross=attention() if cross else None)

        self.offset = c.position_offset
        self.positions = Positions(rngs, c.embed, kind=c.positions, max_len=c.max_len + c.position_offset, rate=c.embed_dropout,
                                   norm_eps=c.norm_eps if c.embed_norm else 0.0, init=normal(c.init_std or c.embed**-0.5), **common)
        self.blocks = stack.make(rngs, layers, layer)
        self.norm = norm(rngs) if c.order == "pre" else None

    def begin(self, x: Array, positions: Array, key: Array | None) -> Array:
        return self.positions(x, positions + self.offset if self.offset else positions, key=key)

    def end(self, x: Array) -> Array:
        return x if self.norm is None else self.norm(x)


class Transformer(nnx.Module):
    """Parameters: embed, encoder, decoder, and head when not tied, and logit_bias."""

    source = True

    def __init__(self, config: Config, rngs: nnx.Rngs):
        c = self.config = config
        init, mlp = normal(c.init_std or c.embed**-0.5), c.mlp or 4 * c.embed
        self.embed = Embed(rngs, c.vocab_size, c.embed, scale=c.embed**0.5 if c.embed_scale else 1.0, dtype=c.dtype,
                           param_dtype=c.param_dtype, init=init)
        self.encoder = Side(c, rngs, c.layers, c.heads, mlp, cross=False)
        self.decoder = Side(c, rngs, c.size_decoder_layers, c.size_decoder_heads, c.decoder_mlp or mlp, cross=True)
        self.head = None if c.tie_embeddings else Head(rngs, c.vocab_size, c.embed, param_dtype=c.param_dtype, init=init)
        self.logit_bias = param(rngs, (c.vocab_size,), "vocab", init=zeros, dtype=c.param_dtype) if c.logit_bias else None

    def __call__(self, batch: Batch, key: Array | None = None, cache: caches.Cache | None = None) -> Outputs:
        c = self.config
        keys = (None,) * 4 if key is None else jax.random.split(key, 4)
        run = dict(scan=c.scan, remat=c.remat if cache is None else "none")
        read, hidden = sides.source(batch, cache), None
        if read is not None:
            positions = caches.span(read, None).positions
            x = self.encoder.begin(self.embed(read["tokens"], positions), positions, keys[0])
            hidden = self.encoder.end(sides.encode(self.encoder.blocks, x, read, layers=c.layers, run=run, key=keys[1]))
        span, memory = caches.span(batch, cache), sides.memory(batch, read, hidden, cache)
        x = self.decoder.begin(self.embed(batch["tokens"], span.positions), span.positions, keys[2])
        x, cache = sides.decode(self.decoder.blocks, x, span, memory, cache, layers=c.size_decoder_layers, run=run, key=keys[3])
        table = self.embed.table() if self.head is None else self.head()
        bias = None if self.logit_bias is None else gathered(self.logit_bias.get_value(), ("vocab",))
        return Outputs(self.decoder.end(x), table, bias, cache=cache)

    def cache(self, rows: int, length: int, source: int) -> caches.Cache:
        c, heads = self.config, self.config.size_decoder_heads
        return caches.empty(c.size_decoder_layers, rows, length, heads, c.embed // heads, c.dtype, source)

    def rewind(self, cache: caches.Cache, counts: Array) -> caches.Cache:
        return caches.rewind(cache, counts)


def build(config: Config) -> Functional:
    """The model as pure functions; UserError when the config cannot be built."""
    checks.raise_problems("transformer", config)
    return Functional(lambda rngs: Transformer(config, rngs))

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""LSTM or GRU language model (Zaremba et al. 2014), with the regularisation of AWD-LSTM (Merity et al. 2017) by fields."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.functional import Functional
from jaxlm.core.types import Array, Batch, Outputs
from jaxlm.layers import checks, stack
from jaxlm.layers.embed import Embed, Head
from jaxlm.layers.linear import Linear, normal
from jaxlm.layers.recurrent import CELLS, Recurrent, boundaries
from jaxlm.ops.dropout import dropout
from jaxlm.parallel.place import constrain


@dataclasses.dataclass(frozen=True)
class Config:
    """The default has the shape of Zaremba et al.'s medium model.

    Dropout of Zaremba et al. 2014 (between layers, never from step to step): embed_dropout, layer_dropout, output_dropout.
    With `locked`, each of them draws one mask a row for all its positions (Gal and Ghahramani 2016); word_dropout leaves out
    words and weight_dropout recurrent weights, the same for the whole batch: all of it together is AWD-LSTM.
    Where a state is carried from step to step (data.packing='stream'), every mask is drawn anew for each step, as in the code of
    Merity et al.: a row's mask holds for one window of a document, not for all of it. The state itself is carried undropped.
    """

    vocab_size: int = 0  # 0: the tokenizer's
    cell: str = "lstm"  # lstm | gru
    layers: int = 2
    embed: int = 650
    hidden: int = 0  # features of a layer, projected from and to those of the embedding; 0: the same
    forget_bias: float = 1.0  # of the gate that holds on to the state, at first
    tie_embeddings: bool = True
    embed_scale: bool = True  # vectors of words times embed ** 0.5 (Vaswani et al. 2017): a table fit to be tied is small
    init_std: float = 0.05  # of the tables; recurrent layers begin uniform in +- hidden ** -0.5
    embed_dropout: float = 0.0  # of what goes into the first layer
    layer_dropout: float = 0.0  # of what goes from layer to layer
    output_dropout: float = 0.0  # of what comes out of the last
    word_dropout: float = 0.0  # of words: all their occurrences in a batch
    weight_dropout: float = 0.0  # of the weights between a step and the next
    locked: bool = False
    dtype: str = "float32"  # of activations and products; states are float32
    param_dtype: str = "float32"
    scan: bool = True  # over layers; False: unrolled; the parameters are the same
    remat: str = "none"

    recurrent: ClassVar[bool] = True  # its cache, of any length, is a state that training may carry from step to step

    def problems(self) -> list[str]:
        return [
            *checks.at_least(self, 0, "vocab_size", "hidden"),
            *checks.at_least(self, 1, "layers", "embed"),
            *checks.one_of(self, cell=tuple(CELLS)),
            *checks.rates(self, "embed_dropout", "layer_dropout", "output_dropout", "word_dropout", "weight_dropout"),
            *checks.numbers(self),
        ]


class LSTM(nnx.Module):
    """Parameters: embed, blocks (stacked), projection_in and projection_out where sizes differ, and head when not tied."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        c = self.config = config
        size, init = c.hidden or c.embed, normal(c.init_std)
        scale = c.embed**0.5 if c.embed_scale else 1.0
        self.embed = Embed(rngs, c.vocab_size, c.embed, scale=scale, dtype=c.dtype, param_dtype=c.param_dtype, init=init)
        layer = lambda rngs: Recurrent(
            rngs, size, cell=c.cell, forget_bias=c.forget_bias, weight_dropout=c.weight_dropout, dtype=c.param_dtype
        )
        self.blocks = stack.make(rngs, c.layers, layer)
        # The features of the stream are whole in each device: of the two sizes, one is split where the weight is stored.
        level = nnx.initializers.variance_scaling(1.0, "fan_in", "normal")
        linear = lambda i, o, axes: Linear(rngs, (i,), (o,), axes, init=level, dtype=c.param_dtype)
        differ = size != c.embed
        self.projection_in = linear(c.embed, size, (None, "embed")) if differ else None
        self.projection_out = linear(size, c.embed, ("embed", None)) if differ and c.tie_embeddings else None
        self.head = None if c.tie_embeddings else Head(rngs, c.vocab_size, size, param_dtype=c.param_dtype, init=init)

    def __call__(self, batch: Batch, key: Array | None = None, cache: dict[str, Array] | None = None) -> Outputs:
        c, tokens = self.config, batch["tokens"]
        segments = batch.get("segments")
        segments = jnp.ones(tokens.shape, jnp.int32) if segments is None else constrain(segments, "batch", None)
        state = self.cache(tokens.shape[0], 0) if cache is None else cache
        marks, last = boundaries(segments, state["segments"])
        words, first, layers, output = (None,) * 4 if key is None else jax.random.split(key, 4)
        drop = lambda x, rate, key: dropout(x, rate, key, shared=(1,) if c.locked else ())

        x = self.embed(tokens, batch.get("positions"))
        x = x * jnp.take(dropout(jnp.ones((c.vocab_size, 1), x.dtype), c.word_dropout, words, rows=False), tokens, axis=0)
        x = drop(x, c.embed_dropout, first)
        if self.projection_in is not None:
            x = constrain(self.projection_in(x), "batch", "seq", "act_embed")

        def call(block, x, layer, key, state):
            between, weights = (None, None) if key is None else jax.random.split(key)
            if c.layer_dropout:
                x = jnp.where(jnp.asarray(layer) > 0, drop(x, c.layer_dropout, between), x)
            return block(x, marks, state, weights)

        # Rows first in a cache, as in a batch, so that training cuts both alike; layers first in the stack.
        of_layers = {name: jnp.moveaxis(state[name], 1, 0) for name in CELLS[c.cell][3]}
        x, states = stack.run(
            self.blocks, x, call, layers=c.layers, scan=c.scan, key=layers, remat=c.remat, inputs=of_layers
        )
        x = drop(x, c.output_dropout, output)
        if self.projection_out is not None:
            x = constrain(self.projection_out(x), "batch", "seq", "act_embed")
        table = self.embed.table() if self.head is None else self.head()
        new = {**{name: jnp.moveaxis(x, 0, 1) for name, x in states.items()}, "segments": last}
        return Outputs(x, table, cache=None if cache is None else new)

    def cache(self, rows: int, length: int) -> dict[str, Array]:
        """h (and c) float32 [B, layers, D], and the last segment of each row, [B]; of any length."""
        c = self.config
        new = lambda: constrain(jnp.zeros((rows, c.layers, c.hidden or c.embed), jnp.float32), "batch", None, None)
        return {**{name: new() for name in CELLS[c.cell][3]}, "segments": constrain(jnp.zeros((rows,), jnp.int32), "batch")}


def build(config: Config) -> Functional:
    """The model as pure functions; UserError when the config cannot be built."""
    checks.raise_problems("lstm", config)
    return Functional(lambda rngs: LSTM(config, rngs))

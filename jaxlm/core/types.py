# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The values that flow between a model, an objective and the training step: arrays in named containers."""
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.errors import UserError

Array = jax.Array
Params = dict[str, Any]

# A batch is a dict of arrays with this fixed vocabulary (B rows, L positions, P predictions a row):
#   tokens [B,L] int32      segments [B,L] int32, 0 = padding, k = k-th packed document
#   positions [B,L] int32, counted from each document's start      types [B,L] int32 (sentence A or B)
#   source_tokens, source_segments, source_positions [B,S]: what the encoder of an encoder-decoder reads. Then tokens are what
#   its decoder reads, the start token and the target without its last; segment k of a row reads segment k of its source
#   targets [B,L] int32     weights [B,L] float32, 0 = not a prediction
#   predict [B,P] int32, positions to unembed: then targets and weights are [B,P]
#   labels [B] int32        label_weights [B] float32, 0 = no label         label_scale [B] float32: see Objective.balance
#   spans [B,2]: what a task's head is trained on
Batch = dict[str, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """A sum and its weight, divided once at the end: exact under padding, accumulation and any number of hosts."""

    total: Array
    weight: Array

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.weight + other.weight)

    @property
    def value(self) -> Array:
        return self.total / jnp.where(self.weight == 0, 1, self.weight)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a model returns. It carries the unembedding table, not the product, so that a loss may chunk the vocabulary."""

    # [B, L, D], after the final norm; [B, P, D] of a masked head that was told what to `predict`.
    hidden: Array
    table: Array | None = None  # [V, D]
    bias: Array | None = None  # [V]
    # A task head's output. Of an encoder a dict, with what its config asks for: pooled [B, D] of each row's first token,
    # pair float32 [B, 2] (next sentence, or sentence order), discriminator float32 [B, L].
    head: Any = None
    cache: Any = None
    aux: dict[str, Mean] = dataclasses.field(default_factory=dict)
    soft_cap: float = dataclasses.field(default=0.0, metadata={"static": True})  # logits = c * tanh(logits / c); 0 = off

    @property
    def logits(self) -> Array:
        """[B, L, V] in float32; UserError for a model without a head over the vocabulary."""
        if self.table is None:
            raise UserError("this model has no head over the vocabulary, and so no logits: set model.masked_head to true")
        return unembed(self.hidden, self.table, self.bias, self.soft_cap)


def unembed(hidden: Array, table: Array, bias: Array | None = None, soft_cap: float = 0.0) -> Array:
    """Float32 logits of hidden [..., D] against table [V, D]; the table is read in hidden's type, sums are float32."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    logits = jax.lax.dot_general(
        flat, table.astype(hidden.dtype), (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )
    logits = logits.reshape(*hidden.shape[:-1], table.shape[0])
    if bias is not None:
        logits = logits + jnp.expand_dims(bias.astype(jnp.float32), tuple(range(logits.ndim - 1)))
    return soft_cap * jnp.tanh(logits / soft_cap) if soft_cap else logits


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """What an objective must know of a tokenizer. A role that the tokenizer has no token for is None.

    special: ids that no text has (the roles and eot among them), in order. continues: bool [size], True where a token
    goes on with the word before it; None where the tokenizer does not show its words. start: what a decoder that reads a
    source begins every target with, eot where nothing else is said (T5, Marian: pad). sentinels: what stands for
    the first, second, ... part that was taken out of a text (T5's <extra_id_0>, <extra_id_1>, ...).
    """

    size: int
    eot: int  # separates documents
    special: tuple[int, ...]
    pad: int | None
    cls: int | None
    sep: int | None
    mask: int | None
    continues: np.ndarray | None
    start: int | None = None
    sentinels: tuple[int, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "start", self.eot if self.start is None else self.start)

    @staticmethod
    def bare(size: int) -> "Vocabulary":
        """Ids of which none has a role."""
        return Vocabulary(size, 0, (0,), pad=None, cls=None, sep=None, mask=None, continues=None)

    def require(self, role: str, why: str) -> int:
        """Id of the token of a role ("pad", "cls", "sep", "mask"); UserError that begins with `why` where there is none."""
        found = getattr(self, role)
        if found is None:
            raise UserError(
                f"{why} needs a {role} token and the tokenizer has none under a usual name: take tokenizer=wordpiece or "
                f"unigram, give tokenizer.special_tokens one, or name the one it has in tokenizer.{role}")
        return found


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a model is trained for, as two pure functions.

    prepare (host, numpy): rows of a plan (int32 arrays: tokens, next, segments, positions [B, L], or what data/stretches.py
    or data/texts.py say) and `rngs(i)`, the generator of row i, to the fields of a Batch. loss (device): Outputs and Batch to Means; "loss"
    is the one that is optimised, the sum of its totals over any parts of a batch divided by the sum of their weights.

    Where the loss adds averages of different weights, `terms` are the names of those Means, and balance (device) adds to
    a whole batch, before it is cut, what the sum above needs to come out as the sum of the averages.
    """

    prepare: Callable[[dict[str, np.ndarray], Callable[[int], np.random.Generator]], dict[str, np.ndarray]]
    loss: Callable[[Outputs, Batch], dict[str, Mean]]
    balance: Callable[[Batch], Batch] = lambda batch: batch
    terms: tuple[str, ...] = ()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a run needs to go on, as arrays only: the checkpoint is the state."""

    step: Array  # int32 [], updates applied or skipped so far
    params: Params
    opt_state: Any
    rng: Array  # uint32 [2], key data of the dropout stream
    skipped: Array  # int32 [2]: non-finite steps skipped in all, and in a row
    # What a recurrent model has read of each row's text, its cache of no slots: rows come first in every array. None where
    # steps do not go on from each other.
    carry: Any = None

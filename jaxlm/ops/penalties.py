# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What the tokens so far make less likely or forbid: pure functions of logits and history, applied before any filter.

Shape letters: B rows, S slots, V ids. A setting is a number, or an array [B] when rows differ.
"""
import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.types import Array
from jaxlm.ops.sample import Setting


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class History:
    """The tokens of each row so far: slots start to end of `tokens`; padding on the left and free slots never count."""

    tokens: Array  # int32 [B, S]
    start: Array  # int32 [B]
    end: Array  # int32 [] or [B]
    prompt: int = dataclasses.field(default=0, metadata={"static": True})  # the slot where what was generated begins

    def filled(self, first: int | Array | None = None) -> Array:
        """bool [B, S]: slots that hold a token, from `first` on (by default the row's start)."""
        slot = jax.lax.broadcasted_iota(jnp.int32, self.tokens.shape, 1)
        start = self.start[:, None] if first is None else jnp.maximum(self.start[:, None], first)
        return (slot >= start) & (slot < self._end())

    def last(self, count: int) -> tuple[Array, Array]:
        """The last `count` tokens [B, count], and bool [B]: there are that many."""
        at = self._end() - count + jnp.arange(count, dtype=jnp.int32)[None]
        enough = at[:, :1] >= self.start[:, None] if count else jnp.ones((len(self.tokens), 1), bool)
        return jnp.take_along_axis(self.tokens, jnp.maximum(at, 0), axis=1), enough[:, 0]

    def _end(self) -> Array:
        return jnp.broadcast_to(self.end, self.start.shape)[:, None]


@dataclasses.dataclass(frozen=True)
class Penalties:
    """All settings of `penalize`; numbers that change nothing are the defaults."""

    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    no_repeat_ngram: int = 0
    bad_words: tuple[tuple[int, ...], ...] = ()
    min_new: int = 0
    first: int = -1  # the id behind a start that stands alone, whatever else is set; -1 = none


def penalize(logits: Array, history: History, eot: int, settings: Penalties = Penalties()) -> Array:
    """Logits [B, V] after every penalty that is set, in this order, which is that of transformers' processors:

    repetition, presence and frequency (which transformers lacks), no-repeat n-gram, bad words, the least new tokens, the first token.
    Temperature and the filters of `ops.sample.filter_logits` come after.
    """
    s = settings
    if s.repetition != 1.0:
        logits = repetition(logits, history, s.repetition)
    if s.presence or s.frequency:
        logits = presence_and_frequency(logits, history, s.presence, s.frequency)
    if s.no_repeat_ngram:
        logits = no_repeat_ngram(logits, history, s.no_repeat_ngram)
    if s.bad_words:
        logits = bad_words(logits, history, s.bad_words, eot)
    if s.min_new:
        logits = min_new(logits, history, s.min_new, eot)
    if s.first >= 0:
        logits = forced_first(logits, history, s.first)
    return logits


def repetition(logits: Array, history: History, penalty: Setting) -> Array:
    """Logits of every id seen, prompt included, divided by the penalty where positive, else multiplied (arXiv:1909.05858)."""
    penalty = _column(penalty)
    less = jnp.where(logits < 0, logits * penalty, logits / penalty)
    return jnp.where(_counts(logits, history.tokens, history.filled()) > 0, less, logits)


def presence_and_frequency(logits: Array, history: History, presence: Setting, frequency: Setting) -> Array:
    """Minus presence where an id was generated, and minus frequency times how often; the prompt does not count (OpenAI API)."""
    counts = _counts(logits, history.tokens, history.filled(history.prompt))
    return logits - _column(frequency) * counts - _column(presence) * (counts > 0)


def no_repeat_ngram(logits: Array, history: History, size: int) -> Array:
    """-inf at ids that would complete an n-gram of this size that the row holds already, prompt included."""
    width = history.tokens.shape[1] - size + 1
    if width <= 0:
        return logits
    suffix, _ = history.last(size - 1)
    filled = history.filled()
    same = filled[:, :width] & filled[:, size - 1 :]
    for i in range(size - 1):
        same &= history.tokens[:, i : i + width] == suffix[:, i : i + 1]
    return jnp.where(_counts(logits, history.tokens[:, size - 1 :], same) > 0, -jnp.inf, logits)


def bad_words(logits: Array, history: History, words: Sequence[Sequence[int]], eot: int) -> Array:
    """-inf at ids that would complete one of these token sequences; the single token eot stays allowed."""
    banned = jnp.zeros(logits.shape, bool)
    words = [tuple(word) for word in words if tuple(word) != (eot,)]
    for size in sorted({len(word) for word in words}):
        group = np.array([word for word in words if len(word) == size], np.int32)
        suffix, enough = history.last(size - 1)
        hit = enough[:, None] & (suffix[:, None, :] == group[None, :, :-1]).all(axis=-1)
        banned = banned.at[:, group[:, -1]].max(hit)
    return jnp.where(banned, -jnp.inf, logits)


def min_new(logits: Array, history: History, least: Setting, eot: int) -> Array:
    """-inf at eot until `least` tokens have been generated."""
    early = (jnp.broadcast_to(history.end, history.start.shape) - history.prompt)[:, None] < _column(least)
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    return jnp.where(early & (ids == eot), -jnp.inf, logits)


def forced_first(logits: Array, history: History, first: int) -> Array:
    """0 at the id `first` and -inf elsewhere, where a row holds one token alone: the start of a target (transformers'
    forced_bos_token_id). What a longer prompt begins with has been given."""
    begins = (jnp.broadcast_to(history.end, history.start.shape) - history.start == 1)[:, None]
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    return jnp.where(begins, jnp.where(ids == first, 0.0, -jnp.inf), logits)


def _column(setting: Setting) -> Setting | Array:
    return setting if isinstance(setting, (int, float)) else jnp.reshape(jnp.asarray(setting), (-1, 1))


def _counts(logits: Array, tokens: Array, counted: Array) -> Array:
    """How often each id stands in a counted slot: float32 [B, V]."""
    one = lambda tokens, counted: jnp.zeros(logits.shape[1:], jnp.float32).at[tokens].add(counted, mode="drop")
    return jax.vmap(one)(tokens, counted.astype(jnp.float32))

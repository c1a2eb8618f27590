# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Choosing the next token: temperature, top-k, top-p, min-p and typical as masks over logits, then an exact draw.

Shape letters: B rows, V ids. A setting is a number, or an array [B] when rows differ.
"""
import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.types import Array

Setting = int | float | Array

# A temperature below the least normal float32 would be flushed to 0 in the division: it is taken as 0.
_COLDEST = float(np.finfo(np.float32).tiny)


def filter_logits(logits: Array, temperature: Setting = 1.0, top_k: Setting = 0, top_p: Setting = 1.0,
                  valid_vocab: int = 0, min_p: Setting = 0.0, typical_p: Setting = 1.0) -> Array:
    """Logits [B, V] of the distribution to draw from: float32, -inf at every id that must not be drawn.

    In this order, which is that of transformers' warpers: ids >= valid_vocab (0 = all are valid) are removed, logits
    are divided by the temperature, the top_k most probable stay (0 = all), then the smallest set of them whose
    renormalised mass is >= top_p (1 = all; Holtzman et al. 2020, arXiv:1904.09751), then those at least min_p times
    as probable as the most probable (0 = all; Nguyen et al. 2024, arXiv:2407.01082), then of what is left the set of
    mass >= typical_p whose surprise is nearest to the entropy (1 = all; Meister et al. 2022, arXiv:2202.00666).
    Equal logits rank by id, the lower first. Temperature 0 leaves the most probable id alone. Each row is shifted so
    that its largest logit is 0.
    """
    logits = _rank_filtered(logits, temperature, top_k, top_p, valid_vocab)
    column = lambda x: jnp.reshape(jnp.asarray(x, jnp.float32), (-1, 1))
    if not isinstance(min_p, (int, float)) or min_p > 0:
        logits = jnp.where(jnp.exp(logits) >= column(min_p), logits, -jnp.inf)
    if not isinstance(typical_p, (int, float)) or typical_p < 1:
        logprobs = jax.nn.log_softmax(logits, axis=-1)
        entropy = -jnp.sum(jnp.where(logits > -jnp.inf, jnp.exp(logprobs) * logprobs, 0), axis=-1, keepdims=True)
        far = jnp.abs(-logprobs - entropy)
        ranked, mass = jax.lax.sort_key_val(far, jax.nn.softmax(logits, axis=-1))
        last = jnp.sum(jnp.cumsum(mass, axis=-1) < column(typical_p), axis=-1, keepdims=True)
        keep = far <= jnp.take_along_axis(ranked, jnp.minimum(last, logits.shape[-1] - 1), axis=-1)
        logits = jnp.where(keep | (column(typical_p) >= 1), logits, -jnp.inf)
        # What is nearest to the entropy need not be the most probable.
        logits = logits - jnp.max(logits, axis=-1, keepdims=True)
    return logits


def _rank_filtered(logits: Array, temperature: Setting, top_k: Setting, top_p: Setting, valid_vocab: int) -> Array:
    """The part of `filter_logits` that needs only the ranking: temperature, top-k and top-p."""
    vocab = logits.shape[-1]
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    logits = logits.astype(jnp.float32)
    if valid_vocab:
        logits = jnp.where(ids < valid_vocab, logits, -jnp.inf)
    # Shifted before the division, so that a tiny temperature cannot overflow.
    logits = logits - jnp.max(logits, axis=-1, keepdims=True)

    numbers = all(isinstance(x, (int, float, np.number)) for x in (temperature, top_k, top_p))
    if numbers:
        if is_greedy(temperature):
            return jnp.where(ids == jnp.argmax(logits, axis=-1, keepdims=True), logits, -jnp.inf)
        logits = logits / temperature
        if top_k == 0 and top_p >= 1:
            return logits
        ranked = keep_most = min(int(top_k) or vocab, vocab)
        mass = jnp.float32(top_p)
    else:
        temperature, top_k, top_p = (jnp.broadcast_to(jnp.asarray(x), logits.shape[:1])[:, None]
                                     for x in (temperature, top_k, top_p))
        greedy = temperature < _COLDEST
        logits = logits / jnp.where(greedy, 1, temperature).astype(jnp.float32)
        ranked = vocab
        keep_most = jnp.where(greedy, 1, jnp.where(top_k == 0, vocab, top_k))
        mass = jnp.where(greedy, 1, top_p).astype(jnp.float32)

    values, order = jax.lax.top_k(logits, ranked)  # equal values come in the order of their ids
    rank = jax.lax.broadcasted_iota(jnp.int32, values.shape, 1)
    keep = rank < keep_most
    reached = jnp.cumsum(jax.nn.softmax(jnp.where(keep, values, -jnp.inf), axis=-1), axis=-1)
    before = jnp.pad(reached[:, :-1], ((0, 0), (1, 0)))
    # The sum may round up to 1 before the last id: top_p = 1 is stated, not computed.
    keep &= (before < mass) | (mass >= 1)
    # What stays is a prefix of the ranking, so its last member is a threshold and nothing needs to be scattered back.
    last = jnp.sum(keep, axis=-1, keepdims=True, dtype=jnp.int32) - 1
    value = jnp.take_along_axis(values, last, axis=-1)
    tie = jnp.take_along_axis(order, last, axis=-1)
    return jnp.where((logits > value) | ((logits == value) & (ids <= tie)), logits, -jnp.inf)


def row_keys(seed: int | Array, rows: Array, index: int | Array) -> Array:
    """Keys [B], one for each (seed, row, token index), whatever else is in the batch; index is one number or [B].

    The generator is named: the noise of `rbg` keys depends on the batch they are drawn in.
    """
    key = jax.random.key(seed, impl="threefry2x32")
    one = lambda row, index: jax.random.fold_in(jax.random.fold_in(key, row), index)
    return jax.vmap(one)(rows, jnp.broadcast_to(jnp.asarray(index), rows.shape))


def sample(key: Array, logits: Array, temperature: Setting = 1.0, top_k: Setting = 0, top_p: Setting = 1.0,
           valid_vocab: int = 0, min_p: Setting = 0.0, typical_p: Setting = 1.0) -> Array:
    """One id a row, int32 [B], drawn from exactly what `filter_logits` leaves; temperature 0 is the argmax.

    `key` is one key for all rows (they draw independently) or an array of keys [B], one a row.
    """
    logits = filter_logits(logits, temperature, top_k, top_p, valid_vocab, min_p, typical_p)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32) if is_greedy(temperature) else draw(key, logits)


def is_greedy(temperature: Setting) -> bool:
    """Whether this one number for all rows leaves nothing to chance."""
    return isinstance(temperature, (int, float)) and temperature < _COLDEST


def draw(key: Array, logits: Array) -> Array:
    """One id a row, int32 [B], with the probabilities softmax(logits); a key for all rows, or one a row."""
    if key.ndim == 0:
        return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)
    return jax.vmap(jax.random.categorical)(key, logits).astype(jnp.int32)

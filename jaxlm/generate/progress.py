# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""All that decoding carries besides the cache: small, replicated, and not donated, so that it can be read late."""
import dataclasses

import jax
import jax.numpy as jnp

from jaxlm.core.types import Array, Batch
from jaxlm.generate.settings import Draw
from jaxlm.ops import sample as sampling
from jaxlm.ops.penalties import History, penalize


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Progress:
    """Rows B, of prompts padded on the left to `width` and with room for new tokens after them."""

    seed: Array  # uint32 []
    rows: Array  # int32 [B], what each row's random numbers are named by
    limit: Array  # int32 [], the most new tokens
    token: Array  # int32 [B], drawn but not yet fed
    position: Array  # int32 [B], of that token
    alive: Array  # bool [B], not ended by eot
    index: Array  # int32 [], the least number of tokens drawn for a row that goes on
    start: Array  # int32 [B], the slot where the prompt begins
    tokens: Array  # int32 [B, width + room], prompt and continuation
    logprobs: Array  # float32 [B, room]
    lengths: Array  # int32 [B], tokens drawn
    rounds: Array  # int32 [B], calls of the model after the prefill
    width: int = dataclasses.field(metadata={"static": True})

    def filtered(self, logits: Array, tokens: Array, count: Array, draw: Draw, eot: int, vocab: int) -> Array:
        """What the next token is drawn from: float32 logits [B, V], -inf where forbidden.

        `tokens` [B, width + room], of which the first width + count are written; count is one number or [B].
        """
        history = History(tokens, self.start, self.width + count, self.width)
        logits = penalize(logits.astype(jnp.float32), history, eot, draw.penalties)
        return sampling.filter_logits(logits, draw.temperature, draw.top_k, draw.top_p, vocab, draw.min_p, draw.typical_p)

    def choose(self, logits: Array, draw: Draw, eot: int, vocab: int) -> tuple[Array, Array]:
        """The next token of each row, int32 [B], and the model's own log-probability of it (+inf: all were forbidden)."""
        left = self.filtered(logits, self.tokens, self.index, draw, eot, vocab)
        if sampling.is_greedy(draw.temperature):
            chosen = jnp.argmax(left, axis=-1).astype(jnp.int32)
        else:
            chosen = sampling.draw(sampling.row_keys(self.seed, self.rows, self.index), left)
        return chosen, own_logprob(logits, left, chosen)


def own_logprob(logits: Array, left: Array, chosen: Array) -> Array:
    """log p(chosen) [B] by the model itself; +inf where filters left nothing to choose from."""
    logprob = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), chosen[..., None], axis=-1)[..., 0]
    # Logits that are not finite are another error, and keep their NaN.
    nothing = jnp.isfinite(logits).all(axis=-1) & ~(left > -jnp.inf).any(axis=-1)
    return jnp.where(nothing, jnp.inf, logprob)


def begin(batch: Batch, eot: int, seed: Array, rows: Array, limit: Array, room: int) -> Progress:
    """Nothing drawn yet, `room` slots for what will be."""
    count, width = batch["tokens"].shape
    free = jnp.full((count, room), eot, jnp.int32)
    return Progress(
        seed=seed, rows=rows, limit=limit, token=jnp.zeros((count,), jnp.int32), position=batch["positions"][:, -1],
        alive=jnp.ones((count,), bool), index=jnp.int32(0), start=width - batch["segments"].sum(axis=1),
        tokens=jnp.concatenate([batch["tokens"], free], axis=1), logprobs=jnp.zeros((count, room), jnp.float32),
        lengths=jnp.zeros((count,), jnp.int32), rounds=jnp.zeros((count,), jnp.int32), width=width)

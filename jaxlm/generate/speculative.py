# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Speculative decoding (Leviathan et al. 2023, arXiv:2211.17192): a draft writes ahead, one call of the model judges it.

What comes out follows the model's own filtered distribution exactly, whatever the draft is. Every row goes at its own
pace: rejected tokens are taken back from its part of the caches.
"""
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.core.errors import UserError
from jaxlm.core.types import Array, Params
from jaxlm.generate.progress import Progress, begin, own_logprob
from jaxlm.generate.settings import Draw
from jaxlm.generate.stepper import Stepper
from jaxlm.ops import sample as sampling

# What a token's key is folded with: its draft, whether that is taken, and what comes in its place.
_DRAFT, _TAKE, _INSTEAD = range(3)


@dataclasses.dataclass(frozen=True)
class Speculative:
    """draw.speculate drafted tokens by each call of the model; params and cache are pairs (the model's, the draft's)."""

    stepper: Stepper
    draft: Stepper
    eot: int
    max_len: int = 0

    def __post_init__(self):
        # A model that cannot go back raises here, before a prompt is read or shown.
        for one in (self.stepper, self.draft):
            one.check_rewind()

    def ready(self, params: tuple[Params, Params]) -> tuple[Params, Params]:
        return self.stepper.ready(params[0]), self.draft.ready(params[1])

    def prefill(self, params: tuple[Params, Params], inputs: tuple, *, draw: Draw, room: int) -> tuple[Any, Progress]:
        batch, seed, rows, limit = inputs
        # A row is judged to its end before it is cut at its limit.
        room += draw.speculate + 1
        length = batch["tokens"].shape[1] + room
        logits, cache = self.stepper.prefill(params[0], batch, length)
        drafted, other = self.draft.prefill(params[1], batch, length)
        if logits.shape != drafted.shape and not self.stepper.vocab:
            raise UserError(f"the draft model knows {drafted.shape[-1]} ids and the model {logits.shape[-1]}: a draft needs the "
                            "same vocabulary")
        now = begin(batch, self.eot, seed, rows, limit, room)
        still = jnp.zeros_like(now.lengths)
        caches = self.stepper.rewind(cache, still), self.draft.rewind(other, still)
        left = now.filtered(self._alike(logits), now.tokens, now.lengths, draw, self.eot, self.stepper.vocab)
        token = self._pick(now, left, now.lengths, _INSTEAD, draw)
        logprob = own_logprob(logits, left, token)
        return caches, self._write(now, token[:, None], logprob[:, None], still, draw)

    def loop(self, params: tuple[Params, Params], cache: Any, now: Progress, end: Array, *, draw: Draw) -> tuple[Any, Progress]:
        """Until every row has ended, or has `end` tokens or more."""
        def wanted(carry: tuple) -> Array:
            return (carry[1].index < end) & self._open(carry[1]).any()

        with jax.named_scope("decode"):
            return jax.lax.while_loop(wanted, lambda carry: self._round(params, *carry, draw), (cache, now))

    def _open(self, now: Progress) -> Array:
        return now.alive & (now.lengths < now.limit)

    def _round(self, params: tuple[Params, Params], caches: Any, now: Progress, draw: Draw) -> tuple[Any, Progress]:
        ahead, vocab = draw.speculate, self.stepper.vocab
        segments = self._open(now).astype(jnp.int32)

        def write_ahead(carry: tuple, i: Array) -> tuple:
            """Feeds the draft one token and draws the next, which stands at count + i."""
            cache, token, tokens = carry
            logits, cache = self.draft.step(params[1], cache, token[:, None], segments[:, None], self._positions(now, i)[:, None])
            count = now.lengths + i
            left = now.filtered(self._alike(logits[:, 0]), tokens, count, draw, self.eot, vocab)
            token = self._pick(now, left, count, _DRAFT, draw)
            tokens = _put(tokens, token[:, None], now.width + count)
            return (cache, token, tokens), (token, left)

        with jax.named_scope("draft"):
            # One more than is judged, so that the draft's cache has all that may be kept.
            (other, _, tokens), (drafted, q) = jax.lax.scan(write_ahead, (caches[1], now.token, now.tokens), jnp.arange(ahead + 1))
        drafted, q = jnp.swapaxes(drafted, 0, 1), jnp.swapaxes(q, 0, 1)[:, :ahead]  # [B, ahead + 1], [B, ahead, V]
        fed = jnp.concatenate([now.token[:, None], drafted[:, :ahead]], axis=1)
        at = jnp.arange(ahead + 1)[None]
        with jax.named_scope("judge"):
            real = jnp.broadcast_to(segments[:, None], fed.shape)
            logits, cache = self.stepper.step(params[0], caches[0], fed, real, self._positions(now, at))
            p = jax.vmap(lambda logits, i: now.filtered(logits, tokens, now.lengths + i, draw, self.eot, vocab), (1, 0), 1)(
                self._alike(logits), jnp.arange(ahead + 1))
            taken = self._taken(now, p[:, :ahead], q, drafted[:, :ahead])
            token, left = self._instead(now, p, q, taken, draw)
        written = jnp.where(at < taken[:, None], drafted, token[:, None])
        logprobs = own_logprob(logits, p, written)
        # Both caches hold the token that was waiting and what was taken; a row that has ended holds nothing new.
        back = jnp.where(segments > 0, ahead - taken, ahead + 1)
        caches = self.stepper.rewind(cache, back), self.draft.rewind(other, back)
        now = dataclasses.replace(now, rounds=now.rounds + segments)
        return caches, self._write(now, written, logprobs, taken, draw)

    def _taken(self, now: Progress, p: Array, q: Array, drafted: Array) -> Array:
        """How many of the drafted tokens [B, K] are kept: each with probability p / q, up to the first that is not."""
        chance = [jnp.take_along_axis(jax.nn.log_softmax(x, axis=-1), drafted[..., None], axis=-1)[..., 0] for x in (p, q)]
        steps = range(drafted.shape[1])
        draws = jnp.stack([jax.vmap(jax.random.uniform)(self._keys(now, now.lengths + i, _TAKE)) for i in steps], axis=1)
        return jnp.cumprod(draws < jnp.exp(chance[0] - chance[1]), axis=1).sum(axis=1).astype(jnp.int32)

    def _instead(self, now: Progress, p: Array, q: Array, taken: Array, draw: Draw) -> tuple[Array, Array]:
        """The token after those taken: drawn from max(0, p - q), renormalised, or from p where all were taken."""
        one = lambda x: jnp.take_along_axis(x, taken[:, None, None], axis=1)[:, 0]
        last = one(p)
        # Beyond the draft's end q is 0 everywhere, so that p itself is left.
        q = jnp.pad(jax.nn.softmax(q, axis=-1), ((0, 0), (0, 1), (0, 0)))
        rest = jnp.maximum(jax.nn.softmax(last, axis=-1) - one(q), 0)
        # Where p and q agree to rounding nothing is left over, and then nothing is rejected either but by rounding.
        left = jnp.where(rest.sum(axis=-1, keepdims=True) > 0, jnp.log(rest), last)
        return self._pick(now, left, now.lengths + taken, _INSTEAD, draw), last

    def _pick(self, now: Progress, left: Array, count: Array, use: int, draw: Draw) -> Array:
        if sampling.is_greedy(draw.temperature):
            return jnp.argmax(left, axis=-1).astype(jnp.int32)
        return sampling.draw(self._keys(now, count, use), left)

    def _keys(self, now: Progress, count: Array, use: int) -> Array:
        """Keys [B] for one use at the token number `count` of each row, whatever was drafted when."""
        return jax.vmap(lambda key: jax.random.fold_in(key, use))(sampling.row_keys(now.seed, now.rows, count))

    def _positions(self, now: Progress, i: Array) -> Array:
        """Positions of the i-th tokens fed in this round; those beyond the model's last are cut off later."""
        positions = now.position.reshape(-1, *(1,) * (i.ndim - 1)) + i
        return jnp.minimum(positions, self.max_len - 1) if self.max_len else positions

    def _alike(self, logits: Array) -> Array:
        """Without the ids that the tokenizer lacks: a model and its draft may have padded their tables differently."""
        return logits[..., : self.stepper.vocab] if self.stepper.vocab else logits

    def _write(self, now: Progress, written: Array, logprobs: Array, taken: Array, draw: Draw) -> Progress:
        """The first taken + 1 of written [B, n] behind what each row has, up to its first eot and the limit."""
        at = jnp.arange(written.shape[1])[None]
        fresh = (at <= taken[:, None]) & (now.lengths[:, None] + at < now.limit) & self._open(now)[:, None]
        ends = (written == self.eot) & fresh if draw.stop_at_eot else jnp.zeros_like(fresh)
        # An eot is the row's last token: what was drafted after it is dropped.
        fresh &= jnp.cumsum(ends, axis=1) - ends == 0
        count = fresh.sum(axis=1).astype(jnp.int32)
        last = jnp.take_along_axis(written, jnp.maximum(count - 1, 0)[:, None], axis=1)[:, 0]
        lengths, alive = now.lengths + count, now.alive & ~(ends & fresh).any(axis=1)
        now = dataclasses.replace(
            now, token=jnp.where(count > 0, last, now.token), position=now.position + count, alive=alive, lengths=lengths,
            tokens=_put(now.tokens, jnp.where(fresh, written, self.eot), now.width + now.lengths),
            logprobs=_put(now.logprobs, jnp.where(fresh, logprobs, 0.0), now.lengths))
        return dataclasses.replace(now, index=jnp.min(jnp.where(self._open(now), lengths, jnp.iinfo(jnp.int32).max)))


def _put(old: Array, new: Array, at: Array) -> Array:
    """old [B, S] with new [B, n] from slot at[b] on."""
    return jax.vmap(lambda old, new, at: jax.lax.dynamic_update_slice(old, new.astype(old.dtype), (at,)))(old, new, at)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Beam search: the continuations of the highest log-probability, ranked with a length penalty, in one compiled program.

What is kept, what counts as finished and when a row stops follow transformers 5's `generate` step by step, so that the
tokens are the same. Letters: B rows, N beams, R slots for new tokens, V ids.
"""
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.errors import UserError
from jaxlm.core.types import Array, Params
from jaxlm.generate.batch import Limits, Programs, dispatch, room, to_device
from jaxlm.generate.decode import logits_are_fine
from jaxlm.generate.settings import Config, Draw, draw_of
from jaxlm.generate.stepper import Stepper
from jaxlm.ops.penalties import History, penalize
from jaxlm.parallel import place

# As far below every log-probability as float32 sums still tell apart what they are added to.
_FAR = -1.0e9


@dataclasses.dataclass(frozen=True)
class Found:
    """The n best continuations of each prompt, the best first; beyond a length, tokens are eot and log-probabilities 0."""

    tokens: np.ndarray  # int32 [B, n, R], without the prompt; an eot that ended one is its last token
    lengths: np.ndarray  # int32 [B, n]
    logprobs: np.ndarray  # float32 [B, n, R]: the model's own, before penalties
    scores: np.ndarray  # float32 [B, n]: log-probability after penalties / length ** length_penalty
    ended: np.ndarray  # bool [B, n]: at eot, not at the limit


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Beams:
    """N sequences of each row."""

    tokens: Array  # int32 [B, N, R]
    logprobs: Array  # float32 [B, N, R]
    lengths: Array  # int32 [B, N]
    scores: Array  # float32 [B, N]

    def take(self, chosen: Array) -> "_Beams":
        """Those with the numbers chosen [B, M]."""
        one = lambda x: jnp.take_along_axis(x, chosen.reshape(chosen.shape + (1,) * (x.ndim - 2)), axis=1)
        return jax.tree.map(one, self)

    def join(self, other: "_Beams") -> "_Beams":
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), self, other)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Search:
    running: _Beams
    done: _Beams
    full: Array  # bool [B, N]: that many of `done` are finished ones
    hopeful: Array  # bool [B]: what runs may still beat what is done
    going: Array  # bool []: some row has something to continue
    index: Array  # int32 [], new tokens of the running beams


class Beams:
    """Beam search with one model; arguments as of `decode.Decoder`, whose place it takes where config.beams is above 1."""

    def __init__(self, model: Any, eot: int, vocab: int = 0, max_len: int = 0, layout: place.Layout | None = None, *,
                 start: int | None = None, source_len: int = 0):
        self.limits = Limits(eot, vocab, max_len, start, source_len)
        self._stepper = Stepper(model, vocab, self.limits.source)
        compiled = lambda replicated: (jax.jit(self._search, static_argnames=("setting", "draw", "room"), out_shardings=replicated),)
        self._programs = Programs(compiled, layout)

    def ready(self, params: Params) -> Params:
        """As `decode.Decoder.ready`."""
        return dispatch(self._programs.layout, self._stepper.ready, params)

    def run(self, params: Params, prompts: Sequence[Sequence[int]], config: Config, bad_words: tuple[tuple[int, ...], ...] = (), *,
            sources: Sequence[Sequence[int]] = ()) -> Found:
        """The config.n_best best of config.beams beams for every prompt (or source). UserError as from `Decoder.run`."""
        prompts, sources = self.check(prompts, config, sources)
        batch = self.limits.batch(prompts, sources, config)
        layout, (search,) = self._programs.get(len(prompts))
        inputs = to_device((batch, np.int32(config.max_new_tokens)), layout)
        setting = (config.beams, float(config.length_penalty), config.early_stopping, config.stop_at_eot)
        draw = draw_of(config, bad_words)
        found = jax.device_get(dispatch(layout, search, self.ready(params), inputs, setting=setting, draw=draw,
                                        room=room(config.max_new_tokens)))
        logits_are_fine(found.logprobs)
        n, r = config.n_best, config.max_new_tokens
        tokens, lengths = found.tokens[:, :n, :r], found.lengths[:, :n]
        last = np.take_along_axis(tokens, np.maximum(lengths - 1, 0)[..., None], axis=-1)[..., 0]
        ended = (last == self.limits.eot) & config.stop_at_eot & (lengths > 0)
        return Found(tokens, lengths, found.logprobs[:, :n, :r], found.scores[:, :n], ended)

    def stream(self, *_: Any, **__: Any) -> Iterator[Any]:
        raise UserError("beam search cannot stream: its best text is known only at the end. Set beams to 1, or ask for the whole text")

    def check(self, prompts: Sequence[Sequence[int]], config: Config, sources: Sequence[Sequence[int]] = (),
              **names: Sequence[str]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """(prompts, sources) as they will be fed, and `names` for errors: UserError as from `Limits.check`."""
        return self.limits.check(prompts, config, sources=sources, **names)

    def _search(self, params: Params, inputs: tuple, *, setting: tuple, draw: Draw, room: int) -> _Beams:
        batch, limit = inputs
        rows, width = batch["tokens"].shape
        beams, eot = setting[0], self.limits.eot
        logits, cache = self._stepper.prefill(params, batch, width + room)
        cache = self._stepper.repeat(cache, rows, width + room, beams)
        alike = lambda x: jnp.repeat(x, beams, axis=0)
        start = alike(width - batch["segments"].sum(axis=1))
        prompt = alike(batch["tokens"])
        position = alike(batch["positions"][:, -1])
        empty = lambda first: _Beams(jnp.full((rows, beams, room), eot, jnp.int32), jnp.zeros((rows, beams, room), jnp.float32),
                                     jnp.zeros((rows, beams), jnp.int32), jnp.broadcast_to(first, (rows, beams)).astype(jnp.float32))
        # All beams begin alike: only the first may be continued at first, or all would go the same way.
        first = jnp.where(jnp.arange(beams)[None] == 0, 0.0, _FAR)
        now = _Search(empty(first), empty(jnp.full((1, 1), _FAR)), jnp.zeros((rows, beams), bool), jnp.ones((rows,), bool),
                      jnp.bool_(True), jnp.int32(0))
        advance = functools.partial(self._advance, start=start, prompt=prompt, limit=limit, setting=setting, draw=draw)
        now, chosen = advance(alike(logits), now)

        def step(carry: tuple) -> tuple:
            cache, now, chosen = carry
            cache = self._stepper.take(cache, rows, width + room, beams, chosen)
            token = jax.lax.dynamic_slice_in_dim(now.running.tokens, now.index - 1, 1, axis=2).reshape(-1, 1)
            logits, cache = self._stepper.step(params, cache, token, jnp.ones_like(token), position[:, None] + now.index)
            now, chosen = advance(logits[:, 0], now)
            return cache, now, chosen

        with jax.named_scope("beams"):
            return jax.lax.while_loop(lambda carry: carry[1].going, step, (cache, now, chosen))[1].done

    def _advance(self, logits: Array, now: _Search, *, start: Array, prompt: Array, limit: Array, setting: tuple,
                 draw: Draw) -> tuple[_Search, Array]:
        """One more token of every running beam; and which beam each of them continues, int32 [B, N]."""
        beams, penalty, early, stop = setting
        rows, n, _ = now.running.tokens.shape
        own = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
        tokens = jnp.concatenate([prompt, now.running.tokens.reshape(rows * n, -1)], axis=1)
        history = History(tokens, start, prompt.shape[1] + now.index, prompt.shape[1])
        allowed = penalize(own, history, self.limits.eot, draw.penalties)
        vocab = own.shape[-1]
        if self.limits.size:
            ids = jax.lax.broadcasted_iota(jnp.int32, allowed.shape, 1)
            allowed = jnp.where(ids < self.limits.size, allowed, -jnp.inf)
        # Twice as many as there are beams: if each of the best ends, there are as many others to go on with.
        total = now.running.scores[:, :, None] + allowed.reshape(rows, n, vocab)
        scores, at = jax.lax.top_k(total.reshape(rows, n * vocab), 2 * beams)
        origin, token = at // vocab, at % vocab
        logprob = jnp.take_along_axis(own.reshape(rows, n * vocab), at, axis=1)
        # A row of finite logits with no id allowed is said by +inf, which is read at the end.
        nothing = jnp.isfinite(own).any(axis=-1) & ~(allowed > -jnp.inf).any(axis=-1)
        logprob = jnp.where(jnp.take_along_axis(nothing.reshape(rows, n), origin, axis=1), jnp.inf, logprob)
        best = dataclasses.replace(now.running.take(origin), scores=scores)
        write = lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new[..., None].astype(x.dtype), now.index, axis=2)
        best = dataclasses.replace(best, tokens=write(best.tokens, token), logprobs=write(best.logprobs, logprob), lengths=best.lengths + 1)
        count = now.index + 1
        ends = jnp.broadcast_to(count >= limit, token.shape)
        if stop:
            ends |= token == self.limits.eot

        order = jax.lax.top_k(jnp.where(ends, scores + _FAR, scores), beams)[1]
        running = best.take(order)
        running = dataclasses.replace(running, scores=jnp.take_along_axis(jnp.where(ends, scores + _FAR, scores), order, axis=1))

        # Only the first `beams` of the candidates may finish, and only where that is still wanted.
        finished = ends & (jnp.arange(2 * beams)[None] < beams)
        ranked = scores / count.astype(jnp.float32) ** penalty
        if early == "true":
            ranked += jnp.where(now.full.all(axis=1, keepdims=True), _FAR, 0.0)
        ranked += jnp.where(now.hopeful[:, None], 0.0, _FAR) + jnp.where(finished, 0.0, _FAR)
        both = now.done.join(dataclasses.replace(best, scores=ranked))
        kept = jax.lax.top_k(both.scores, beams)[1]
        done = both.take(kept)
        full = jnp.take_along_axis(jnp.concatenate([now.full, finished], axis=1), kept, axis=1)

        longest = limit if early == "never" and penalty > 0 else count
        hope = running.scores[:, :1] / longest.astype(jnp.float32) ** penalty
        worst = jnp.where(full, done.scores.min(axis=1, keepdims=True), _FAR)
        hopeful = now.hopeful & (hope > worst).any(axis=1)
        going = hopeful.any() & ~ends.all()
        if early == "true":
            going &= ~full.all()
        return _Search(running, done, full, hopeful, going, count), jnp.take_along_axis(origin, order, axis=1)

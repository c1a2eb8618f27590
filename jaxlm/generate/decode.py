# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Token ids in, token ids out: a prefill and one compiled loop over a model's cache, whole or in pieces.

Shapes are static (prompts are padded on the left to a bucket), so few programs are compiled; pieces and the whole run
the same program, and a token's noise depends only on (seed, row, index), so both give the same tokens. With a draft
model the loop is that of generate/speculative.py; everything around it is the same.
"""
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.errors import UserError
from jaxlm.core.types import Array, Params
from jaxlm.generate import speculative
from jaxlm.generate.batch import Limits, Programs, dispatch, room, to_device
from jaxlm.generate.progress import Progress, begin
from jaxlm.generate.settings import Config, Draw, draw_of
from jaxlm.generate.stepper import Stepper
from jaxlm.parallel import place


@dataclasses.dataclass(frozen=True)
class Generated:
    """What was generated, on the host; beyond a row's length, tokens are eot and log-probabilities 0."""

    tokens: np.ndarray  # int32 [B, n], without the prompt; an eot that ended the row is the row's last token
    lengths: np.ndarray  # int32 [B]
    logprobs: np.ndarray  # float32 [B, n]: the model's own, before penalties, temperature and filters
    ended: np.ndarray  # bool [B]: stopped at eot, not at the limit
    rounds: np.ndarray  # int32 [B]: calls of the model that wrote them, the prefill not counted


@dataclasses.dataclass(frozen=True)
class Piece:
    """The next tokens of every row while streaming: row b's are tokens[b, :counts[b]]."""

    tokens: np.ndarray  # int32 [B, k]
    logprobs: np.ndarray  # float32 [B, k]
    counts: np.ndarray  # int32 [B]
    ended: np.ndarray  # bool [B]: the row stopped at eot, now or before


class Decoder:
    """Generation with one model: holds the compiled programs, so keep it while there is more to generate.

    `model` has the contract of `core.functional.Functional` with a cache. `eot` is the end-of-text id, `vocab` the
    number of ids the tokenizer knows (0 = the model's), `max_len` the most positions the model has (0 = no limit).
    With a `draft` model, of the same vocabulary, params are the pair (the model's, the draft's) everywhere below, and
    what is drawn follows the model's distribution exactly, by fewer calls of it (config.speculate tokens at a time).
    An encoder-decoder (and its draft) has a `start`, the id that every target begins with; everything below then takes
    `sources`, token ids of at most `source_len` positions (0 = no limit), and prompts, where there are any, are how targets
    begin, that id included.
    With `layout` (or one in force when the Decoder is made) everything runs on its mesh; params must be laid out on it.
    """

    def __init__(self, model: Any, eot: int, vocab: int = 0, max_len: int = 0, layout: place.Layout | None = None,
                 draft: Any = None, start: int | None = None, source_len: int = 0):
        self.limits, self._drafted = Limits(eot, vocab, max_len, start, source_len), draft is not None
        stepper = lambda model: Stepper(model, vocab, self.limits.source)
        self._loops = (Sampling(stepper(model), eot) if draft is None else
                       speculative.Speculative(stepper(model), stepper(draft), eot, max_len))
        self._programs = Programs(self._compiled, layout)

    @property
    def layout(self) -> place.Layout | None:
        return self._programs.layout

    def _compiled(self, replicated: Any) -> tuple[Any, Any]:
        # Progress is whole on every device: every process reads it, and each dispatch finds it laid out alike.
        placed = None if replicated is None else (None, replicated)
        return (jax.jit(self._loops.prefill, static_argnames=("draw", "room"), out_shardings=placed),
                # The cache is donated: it is updated in place.
                jax.jit(self._loops.loop, static_argnames=("draw",), donate_argnums=1, out_shardings=placed))

    def ready(self, params: Params) -> Params:
        """The same parameters as the loops read them fastest. On one CPU that is a copy, which `run` and `stream` make on each call:
        made once before many calls, and with `params` let go of, it spares time and memory. Elsewhere it is `params` themselves."""
        return dispatch(self.layout, self._loops.ready, params)

    def run(self, params: Params, prompts: Sequence[Sequence[int]] = (), config: Config = Config(), rows: Sequence[int] = (),
            bad_words: tuple[tuple[int, ...], ...] = (), *, sources: Sequence[Sequence[int]] = ()) -> Generated:
        """Continue every prompt, all in one dispatch after the prefill; it stops early when all rows have ended.

        Prompts are token ids of any lengths; an empty one starts from eot alone, as a new document does. `rows` names
        the rows for the random numbers (0, 1, ... by default): a row draws the same tokens under the same name
        and seed in any batch. `bad_words` are config.bad_words as token ids. `sources` are what an encoder-decoder reads,
        one for each row. UserError for bad settings, ids or lengths, for sources given to a decoder or none to an
        encoder-decoder, for logits that are not finite, and where the settings forbid every token.
        """
        cache, now, advance = self._start(params, prompts, config, rows, bad_words, sources)
        if config.max_new_tokens > 1:
            _, now = advance(cache, now, config.max_new_tokens)
        return self._read(now, config)

    def stream(self, params: Params, prompts: Sequence[Sequence[int]] = (), config: Config = Config(), rows: Sequence[int] = (),
               bad_words: tuple[tuple[int, ...], ...] = (), *, sources: Sequence[Sequence[int]] = ()) -> Iterator[Piece]:
        """The same tokens as `run`, in pieces: the first token of every row, then config.chunk (or more) at a time.

        The device computes the next piece while the caller uses this one.
        """
        cache, now, advance = self._start(params, prompts, config, rows, bad_words, sources)
        done, shown = 1, np.zeros(now.lengths.shape, np.int32)
        while True:
            ahead = None
            if done < config.max_new_tokens:
                done = min(done + config.chunk, config.max_new_tokens)
                # Dispatched before this piece is read: when all rows have ended already, it does nothing.
                cache, ahead = advance(cache, now, done)
            read = self._read(now, config)
            counts = read.lengths - shown
            take = np.minimum(shown[:, None] + np.arange(max(1, counts.max()))[None], read.tokens.shape[1] - 1)
            yield Piece(np.take_along_axis(read.tokens, take, axis=1), np.take_along_axis(read.logprobs, take, axis=1),
                        counts, read.ended)
            if ahead is None or read.ended.all():
                return
            now, shown = ahead, read.lengths

    def check(self, prompts: Sequence[Sequence[int]], config: Config, sources: Sequence[Sequence[int]] = (),
              **names: Sequence[str]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """(prompts, sources) as they will be fed, and `names` for errors: UserError as from `Limits.check`."""
        if config.beams > 1:
            raise UserError(f"beams is {config.beams}: a beam is known only at its end, so it neither streams nor samples; "
                            "use generate.beam.Beams, or set beams to 1")
        return self.limits.check(prompts, config, sources=sources, **names)

    def _start(self, params: Params, prompts: Sequence[Sequence[int]], config: Config, rows: Sequence[int],
               bad_words: tuple[tuple[int, ...], ...] = (), sources: Sequence[Sequence[int]] = ()) -> tuple:
        """Check, pad and prefill; returns (cache, progress, advance(cache, progress, end))."""
        prompts, sources = self.check(prompts, config, sources)
        rows = np.asarray(rows if len(rows) else range(len(prompts)), np.int32)
        if rows.shape != (len(prompts),):
            raise ValueError(f"{len(prompts)} prompts and {rows.size} row names: give one for each prompt, or none")
        batch = self.limits.batch(prompts, sources, config)
        layout, (prefill, loop) = self._programs.get(len(prompts))
        draw = draw_of(config, bad_words, drafted=self._drafted)
        inputs = to_device((batch, np.uint32(config.seed), rows, np.int32(config.max_new_tokens)), layout)
        params = self.ready(params)
        cache, now = dispatch(layout, prefill, params, inputs, draw=draw, room=room(config.max_new_tokens))

        def advance(cache: Any, now: Progress, end: int) -> tuple[Any, Progress]:
            return dispatch(layout, loop, params, cache, now, to_device(np.int32(end), layout), draw=draw)

        return cache, now, advance

    def _read(self, now: Progress, config: Config) -> Generated:
        """Progress as host arrays (waits for the device)."""
        tokens, logprobs, lengths, alive, rounds = jax.device_get((now.tokens, now.logprobs, now.lengths, now.alive, now.rounds))
        logits_are_fine(logprobs)
        n = config.max_new_tokens
        return Generated(tokens[:, now.width:now.width + n], lengths, logprobs[:, :n], ~alive, rounds)


def logits_are_fine(logprobs: np.ndarray) -> None:
    """UserError where a log-probability [B, ...] says that something went wrong: +inf = no token was allowed."""
    bad = np.argwhere(~np.isfinite(logprobs))
    if not len(bad):
        return
    if logprobs[tuple(bad[0])] == np.inf:
        raise UserError(f"row {bad[0][0]}: the penalties forbid every token (no_repeat_ngram, bad_words or min_new_tokens): "
                        "allow something")
    raise UserError(f"the model's logits for row {bad[0][0]} are not finite: the parameters are damaged (a diverged "
                    f"run?) or overflow in the model's dtype")


@dataclasses.dataclass(frozen=True)
class Sampling:
    """One token of every row by each call of the model."""

    stepper: Stepper
    eot: int

    def ready(self, params: Params) -> Params:
        return self.stepper.ready(params)

    def prefill(self, params: Params, inputs: tuple, *, draw: Draw, room: int) -> tuple[Any, Progress]:
        batch, seed, rows, limit = inputs
        logits, cache = self.stepper.prefill(params, batch, batch["tokens"].shape[1] + room)
        now = begin(batch, self.eot, seed, rows, limit, room)
        return cache, self._draw(logits, now, draw)

    def loop(self, params: Params, cache: Any, now: Progress, end: Array, *, draw: Draw) -> tuple[Any, Progress]:
        """Until `end` tokens have been drawn, or every row has ended."""
        def wanted(carry: tuple) -> Array:
            return (carry[1].index < end) & carry[1].alive.any()

        def step(carry: tuple) -> tuple:
            cache, now = carry
            # A row that has ended feeds padding, which no token attends to.
            logits, cache = self.stepper.step(params, cache, now.token[:, None], now.alive.astype(jnp.int32)[:, None],
                                              now.position[:, None])
            now = dataclasses.replace(now, rounds=now.rounds + now.alive.astype(jnp.int32))
            return cache, self._draw(logits[:, 0], now, draw)

        with jax.named_scope("decode"):
            return jax.lax.while_loop(wanted, step, (cache, now))

    @jax.named_scope("draw")
    def _draw(self, logits: Array, now: Progress, draw: Draw) -> Progress:
        chosen, logprob = now.choose(logits, draw, self.eot, self.stepper.vocab)
        token = jnp.where(now.alive, chosen, self.eot)
        at = (jnp.int32(0), now.index)
        return dataclasses.replace(
            now, token=token, position=now.position + now.alive.astype(jnp.int32),
            alive=now.alive & (token != self.eot) if draw.stop_at_eot else now.alive, index=now.index + 1,
            tokens=jax.lax.dynamic_update_slice(now.tokens, token[:, None], (at[0], now.width + now.index)),
            logprobs=jax.lax.dynamic_update_slice(now.logprobs, jnp.where(now.alive, logprob, 0.0)[:, None], at),
            lengths=now.lengths + now.alive.astype(jnp.int32))

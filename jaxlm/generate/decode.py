# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Token ids in, token ids out: a prefill and one compiled loop over a key-value cache, whole or in pieces.

Shapes are static (prompts are padded on the left to a bucket), so few programs are compiled; pieces and the whole run
the same program, and a token's noise depends only on (seed, row, index), so both give the same tokens.
"""
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.errors import UserError
from jaxlm.core.types import Array, Params
from jaxlm.ops import sample as sampling
from jaxlm.parallel import place

# New tokens are given room in steps of this many slots, so that nearby limits share a program.
_ROOM = 16


@dataclasses.dataclass(frozen=True)
class Config:
    """How text is continued."""

    max_new_tokens: int = 64  # at most, for each prompt
    temperature: float = 0.8  # 0 = always the most probable token
    top_k: int = 0  # draw among this many most probable tokens; 0 = all
    top_p: float = 1.0  # draw among the smallest set of at least this mass; 1 = all
    seed: int = 0
    stop_at_eot: bool = True  # a row ends at the end-of-text token
    prompt_bucket: int = 16  # the shortest padded prompt; longer ones double it
    chunk: int = 8  # tokens computed between two reports when streaming
    batch: int = 32  # prompts decoded together

    def problems(self) -> list[str]:
        out = [f"{name} is {getattr(self, name)}: it must be 1 or more"
               for name in ("max_new_tokens", "prompt_bucket", "chunk", "batch") if getattr(self, name) < 1]
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            out.append(f"temperature is {self.temperature}: it must be 0 (greedy) or more")
        if self.top_k < 0:
            out.append(f"top_k is {self.top_k}: it must be 0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            out.append(f"top_p is {self.top_p}: it must be above 0 and at most 1 (all tokens)")
        if not 0 <= self.seed < 2**32:
            out.append(f"seed is {self.seed}: it must be from 0 to {2**32 - 1}")
        return out


@dataclasses.dataclass(frozen=True)
class Generated:
    """What was generated, on the host; beyond a row's length, tokens are eot and log-probabilities 0."""

    tokens: np.ndarray  # int32 [B, n], without the prompt; an eot that ended the row is the row's last token
    lengths: np.ndarray  # int32 [B]
    logprobs: np.ndarray  # float32 [B, n]: the model's own, before temperature and filters
    ended: np.ndarray  # bool [B]: stopped at eot, not at the limit


@dataclasses.dataclass(frozen=True)
class Piece:
    """The next tokens of every row while streaming: row b's are tokens[b, :counts[b]]."""

    tokens: np.ndarray  # int32 [B, k]
    logprobs: np.ndarray  # float32 [B, k]
    counts: np.ndarray  # int32 [B]
    ended: np.ndarray  # bool [B]: the row stopped at eot, now or before


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Progress:
    """All that decoding carries besides the cache: small, replicated, and not donated, so that it can be read late."""

    seed: Array  # uint32 []
    rows: Array  # int32 [B], what each row's random numbers are named by
    token: Array  # int32 [B], drawn but not yet fed
    position: Array  # int32 [B], of that token
    alive: Array  # bool [B]
    index: Array  # int32 [], tokens drawn so far
    tokens: Array  # int32 [B, room]
    logprobs: Array  # float32 [B, room]
    lengths: Array  # int32 [B]


class Decoder:
    """Generation with one model: holds the compiled programs, so keep it while there is more to generate.

    `model` has the contract of `core.functional.Functional` with a cache. `eot` is the end-of-text id, `vocab` the
    number of ids the tokenizer knows (0 = the model's), `max_len` the most positions the model has (0 = no limit).
    With `layout` (or one in force when the Decoder is made) everything runs on its mesh; params must be laid out on it.
    """

    def __init__(self, model: Any, eot: int, vocab: int = 0, max_len: int = 0, layout: place.Layout | None = None):
        if vocab and not 0 <= eot < vocab:
            raise UserError(f"the end-of-text id {eot} is not one of the tokenizer's {vocab} ids")
        self.model, self.eot, self.vocab, self.max_len = model, eot, vocab, max_len
        self.layout = layout if layout is not None else place.active()
        self._programs: dict[bool, tuple[place.Layout | None, Any, Any]] = {}

    def run(self, params: Params, prompts: Sequence[Sequence[int]], config: Config = Config(),
            rows: Sequence[int] = ()) -> Generated:
        """Continue every prompt, all in one dispatch after the prefill; it stops early when all rows have ended.

        Prompts are token ids of any lengths; an empty one starts from eot alone, as a new document does. `rows` names
        the rows for the random numbers (0, 1, ... by default): a row draws the same tokens under the same name
        and seed in any batch. UserError for bad settings, ids or lengths, and for logits that are not finite.
        """
        cache, now, advance = self._start(params, prompts, config, rows)
        if config.max_new_tokens > 1:
            _, now = advance(params, cache, now, config.max_new_tokens)
        return self._read(now, config)

    def stream(self, params: Params, prompts: Sequence[Sequence[int]], config: Config = Config(),
               rows: Sequence[int] = ()) -> Iterator[Piece]:
        """The same tokens as `run`, in pieces: the first token of every row, then config.chunk at a time.

        The device computes the next piece while the caller uses this one.
        """
        cache, now, advance = self._start(params, prompts, config, rows)
        done, shown = 1, np.zeros((len(prompts),), np.int32)
        while True:
            ahead = None
            if done < config.max_new_tokens:
                done = min(done + config.chunk, config.max_new_tokens)
                # Dispatched before this piece is read: when all rows have ended already, it does nothing.
                cache, ahead = advance(params, cache, now, done)
            read = self._read(now, config)
            counts = read.lengths - shown
            take = np.minimum(shown[:, None] + np.arange(max(1, counts.max()))[None], read.tokens.shape[1] - 1)
            yield Piece(np.take_along_axis(read.tokens, take, axis=1), np.take_along_axis(read.logprobs, take, axis=1),
                        counts, read.ended)
            if ahead is None or read.ended.all():
                return
            now, shown = ahead, read.lengths

    def _start(self, params: Params, prompts: Sequence[Sequence[int]], config: Config, rows: Sequence[int]) -> tuple:
        """Check, pad and prefill; returns (cache, progress, advance(params, cache, progress, end))."""
        if config.problems():
            raise UserError("; ".join(config.problems()))
        prompts = self.check(prompts, config)
        rows = np.asarray(rows if len(rows) else range(len(prompts)), np.int32)
        if rows.shape != (len(prompts),):
            raise ValueError(f"{len(prompts)} prompts and {rows.size} row names: give one for each prompt, or none")
        length = max(map(len, prompts))
        width = bucket(length, config.prompt_bucket)
        # A bucket may not ask for more positions than there are; a prompt that fits stays a prompt that fits.
        width = min(width, self.max_len) if self.max_len else width
        tokens = np.full((len(prompts), width), self.eot, np.int32)
        segments, positions = np.zeros_like(tokens), np.zeros_like(tokens)
        for row, prompt in enumerate(prompts):
            at = width - len(prompt)
            tokens[row, at:], segments[row, at:], positions[row, at:] = prompt, 1, np.arange(len(prompt))
        layout, prefill, loop = self._program(len(prompts))
        if place.active() is not None and place.active() != self.layout:
            raise ValueError("another layout is in force than the one this Decoder was made with: make it inside `use`")
        draw = (config.temperature, config.top_k, config.top_p, config.stop_at_eot)
        room = -(-config.max_new_tokens // _ROOM) * _ROOM
        batch = {"tokens": tokens, "segments": segments, "positions": positions}
        cache, now = _dispatch(layout, prefill, params, _to_device((batch, np.uint32(config.seed), rows), layout),
                               draw=draw, room=room)

        def advance(params: Params, cache: Any, now: _Progress, end: int) -> tuple[Any, _Progress]:
            return _dispatch(layout, loop, params, cache, now, _to_device(np.int32(end), layout), draw=draw)

        return cache, now, advance

    def check(self, prompts: Sequence[Sequence[int]], config: Config) -> list[np.ndarray]:
        """The prompts as they will be fed; UserError when one does not fit the model, the tokenizer or the limit."""
        if not len(prompts):
            raise UserError("there are no prompts: give at least one (it may be empty)")
        out = []
        for row, prompt in enumerate(prompts):
            ids = np.asarray(prompt if len(prompt) else [self.eot])
            if ids.ndim != 1 or ids.dtype.kind not in "iu":
                raise UserError(f"prompt {row} is not a flat sequence of token ids")
            # A gather clamps an id it does not have, so a wrong tokenizer would go unnoticed.
            if ids.min() < 0 or (self.vocab and ids.max() >= self.vocab):
                raise UserError(f"prompt {row} has the id {ids.max() if ids.min() >= 0 else ids.min()}, outside the "
                                f"{self.vocab} ids of the tokenizer: encode it with the tokenizer of this model")
            if self.max_len and len(ids) + config.max_new_tokens > self.max_len:
                raise UserError(
                    f"prompt {row} has {len(ids)} tokens (document separator included) and max_new_tokens is "
                    f"{config.max_new_tokens}: together {len(ids) + config.max_new_tokens}, more than the "
                    f"{self.max_len} positions of the model. Shorten the prompt"
                    + (f" or set max_new_tokens to {self.max_len - len(ids)} or less." if len(ids) < self.max_len else
                       f" to {self.max_len - 1} tokens or less."))
            out.append(ids)
        return out

    def _program(self, rows: int) -> tuple[place.Layout | None, Any, Any]:
        """The layout for this many rows and the two functions traced under it (and only under it)."""
        split = self.layout is not None and rows % math.prod(
            self.layout.mesh.shape[name] for name in self.layout.rules.acts.get("batch", ())) == 0
        if split not in self._programs:
            layout = self.layout
            if layout is not None:
                # One token has no sequence to split, and rows are split only where they divide.
                dropped = ("seq",) if split else ("seq", "batch")
                acts = {axis: names for axis, names in layout.rules.acts.items() if axis not in dropped}
                layout = dataclasses.replace(layout, rules=dataclasses.replace(layout.rules, acts=acts))
            # Progress is whole on every device: every process reads it, and each dispatch finds it laid out alike.
            placed = None if layout is None else (None, layout.replicated)
            self._programs[split] = (
                layout,
                jax.jit(self._prefill, static_argnames=("draw", "room"), out_shardings=placed),
                # The cache is donated: it is updated in place.
                jax.jit(self._loop, static_argnames=("draw",), donate_argnums=1, out_shardings=placed),
            )
        return self._programs[split]

    def _prefill(self, params: Params, inputs: tuple, *, draw: tuple, room: int) -> tuple[Any, _Progress]:
        batch, seed, rows = inputs
        count, width = batch["tokens"].shape
        with jax.named_scope("prefill"):
            cache = self.model.cache(count, width + room)
            batch = {name: place.constrain(x, "batch", None) for name, x in batch.items()}
            outputs = self.model.apply(params, batch, cache=cache)
            position = batch["positions"][:, -1]
            now = _Progress(
                seed=seed, rows=rows, token=jnp.zeros((count,), jnp.int32), position=position,
                alive=jnp.ones((count,), bool), index=jnp.int32(0), tokens=jnp.full((count, room), self.eot, jnp.int32),
                logprobs=jnp.zeros((count, room), jnp.float32), lengths=jnp.zeros((count,), jnp.int32))
            return outputs.cache, self._draw(outputs, now, draw)

    def _loop(self, params: Params, cache: Any, now: _Progress, end: Array, *, draw: tuple) -> tuple[Any, _Progress]:
        """Until `end` tokens have been drawn, or every row has ended."""
        def wanted(carry: tuple) -> Array:
            return (carry[1].index < end) & carry[1].alive.any()

        def step(carry: tuple) -> tuple:
            cache, now = carry
            # A row that has ended feeds padding, which no token attends to.
            batch = {"tokens": now.token[:, None], "segments": now.alive.astype(jnp.int32)[:, None],
                     "positions": now.position[:, None]}
            batch = {name: place.constrain(x, "batch", None) for name, x in batch.items()}
            outputs = self.model.apply(params, batch, cache=cache)
            return outputs.cache, self._draw(outputs, now, draw)

        with jax.named_scope("decode"):
            return jax.lax.while_loop(wanted, step, (cache, now))

    @jax.named_scope("draw")
    def _draw(self, outputs: Any, now: _Progress, draw: tuple) -> _Progress:
        temperature, top_k, top_p, stop = draw
        # Only the last slot is unembedded: prompts are padded on the left, so it is every row's last token.
        logits = dataclasses.replace(outputs, hidden=outputs.hidden[:, -1:]).logits[:, 0]
        if self.vocab > logits.shape[-1]:
            raise UserError(f"the tokenizer has {self.vocab} ids and the model {logits.shape[-1]}: use the tokenizer "
                            f"that the model was trained with")
        logits = place.constrain(logits, "batch", None)
        keys = sampling.row_keys(now.seed, now.rows, now.index)
        chosen = sampling.sample(keys, logits, temperature, top_k, top_p, self.vocab)
        logprob = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), chosen[:, None], axis=-1)[:, 0]
        token = jnp.where(now.alive, chosen, self.eot)
        at = (jnp.int32(0), now.index)
        return _Progress(
            seed=now.seed, rows=now.rows, token=token, position=now.position + now.alive.astype(jnp.int32),
            alive=token != self.eot if stop else now.alive, index=now.index + 1,
            tokens=jax.lax.dynamic_update_slice(now.tokens, token[:, None], at),
            logprobs=jax.lax.dynamic_update_slice(now.logprobs, jnp.where(now.alive, logprob, 0.0)[:, None], at),
            lengths=now.lengths + now.alive.astype(jnp.int32))

    def _read(self, now: _Progress, config: Config) -> Generated:
        """Progress as host arrays (waits for the device)."""
        tokens, logprobs, lengths, alive = jax.device_get((now.tokens, now.logprobs, now.lengths, now.alive))
        if not np.isfinite(logprobs).all():
            row = int(np.argmin(np.isfinite(logprobs).all(axis=1)))
            raise UserError(f"the model's logits for row {row} are not finite: the parameters are damaged (a diverged "
                            f"run?) or overflow in the model's dtype")
        n = config.max_new_tokens
        return Generated(tokens[:, :n], lengths, logprobs[:, :n], ~alive)


def bucket(length: int, least: int) -> int:
    """The smallest of least, 2 least, 4 least, ... that holds `length`."""
    while least < length:
        least *= 2
    return least


def _dispatch(layout: place.Layout | None, program: Any, *args: Any, **static: Any) -> tuple[Any, _Progress]:
    if layout is None:
        return program(*args, **static)
    with place.use(layout):
        return program(*args, **static)


def _to_device(tree: Any, layout: place.Layout | None) -> Any:
    """Host arrays, equal on every process, onto all devices: the explicit transfer that a transfer guard allows."""
    if layout is None:
        return jax.device_put(tree)
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(np.shape(x), layout.replicated, lambda at: np.asarray(x)[at]), tree)

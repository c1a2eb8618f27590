# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Prompts and sources as a batch: checked, padded to few shapes, and the layout that a program for that many rows has."""
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxlm.core.errors import UserError
from jaxlm.generate.settings import Config
from jaxlm.parallel import place

# New tokens are given room in steps of this many slots, so that nearby limits share a program.
_ROOM = 16


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one model and its tokenizer allow; of an encoder-decoder with `start`, the id that every target begins with."""

    eot: int  # the end-of-text id
    size: int = 0  # ids that the tokenizer knows; 0 = the model's
    max_len: int = 0  # the most positions; 0 = no limit
    start: int | None = None  # None: a decoder, which reads no source
    source_len: int = 0  # the most positions of a source; 0 = no limit

    def __post_init__(self):
        for what, i in (("end-of-text id", self.eot), ("id that a target begins with,", self.start)):
            if self.size and i is not None and not 0 <= i < self.size:
                raise UserError(f"the {what} {i} is not one of the tokenizer's {self.size} ids")

    @property
    def source(self) -> bool:
        """The model reads a source."""
        return self.start is not None

    def check(self, prompts: Sequence[Sequence[int]], config: Config, new: int | None = None,
              sources: Sequence[Sequence[int]] = (), names: Sequence[str] = (),
              source_names: Sequence[str] = ()) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """(prompts, sources) as they will be fed; UserError when one does not fit the model, the tokenizer or the limit.

        An empty prompt is eot alone, as a new document begins, or the start of a target; no prompts are as many of those
        as there are sources. `new` tokens follow: config.max_new_tokens by default. names, source_names: what an error calls
        each, "prompt 0" and "source 0" by default.
        """
        if config.problems():
            raise UserError("; ".join(config.problems()))
        for name, i in (("forced_bos", config.forced_bos), *(("suppress", i) for i in config.suppress)):
            if self.size and i >= self.size:
                raise UserError(f"{name} has the id {i}, outside the {self.size} ids of the tokenizer")
        if self.source and not len(sources):
            raise UserError("this model reads a source (the text to translate, say) and there is none: give sources")
        if len(sources) and not self.source:
            raise UserError("this model continues text and reads no source: give prompts alone")
        prompts = prompts if len(prompts) or not self.source else [()] * len(sources)
        if not len(prompts):
            raise UserError("there are no prompts: give at least one (it may be empty)")
        if self.source and len(sources) != len(prompts):
            raise UserError(f"there are {len(sources)} sources and {len(prompts)} prompts: give one for each, or no prompts")
        new = config.max_new_tokens if new is None else new
        out = []
        for row, prompt in enumerate(prompts):
            what = names[row] if names else f"prompt {row}"
            ids = self._ids(prompt if len(prompt) else [self.start if self.source else self.eot], what)
            if self.max_len and len(ids) + new > self.max_len:
                said = f" and max_new_tokens is {new}: together {len(ids) + new}" if new else ""
                room = self.max_len - len(ids)
                first = "start of the target" if self.source else "document separator"
                if self.source and new and len(ids) == 1:
                    raise UserError(f"max_new_tokens is {new}, with the start of the target {new + 1} tokens, more than the {self.max_len} positions "
                                    f"of the model: set max_new_tokens to {room} or less.")
                raise UserError(
                    f"{what} has {len(ids)} tokens ({first} included){said}, more than the "
                    f"{self.max_len} positions of the model. Shorten the prompt"
                    + (f" or set max_new_tokens to {room} or less." if room > 0 else
                       f" to {self.max_len - bool(new)} tokens or less."))
            out.append(ids)
        return out, [self._source(source, source_names[row] if source_names else f"source {row}") for row, source in enumerate(sources)]

    def _source(self, source: Sequence[int], what: str) -> np.ndarray:
        if not len(source):
            raise UserError(f"{what} is empty: there is nothing to read in it, leave it out")
        ids = self._ids(source, what)
        if self.source_len and len(ids) > self.source_len:
            raise UserError(f"{what} has {len(ids)} tokens (its end included), more than the {self.source_len} positions that the "
                            "model has for a source: shorten it, or split it")
        return ids

    def _ids(self, given: Sequence[int], what: str) -> np.ndarray:
        ids = np.asarray(given)
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise UserError(f"{what} is not a flat sequence of token ids")
        # A gather clamps an id it does not have, so a wrong tokenizer would go unnoticed.
        if ids.min() < 0 or (self.size and ids.max() >= self.size):
            raise UserError(f"{what} has the id {ids.max() if ids.min() >= 0 else ids.min()}, outside the "
                            f"{self.size} ids of the tokenizer: encode it with the tokenizer of this model")
        return ids

    def batch(self, prompts: Sequence[np.ndarray], sources: Sequence[np.ndarray], config: Config,
              left: bool = True) -> dict[str, np.ndarray]:
        """What `check` gave, as a batch whose widths are buckets, but never more positions than there are.

        Prompts are padded on the left (or not), sources on the right, as in training.
        """
        def width(rows: Sequence[np.ndarray], most: int) -> int:
            found = bucket(max(map(len, rows)), config.prompt_bucket)
            return min(found, most) if most else found

        out = padded(prompts, width(prompts, self.max_len), self.eot, left)
        if self.source:
            read = padded(sources, width(sources, self.source_len), self.eot, left=False)
            out |= {f"source_{name}": x for name, x in read.items()}
        return out


def prompt_ids(tokenizer: Any, prompt: str | Sequence[int], start: int | None = None) -> np.ndarray:
    """A text as a document's beginning, with the separator eot in front, or as a target's, with `start`; ids as they are.

    A target of which nothing is given begins with `start` alone: what the tokenizer puts before a text is the model's to say.
    """
    if not isinstance(prompt, str):
        return np.asarray(prompt)
    first = tokenizer.eot if start is None else start
    ids = tokenizer.encode(prompt)
    ids = tokenizer.side(ids) if start is not None and prompt else ids
    return np.concatenate([[first], np.asarray(ids, np.int64)]).astype(np.int32)


def source_ids(tokenizer: Any, source: str | Sequence[int]) -> np.ndarray:
    """A text as the encoder of an encoder-decoder was trained to read it; ids as they are."""
    if not isinstance(source, str):
        return np.asarray(source)
    ids = tokenizer.encode(source)
    return np.append(tokenizer.side(ids), np.int32(tokenizer.eot)) if len(ids) else ids


def padded(prompts: Sequence[np.ndarray], width: int, fill: int, left: bool = True) -> dict[str, np.ndarray]:
    """tokens, segments (0 = padding) and positions [B, width] of prompts, the padding on the left (or on the right)."""
    tokens = np.full((len(prompts), width), fill, np.int32)
    segments, positions = np.zeros_like(tokens), np.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        at = slice(width - len(prompt), width) if left else slice(len(prompt))
        tokens[row, at], segments[row, at], positions[row, at] = prompt, 1, np.arange(len(prompt))
    return {"tokens": tokens, "segments": segments, "positions": positions}


def room(new_tokens: int) -> int:
    """Slots for this many new tokens."""
    return -(-new_tokens // _ROOM) * _ROOM


def bucket(length: int, least: int) -> int:
    """The smallest of least, 2 least, 4 least, ... that holds `length`."""
    while least < length:
        least *= 2
    return least


class Programs:
    """Compiled functions, made once for rows that a layout splits and once for rows that it does not.

    `make(replicated)` returns the jitted functions; `replicated` is the sharding of a value that is whole on every
    device, None without a layout. Without one given, the layout in force when this is made is used.
    """

    def __init__(self, make: Callable[[Any], tuple[Any, ...]], layout: place.Layout | None = None):
        self.layout = layout if layout is not None else place.active()
        self._make, self._made = make, {}

    def get(self, rows: int) -> tuple[place.Layout | None, tuple[Any, ...]]:
        """The layout for this many rows, and the functions traced under it (and only under it)."""
        if place.active() is not None and place.active() != self.layout:
            raise ValueError("another layout is in force than the one this was made with: make it inside `use`")
        split = self.layout is not None and rows % math.prod(
            self.layout.mesh.shape[name] for name in self.layout.rules.acts.get("batch", ())) == 0
        if split not in self._made:
            layout = self.layout
            if layout is not None:
                # One token has no sequence to split, and rows are split only where they divide.
                dropped = ("seq",) if split else ("seq", "batch")
                acts = {axis: names for axis, names in layout.rules.acts.items() if axis not in dropped}
                layout = dataclasses.replace(layout, rules=dataclasses.replace(layout.rules, acts=acts))
            self._made[split] = layout, self._make(None if layout is None else layout.replicated)
        return self._made[split]


def dispatch(layout: place.Layout | None, program: Any, *args: Any, **static: Any) -> Any:
    """Calls a program under its layout."""
    if layout is None:
        return program(*args, **static)
    with place.use(layout):
        return program(*args, **static)


def to_device(tree: Any, layout: place.Layout | None) -> Any:
    """Host arrays, equal on every process, onto all devices: the explicit transfer that a transfer guard allows."""
    if layout is None:
        return jax.device_put(tree)
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(np.shape(x), layout.replicated, lambda at: np.asarray(x)[at]), tree)

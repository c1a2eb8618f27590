# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Text in, text out: prompts are encoded as documents of the training stream, continued, and decoded as they grow."""
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxlm.core.errors import UserError
from jaxlm.core.types import Params
from jaxlm.generate.decode import Config, Decoder, Piece
from jaxlm.parallel.place import Layout


@dataclasses.dataclass(frozen=True)
class Result:
    """One prompt's continuation."""

    prompt: str
    text: str  # what was generated, without the prompt and without the eot that ended it
    tokens: np.ndarray  # int32 [n], with that eot
    logprobs: np.ndarray  # float32 [n], of the model itself: before temperature and filters
    finished_by: str  # "eot" or "length"


def generate(model: Any, params: Params, tokenizer: Any, prompts: Sequence[str], config: Config = Config(),
             on_text: Callable[[int, str], None] | None = None, *, max_len: int = 0, layout: Layout | None = None,
             decoder: Decoder | None = None) -> list[Result]:
    """Continue every prompt; `on_text(i, piece)` gets each new piece of prompt i's text, never a part of a character.

    A prompt is a document's beginning: the separator `eot` goes in front, as in the training stream, so an empty
    prompt asks for a new document. The tokenizer has encode(text), stream() with push(id) and flush(), vocab_size
    and eot. `max_len` is the number of positions the model has (0 = no limit). Prompts are decoded config.batch at
    a time; prompt i draws the same tokens whatever the others are. Pass a `decoder` to keep its compiled programs
    between calls; it takes the place of model, max_len and layout. UserError as from `Decoder.run`.
    """
    if isinstance(prompts, str):
        raise TypeError("prompts is one string: give a list of strings")
    if config.problems():
        raise UserError("; ".join(config.problems()))
    if decoder is None:
        decoder = Decoder(model, tokenizer.eot, tokenizer.vocab_size, max_len, layout)
    encoded = [np.concatenate([[tokenizer.eot], np.asarray(tokenizer.encode(prompt), np.int64)]).astype(np.int32)
               for prompt in prompts]
    if encoded:
        decoder.check(encoded, config)  # all of them before the first is decoded
    out = []
    for first in range(0, len(prompts), config.batch):
        rows = range(first, min(first + config.batch, len(prompts)))
        batch = [encoded[i] for i in rows]
        texts = [_Text(i, encoded[i][1:], tokenizer, config.stop_at_eot, on_text) for i in rows]
        if on_text is None:
            done = decoder.run(params, batch, config, rows)
            pieces = [Piece(done.tokens, done.logprobs, done.lengths, done.ended)]
        else:
            pieces = decoder.stream(params, batch, config, rows)
        for piece in pieces:
            for row, text in enumerate(texts):
                count = piece.counts[row]
                text.add(piece.tokens[row, :count], piece.logprobs[row, :count], bool(piece.ended[row]))
        out += [text.result(prompts[text.index]) for text in texts]
    return out


class _Text:
    """One prompt's continuation while it grows."""

    def __init__(self, index: int, prompt: np.ndarray, tokenizer: Any, stop_at_eot: bool,
                 on_text: Callable[[int, str], None] | None):
        self.index, self._on_text = index, on_text
        self._stream, self._eot = tokenizer.stream(), tokenizer.eot if stop_at_eot else -1
        # The text of a token may depend on those before it: a first word of SentencePiece comes without its space.
        for token in prompt:
            self._stream.push(int(token))
        self._tokens: list[np.ndarray] = []
        self._logprobs: list[np.ndarray] = []
        self._parts: list[str] = []
        self._ended = False

    def add(self, tokens: np.ndarray, logprobs: np.ndarray, ended: bool) -> None:
        self._tokens.append(tokens)
        self._logprobs.append(logprobs)
        for token in tokens:
            if token != self._eot:
                self._show(self._stream.push(int(token)))
        if ended and not self._ended:
            self._show(self._stream.flush())
        self._ended = ended

    def result(self, prompt: str) -> Result:
        if not self._ended:
            self._show(self._stream.flush())
        return Result(prompt, "".join(self._parts), np.concatenate(self._tokens), np.concatenate(self._logprobs),
                      "eot" if self._ended else "length")

    def _show(self, piece: str) -> None:
        if piece:
            self._parts.append(piece)
            if self._on_text is not None:
                self._on_text(self.index, piece)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Text in, text out: prompts (and sources) are encoded as in training, continued (or answered), and decoded as they grow."""
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxlm.core.errors import UserError
from jaxlm.core.types import Params
from jaxlm.generate.batch import prompt_ids, source_ids
from jaxlm.generate.beam import Beams
from jaxlm.generate.decode import Decoder, Piece
from jaxlm.generate.fill import blanked, filled
from jaxlm.generate.settings import Config
from jaxlm.generate.stop import Stops
from jaxlm.parallel.place import Layout


@dataclasses.dataclass(frozen=True)
class Result:
    """One continuation of a prompt, or target of a source."""

    prompt: str | Sequence[int]
    text: str  # what was generated, without the prompt, the eot that ended it or the stop string before which it ends
    tokens: np.ndarray  # int32 [n], with that eot, or to the token that completed the stop string
    logprobs: np.ndarray  # float32 [n], of the model itself: before penalties, temperature and filters
    finished_by: str  # "eot", "stop" or "length"
    score: float | None = None  # of a beam: what it is ranked by
    source: str | Sequence[int] | None = None  # what an encoder-decoder read


def generate(model: Any, params: Params, tokenizer: Any, prompts: Sequence[str | Sequence[int]] = (), config: Config = Config(),
             on_text: Callable[[int, str], None] | None = None, *, sources: Sequence[str | Sequence[int]] = (), max_len: int = 0,
             source_len: int = 0, layout: Layout | None = None, decoder: Decoder | Beams | None = None,
             on_done: Callable[[int], None] | None = None, names: Sequence[str] = (), rows: Sequence[int] = ()) -> list[Result]:
    """Continue every prompt; `on_text(i, piece)` gets each new piece of prompt i's text, never a part of a character.

    A prompt is a document's beginning: the separator `eot` goes in front, as in the training stream, so an empty
    prompt asks for a new document. A prompt of token ids (a chat's, say) is fed as it is. The tokenizer has encode(text),
    stream() with push(id) and flush(), vocab_size and eot. `max_len` is the number of positions the model has (0 = no
    limit). Prompts are decoded config.batch at a time; prompt i draws the same tokens whatever the others are, as the i-th or
    as the number that `rows` gives it. `on_done(n)` is told of the n prompts of every batch that is finished. `names` are
    what errors call the prompts (or sources).
    With config.fill the texts of the results are the sources, their blanks filled in, and streamed whole.
    An encoder-decoder is given `sources`, one for each result, of at most `source_len` positions: texts are read as in
    training, token ids as they are. Its prompts, if any, are how the targets begin. Sources of like length are decoded
    together; results come in the order given.
    With config.beams above 1 there are config.n_best results for each prompt, the best first, and no streaming. Pass a
    `decoder` to keep its compiled programs between calls (of beam.Beams with beams, or one with a draft model); it takes
    the place of model, max_len, source_len and layout. UserError as from `Decoder.run`.
    """
    if isinstance(prompts, str) or isinstance(sources, str):
        raise TypeError("prompts (or sources) is one string: give a list of strings")
    if config.problems():
        raise UserError("; ".join(config.problems()))
    if decoder is None:
        start = tokenizer.vocabulary.start if sources else None
        decoder = (Beams if config.beams > 1 else Decoder)(model, tokenizer.eot, tokenizer.vocab_size, max_len, layout, start=start,
                                                           source_len=source_len)
    prompts = prompts or [""] * len(sources)
    rows = rows or range(len(prompts))
    encoded = [prompt_ids(tokenizer, prompt, decoder.limits.start) for prompt in prompts]
    if config.fill and not all(isinstance(source, str) for source in sources or [0]):
        raise UserError("generate.fill fills the blanks of the texts that an encoder-decoder reads: leave it false for this model, or "
                        "give texts")
    read = [(blanked if config.fill else source_ids)(tokenizer, source) for source in sources]
    bad_words = tuple(tuple(map(int, tokenizer.encode(word))) for word in config.bad_words)
    if encoded:
        # All of them before the first is decoded.
        decoder.check(encoded, config, read, **{"source_names" if sources else "names": names})
        if on_text is not None and isinstance(decoder, Beams):
            decoder.stream()
    params = decoder.ready(params)
    out: list[list[Result]] = [[] for _ in prompts]
    # Short sources are not padded to long ones, nor do their short targets wait for long ones.
    order = sorted(range(len(prompts)), key=lambda i: len(read[i])) if read else range(len(prompts))
    for first in range(0, len(prompts), config.batch):
        part = order[first : first + config.batch]
        take = lambda given: [given[i] for i in part] if given else []
        new = lambda i: _Text(i, encoded[i][isinstance(prompts[i], str):], tokenizer, config, None if config.fill else on_text)

        def result(text: _Text, score: float | None = None) -> Result:
            found = text.result(prompts[text.index], score, sources[text.index] if sources else None)
            if config.fill:
                found = dataclasses.replace(found, text=filled(tokenizer, read[text.index], found.tokens))
                if on_text is not None:
                    on_text(text.index, found.text)
            return found

        if isinstance(decoder, Beams):
            found = decoder.run(params, take(encoded), config, bad_words, sources=take(read))
            for row, i in enumerate(part):
                for n in range(config.n_best):
                    text, size = new(i), found.lengths[row, n]
                    text.add(found.tokens[row, n, :size], found.logprobs[row, n, :size], bool(found.ended[row, n]))
                    out[i].append(result(text, float(found.scores[row, n])))
        else:
            texts = [new(i) for i in part]
            for piece in _pieces(decoder, params, take(encoded), config, [rows[i] for i in part], bad_words,
                                 take(read), on_text is not None):
                for row, text in enumerate(texts):
                    count = piece.counts[row]
                    text.add(piece.tokens[row, :count], piece.logprobs[row, :count], bool(piece.ended[row]))
                if all(text.finished for text in texts):
                    break  # stop strings are the host's: the device would go on to the limit
            for text in texts:
                out[text.index].append(result(text))
        if on_done is not None:
            on_done(len(part))
    return [one for found in out for one in found]


def _pieces(decoder: Decoder, params: Params, batch: list, config: Config, rows: Sequence[int], bad_words: tuple, sources: list,
            stream: bool) -> Iterator[Piece]:
    if stream or config.stop:
        yield from decoder.stream(params, batch, config, rows, bad_words, sources=sources)
        return
    done = decoder.run(params, batch, config, rows, bad_words, sources=sources)
    yield Piece(done.tokens, done.logprobs, done.lengths, done.ended)


class _Text:
    """One prompt's continuation while it grows."""

    def __init__(self, index: int, prompt: np.ndarray, tokenizer: Any, config: Config, on_text: Callable[[int, str], None] | None):
        self.index, self._on_text = index, on_text
        self._stream, self._eot = tokenizer.stream(), tokenizer.eot if config.stop_at_eot else -1
        # The text of a token may depend on those before it: a first word of SentencePiece comes without its space.
        for token in prompt:
            self._stream.push(int(token))
        self._stops = Stops(config.stop)
        self._tokens: list[int] = []
        self._logprobs: list[float] = []
        self._parts: list[str] = []
        self.finished = ""

    def add(self, tokens: np.ndarray, logprobs: np.ndarray, ended: bool) -> None:
        for token, logprob in zip(tokens, logprobs, strict=True):
            if self.finished:
                return
            self._tokens.append(int(token))
            self._logprobs.append(float(logprob))
            if token != self._eot:
                self._show(self._stops.push(self._stream.push(int(token))))
            if self._stops.found:
                self.finished = "stop"
        if ended and not self.finished:
            self._end("eot")

    def result(self, prompt: str | Sequence[int], score: float | None = None, source: str | Sequence[int] | None = None) -> Result:
        if not self.finished:
            self._end("length")
        return Result(prompt, "".join(self._parts), np.array(self._tokens, np.int32), np.array(self._logprobs, np.float32),
                      self.finished, score, source)

    def _end(self, why: str) -> None:
        self._show(self._stops.push(self._stream.flush()))
        self.finished = "stop" if self._stops.found else why
        self._show(self._stops.flush())

    def _show(self, piece: str) -> None:
        if piece:
            self._parts.append(piece)
            if self._on_text is not None:
                self._on_text(self.index, piece)

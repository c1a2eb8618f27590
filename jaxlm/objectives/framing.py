# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Stretches of sentences become an encoder's rows: [CLS] A [SEP], or [CLS] A [SEP] B [SEP] with a label.

As published for BERT (Devlin et al. 2018, create_pretraining_data.py) and ALBERT (Lan et al. 2019), with three
differences: rows are fixed, so that data is a function of (seed, step, row): what a pair leaves over waits for another
epoch and not for the next row; a random B aims at the length of the true one, so that its length says nothing;
and ALBERT's stretch of a single sentence has no label instead of a random B.
"""
import numpy as np

from jaxlm.core.errors import UserError

NEXT, RANDOM = 0, 1  # labels of nsp
ORDERED, SWAPPED = 0, 1  # labels of sop
LABELS = {"nsp": (NEXT, RANDOM), "sop": (ORDERED, SWAPPED)}

Row = dict[str, np.ndarray]


def frame(pairs: str, stretch: Row, length: int, cls: int, sep: int, pad: int, short_rate: float,
          rng: np.random.Generator) -> tuple[Row, np.ndarray]:
    """(fields of a row of `length`, where a sentence begins in it: bool [length]).

    stretch: tokens, sentences, other, other_sentences of one row (data/stretches.py). pairs: "none", "nsp" or "sop".
    Fields: tokens, segments, positions, types int32 [length], and for pairs labels int32 [] and label_weights
    float32 []: 0 where the row has no label. UserError where nsp finds no other document.
    """
    sentences = _split(stretch["tokens"], stretch["sentences"])
    label, weight = 0, 0.0
    if not sentences:
        parts = []
    elif pairs == "none":
        parts = [_window(sentences, length - 2, rng)]
    else:
        parts, label, weight = _pair(pairs, sentences, stretch, length - 3, short_rate, rng)
    tokens, types, begins = [], [], []
    for number, part in enumerate(parts):
        opening, ids, begin = ([] if number else [cls]), [token for s in part for token in s], [i == 0 for s in part for i in range(len(s))]
        tokens += [*opening, *ids, sep]
        begins += [*(False for _ in opening), *begin, False]
        types += [number] * (len(tokens) - len(types))
    row = {"tokens": np.full(length, pad, np.int32), **{k: np.zeros(length, np.int32) for k in ("segments", "positions", "types")}}
    size, starts = len(tokens), np.zeros(length, bool)
    row["tokens"][:size], row["types"][:size], starts[:size] = tokens, types, begins
    row["segments"][:size], row["positions"][:size] = 1, np.arange(size)
    if pairs != "none":
        row |= {"labels": np.int32(label), "label_weights": np.float32(weight)}
    return row, starts


def _split(tokens: np.ndarray, sentences: np.ndarray) -> list[list[int]]:
    """The sentences, each a list of ids."""
    count = int((sentences > 0).sum())
    cuts = np.flatnonzero(np.diff(sentences[:count])) + 1
    return [part.tolist() for part in np.split(tokens[:count], cuts)] if count else []


def _window(sentences: list[list[int]], room: int, rng: np.random.Generator) -> list[list[int]]:
    """Sentences cut to `room` tokens, at the front and at the back by chance."""
    excess = max(0, _size(sentences) - room)
    return _trim(sentences, int(rng.integers(excess + 1)), excess)


def _pair(pairs: str, sentences: list, stretch: Row, room: int, short_rate: float,
          rng: np.random.Generator) -> tuple[list, int, float]:
    """([A, B] cut to `room` tokens together, the label, its weight)."""
    if rng.random() < short_rate:
        # A part of the stretch, so that short inputs are known too.
        begin, target = int(rng.integers(len(sentences))), int(rng.integers(2, room + 1))
        sentences = _until(sentences[begin:], target)
    single = len(sentences) == 1
    cut = 1 if single else int(rng.integers(1, len(sentences)))
    a, b = sentences[:cut], sentences[cut:]
    coin = rng.random() < 0.5
    if pairs == "sop":
        if single:
            return [_window(a, room, rng)], ORDERED, 0.0
        a, b = _truncate(a, b, room, rng)
        return ([b, a], SWAPPED, 1.0) if coin else ([a, b], ORDERED, 1.0)
    others, label = _split(stretch["other"], stretch["other_sentences"]), NEXT
    if not others:  # told of the first row, whatever its coin
        raise UserError("objective.pairs='nsp' takes a sentence from another document and there is only one: split the "
                        "source into documents (source.split), or set objective.pairs='sop'")
    if single or coin:
        b, label = _until(others, _size(b) if b else max(1, room - _size(a))), RANDOM
    return [*_truncate(a, b, room, rng)], label, 1.0


def _size(sentences: list[list[int]]) -> int:
    return sum(map(len, sentences))


def _until(sentences: list[list[int]], target: int) -> list[list[int]]:
    """The first sentences that hold `target` tokens together, or all."""
    sums = np.cumsum([len(s) for s in sentences])
    return sentences[:int(np.searchsorted(sums, target)) + 1]


def _truncate(a: list, b: list, room: int, rng: np.random.Generator) -> tuple[list, list]:
    """Both cut to `room` tokens: always the longer (B, when they are equal), each token at the front or the back by chance."""
    sizes = [_size(a), _size(b)]
    excess = max(0, sum(sizes) - room)
    # The longer loses until both are equal, then they take turns.
    more = max(0, min(excess, abs(sizes[0] - sizes[1])))
    longer = 0 if sizes[0] > sizes[1] else 1
    lost = [0, 0]
    lost[longer] = more
    lost[1] += -(-(excess - more) // 2)
    lost[0] += (excess - more) // 2
    return tuple(_trim(part, int(rng.binomial(n, 0.5)), n) for part, n in zip((a, b), lost))


def _trim(sentences: list[list[int]], front: int, lost: int) -> list[list[int]]:
    """Without the first `front` tokens and, of `lost` in all, the others at the end; what is left of a sentence stays one."""
    kept, at, end = [], 0, _size(sentences) - (lost - front)
    for sentence in sentences:
        part = sentence[max(0, front - at):max(0, end - at)]
        at += len(sentence)
        if part:
            kept.append(part)
    return kept

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Rows for encoders: a stretch of whole sentences of one document, and one of another document to confuse it with.

What becomes of them ([CLS], [SEP], which sentence follows which) is the objective's.
"""
from collections.abc import Callable

import numpy as np

from jaxlm.core.errors import UserError
from jaxlm.data.pack import Rows, check, indices_of
from jaxlm.data.store import Store

FRAME = 3  # [CLS] A [SEP] B [SEP]


class Stretches:
    """Row i is the i-th stretch: sentences of one document until they fill a row of `length`, or the document ends.

    The last sentence may reach beyond the row: what is cut off is the objective's choice (Devlin et al. 2018). A
    sentence that no row holds is cut into pieces of half a row. The rows depend on the lengths of the sentences only.

    `rows(indices, others)` gives int32 [n, 2 L] arrays: tokens and sentences (the number of each token's sentence in
    its stretch, 1, 2, ...; 0 = no token), and other, other_sentences: the same of a stretch of another document, drawn
    by others(i), the random generator of row i (without it, or with one document only, there is none). The other
    document is drawn uniformly, and so is the sentence in it with which the stretch begins.
    """

    def __init__(self, store: Store, length: int):
        check(store, length)
        if length <= FRAME + 1:
            raise UserError(f"data.seq_len={length} leaves no room for a pair of sentences: it must be {FRAME + 2} or more")
        self.store, self.length, self._room = store, length, length - FRAME
        starts, sizes = _cut(store, self._room)
        if not len(starts):
            raise UserError("no document has a sentence")
        self._starts, self._ends = starts, starts + sizes
        # Sentences of document d are [of[d], of[d + 1]); documents without any are left out of what is drawn.
        of = np.append(np.searchsorted(starts, store.offsets[:-1]), len(starts))
        self._filled = np.flatnonzero(np.diff(of))
        self._of = of
        self._first = _greedy(np.concatenate([[0], np.cumsum(sizes)]), of, self._room)

    def __len__(self) -> int:
        return len(self._first) - 1

    @staticmethod
    def blank(length: int) -> Rows:
        """One row without a text."""
        return {name: np.zeros((1, 2 * length), np.int32) for name in ("tokens", "sentences", "other", "other_sentences")}

    def row(self, i: int, other: np.random.Generator | None = None) -> Rows:
        drawn = None if other is None else lambda _: other
        return {name: values[0] for name, values in self.rows(np.array([i]), drawn).items()}

    def rows(self, indices: np.ndarray, others: Callable[[int], np.random.Generator] | None = None) -> Rows:
        indices = indices_of(indices, len(self))
        out = {name: np.repeat(x, len(indices), 0) for name, x in self.blank(self.length).items()}
        for r, i in enumerate(indices):
            if i < 0:
                continue
            self._put(out["tokens"][r], out["sentences"][r], self._first[i], self._first[i + 1])
            if others is not None and len(self._filled) > 1:
                begin, end = self._other(self._document(i), others(r))
                self._put(out["other"][r], out["other_sentences"][r], begin, end)
        return out

    def documents(self, i: int) -> np.ndarray:
        """Index of the document of row i (that of the other stretch is drawn anew each time)."""
        i = int(indices_of(np.array([i]), len(self))[0])
        return np.zeros(0, np.int64) if i < 0 else np.array([self._document(i)])

    def _document(self, i: int) -> int:
        return int(np.searchsorted(self._of, self._first[i], "right")) - 1

    def _other(self, document: int, rng: np.random.Generator) -> tuple[int, int]:
        """First sentence and end of a stretch in a document that is not this one."""
        at = int(rng.integers(len(self._filled) - 1))
        chosen = self._filled[at + (self._filled[at] >= document)]
        begin = int(rng.integers(self._of[chosen], self._of[chosen + 1]))
        end = begin + int(np.searchsorted(self._ends[begin:self._of[chosen + 1]] - self._starts[begin], self._room)) + 1
        return begin, min(end, self._of[chosen + 1])

    def _put(self, tokens: np.ndarray, sentences: np.ndarray, begin: int, end: int) -> None:
        start, width = self._starts[begin], len(tokens)
        size = min(int(self._ends[end - 1] - start), width)
        tokens[:size] = self.store.tokens[start:start + size]
        begins = self._starts[begin:end] - start
        sentences[:size] = np.searchsorted(begins, np.arange(size), "right")


def _cut(store: Store, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Start and size of every sentence, those longer than a row in pieces of half a row."""
    if store.sentences is None:
        raise UserError("this token store knows no sentences: it was made for another data.packing")
    starts = store.sentences
    # A sentence ends where the next begins, or before the eot behind its document.
    following = np.append(starts[1:], len(store.tokens))
    ends = np.minimum(following, store.offsets[np.searchsorted(store.offsets, starts, "right")])
    sizes = ends - starts
    piece = max(1, room // 2)
    counts = np.where(sizes > room, -(-sizes // piece), 1)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(starts, counts) + number * piece
    return starts, np.where(np.repeat(counts, counts) > 1, np.minimum(piece, np.repeat(ends, counts) - starts), np.repeat(sizes, counts))


def _greedy(sums: np.ndarray, of: np.ndarray, room: int) -> np.ndarray:
    """First sentence of every stretch, and the end of the last: whole sentences until `room` tokens or a document's end."""
    # Where a stretch from each sentence would end by its size alone: one search for all of them.
    full = np.searchsorted(sums, sums[:-1] + room, "left")
    first, last = [], int(of[-1])
    ends = iter(of[1:].tolist())
    at, end = 0, 0
    while at < last:
        while end <= at:
            end = next(ends)
        first.append(at)
        at = min(int(full[at]), end)
    return np.array([*first, last], np.int64)

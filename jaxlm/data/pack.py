# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Rows of a fixed length as plans over a token store: windows of the stream, packed documents, or one document a row.

A plan says which tokens each row holds; rows are read when asked for. In every plan each token but the first eot is
predicted exactly once, so the sum of losses over a plan is the loss of the corpus.

`rows(indices)` gives int32 [n, L] arrays: tokens, next (the token to predict), segments (1, 2, .. in each row,
0 = padding) and positions (restart with each segment). Padding holds eot at segment 0. Index -1 is a row of padding.
"""
import bisect
from collections.abc import Callable
from typing import Protocol

import numpy as np

from jaxlm.core.errors import UserError
from jaxlm.data.store import Store

Rows = dict[str, np.ndarray]
# The generator of row i of these rows, for plans that draw something to go with a row; those here draw nothing.
Others = Callable[[int], np.random.Generator] | None


class Plan(Protocol):
    """What a sampler needs of a plan."""
    length: int
    store: Store

    def __len__(self) -> int: ...

    @staticmethod
    def blank(length: int) -> Rows: ...

    def row(self, i: int) -> Rows: ...

    def rows(self, indices: np.ndarray, others: Others = None) -> Rows: ...

    def documents(self, i: int) -> np.ndarray: ...


class Standard:
    """What the plans of tokens and the next ones share."""

    @staticmethod
    def blank(length: int) -> Rows:
        """One row without a text."""
        return {name: np.zeros((1, length), np.int32) for name in ("tokens", "next", "segments", "positions")}

    def row(self, i: int) -> Rows:
        return {name: values[0] for name, values in self.rows(np.array([i])).items()}


class Windows(Standard):
    """Row i is tokens [i L, i L + L] of the stream: nothing is padded but the end of the last row.

    A document begun in an earlier row continues here at position 0: it is a piece of its own, as attention does not
    reach back into that row, and so positions stay below L. `drop_last` leaves out a last row that is not full.
    """

    def __init__(self, store: Store, length: int, drop_last: bool = False):
        check(store, length)
        self.store, self.length = store, length
        self._inputs = len(store.tokens) - 1  # the trailing eot is only predicted
        self._count = self._inputs // length if drop_last else -(-self._inputs // length)
        if not self._count:
            raise UserError(f"the documents hold {self._inputs} tokens, fewer than one row of {length}: lower "
                            "data.seq_len")

    def __len__(self) -> int:
        return self._count

    def rows(self, indices: np.ndarray, others: Others = None) -> Rows:
        indices = indices_of(indices, len(self))
        starts = indices * self.length
        return read(self.store, self.length, starts, np.where(indices < 0, 0, np.minimum(self.length, self._inputs - starts)))

    def documents(self, i: int) -> np.ndarray:
        """Indices of the documents with a token in row i."""
        i = int(indices_of(np.array([i]), len(self))[0])
        if i < 0:
            return np.zeros(0, np.int64)
        start, stop = i * self.length, min((i + 1) * self.length, self._inputs)
        return np.arange(document_at(self.store, start), document_at(self.store, stop - 1) + 1)


def read(store: Store, length: int, starts: np.ndarray, sizes: np.ndarray) -> Rows:
    """Rows of the stream's tokens [start, start + size), int64 [n] each, with padding up to `length`."""
    n, L = len(starts), length
    tokens = np.full((n, L + 1), store.eot, np.int32)
    for r in range(n):
        if sizes[r]:
            tokens[r, :sizes[r] + 1] = store.tokens[starts[r]:starts[r] + sizes[r] + 1]
    # A document start inside a row (not at its first token) begins the next segment.
    offsets = store.offsets[:-1]
    low = np.searchsorted(offsets, starts, "right")
    counts = np.where(sizes > 0, np.searchsorted(offsets, starts + sizes, "left") - low, 0).clip(0)
    rows = np.repeat(np.arange(n), counts)
    which = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(low, counts)
    columns = offsets[which] - starts[rows]
    begins = np.zeros((n, L), np.int32)
    begins[rows, columns] = 1
    segments = 1 + np.cumsum(begins, axis=1, dtype=np.int32)
    begins[rows, columns] = columns
    positions = np.arange(L, dtype=np.int32)[None] - np.maximum.accumulate(begins, axis=1)
    padding = np.arange(L)[None] >= sizes[:, None]
    following = tokens[:, 1:].copy()
    segments[padding], positions[padding], following[padding] = 0, 0, store.eot
    inputs = tokens[:, :-1].copy()
    inputs[padding] = store.eot
    return {"tokens": inputs, "next": following, "segments": segments, "positions": positions}


class Pieces(Standard):
    """Rows made of pieces of the stream, each within one document: the common part of `Packed` and `Padded`.

    starts, sizes int64 [pieces]: where a piece lies, ordered by row; row r has pieces [first[r], first[r + 1]).
    """

    def __init__(self, store: Store, length: int, starts: np.ndarray, sizes: np.ndarray, first: np.ndarray):
        self.store, self.length = store, length
        self._starts, self._sizes, self._first = starts, sizes, first

    def __len__(self) -> int:
        return len(self._first) - 1

    @property
    def fill(self) -> float:
        """Fraction of positions that are not padding."""
        return float(self._sizes.sum()) / (len(self) * self.length)

    def rows(self, indices: np.ndarray, others: Others = None) -> Rows:
        indices = indices_of(indices, len(self))
        shape = (len(indices), self.length)
        tokens, following = (np.full(shape, self.store.eot, np.int32) for _ in range(2))
        segments, positions = (np.zeros(shape, np.int32) for _ in range(2))
        count = np.arange(self.length, dtype=np.int32)
        for r, i in enumerate(indices):
            at = 0
            for segment, p in enumerate(range(self._first[i], self._first[i + 1]) if i >= 0 else (), start=1):
                start, size = self._starts[p], self._sizes[p]
                stretch = self.store.tokens[start:start + size + 1]
                tokens[r, at:at + size], following[r, at:at + size] = stretch[:-1], stretch[1:]
                segments[r, at:at + size], positions[r, at:at + size] = segment, count[:size]
                at += size
        return {"tokens": tokens, "next": following, "segments": segments, "positions": positions}

    def documents(self, i: int) -> np.ndarray:
        """Indices of the documents with a token in row i."""
        i = int(indices_of(np.array([i]), len(self))[0])
        starts = self._starts[self._first[i]:self._first[i + 1]] if i >= 0 else np.zeros(0, np.int64)
        return np.unique(document_at(self.store, starts))


class Packed(Pieces):
    """Whole documents packed into rows, best fit first from the longest down; a longer one is cut into pieces of L.

    The plan depends only on the lengths of the documents. `fill` says how full the rows are.
    """

    def __init__(self, store: Store, length: int):
        starts, sizes = _cut(store, length)
        row = _best_fit(sizes, length)
        order = np.lexsort((starts, row))
        first = np.searchsorted(row[order], np.arange(row.max() + 2))
        super().__init__(store, length, starts[order], sizes[order], first)


class Padded(Pieces):
    """One document, or piece of L tokens of one, per row: the reference that packing is compared with."""

    def __init__(self, store: Store, length: int):
        starts, sizes = _cut(store, length)
        super().__init__(store, length, starts, sizes, np.arange(len(starts) + 1))


def _cut(store: Store, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Start and size of every piece of at most `length` tokens, in the order of the stream."""
    check(store, length)
    lengths = np.diff(store.offsets)
    counts = -(-lengths // length)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(store.offsets[:-1], counts) + number * length
    return starts, np.minimum(length, np.repeat(store.offsets[1:], counts) - starts)


def _best_fit(sizes: np.ndarray, length: int) -> np.ndarray:
    """Row of each piece: pieces from the longest down, each into the row with the least room that it fits in.

    Source: best-fit-decreasing (Johnson, 1973). Rooms are at most `length` values, so a row is found by bisection in a
    sorted list of the rooms there are: O(pieces log L).
    """
    row = np.empty(len(sizes), np.int64)
    order = np.argsort(-sizes, kind="stable")
    full = int(np.count_nonzero(sizes == length))
    row[order[:full]] = np.arange(full)
    made, rooms = full, []
    rows_with: dict[int, list[int]] = {}
    for piece, size in zip(order[full:].tolist(), sizes[order[full:]].tolist(), strict=True):
        k = bisect.bisect_left(rooms, size)
        if k == len(rooms):
            chosen, room, made = made, length, made + 1
        else:
            room = rooms[k]
            there = rows_with[room]
            chosen = there.pop()
            if not there:
                del rooms[k], rows_with[room]
        row[piece] = chosen
        left = room - size
        if left in rows_with:
            rows_with[left].append(chosen)
        elif left:
            rows_with[left] = [chosen]
            bisect.insort(rooms, left)
    return row


def document_at(store: Store, position: np.ndarray | int) -> np.ndarray:
    """Index of the document that the token at a position of the stream belongs to."""
    return np.searchsorted(store.offsets, position, "right") - 1


def check(store: Store, length: int) -> None:
    if length < 1:
        raise UserError(f"data.seq_len={length} must be at least 1")
    if not store.documents:
        raise UserError("the token store holds no document")


def indices_of(indices: np.ndarray, count: int) -> np.ndarray:
    indices = np.asarray(indices, np.int64)
    if indices.size and not (-1 <= indices.min() and indices.max() < count):
        raise IndexError(f"rows {indices.min()} to {indices.max()} of a plan of {count} rows (-1 is a row of padding)")
    return indices

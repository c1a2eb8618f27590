# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Rows of texts of which an objective makes sources and targets: as many as fill an encoder-decoder's row on both sides."""
from collections.abc import Callable

import numpy as np

from jaxlm.core.errors import UserError
from jaxlm.data.pack import Others, Pieces, Rows, check, indices_of
from jaxlm.data.pairs import Pairs, fit
from jaxlm.data.store import Store

# Numbers of tokens of texts [any] -> the most positions [any, 2] that the source and the target of each take, their ends
# included; neither falls where the number rises.
Sizes = Callable[[np.ndarray], np.ndarray]
LEAST = 2  # tokens of a text: of one nothing can be taken out and something left


class Texts(Pieces):
    """Row i is some texts: pieces of documents without separators. The rows depend on lengths only.

    cut: documents follow one another as in the store and are cut where a row is full, as T5 cuts its text (Raffel et al. 2020;
    there documents within a row run together, here each is a text of its own). Else they are packed whole, and only one
    that no row holds is cut. A document of one token is left out, and so is a last token that would be a piece alone.

    `rows` gives int32 arrays: text, text_segments [n, any], the number of each token's text in its row (0 = none), and what
    the objective fills: the fields of pairs.Pairs, padding as they come.
    """
    whole = False  # not every token is predicted

    def __init__(self, store: Store, length: int, source_len: int, sizes: Sizes, cut: bool):
        check(store, length)
        room = np.array([source_len, length])
        # Each token takes a position on one side at least.
        table = sizes(np.arange(room.sum() + 1))
        table[:LEAST] = 0
        most = [np.searchsorted(table[:, side], np.arange(n + 1), "right") - 1 for side, n in enumerate(room)]
        longest = int(min(found[-1] for found in most))
        if longest < LEAST:
            raise UserError(f"data.source_len={source_len} and data.seq_len={length} hold no text of {LEAST} tokens: raise them")
        lengths = np.diff(store.offsets) - 1
        document, begin, taken, row = (_run if cut else _packed)(lengths, table, most, room, longest)
        if not len(row):
            raise UserError(f"no document has the {LEAST} tokens that make a text")
        first = np.searchsorted(row, np.arange(row[-1] + 2))
        super().__init__(store, length, store.offsets[document] + 1 + begin, taken, first)
        self.source_len, self.longest, self._positions = source_len, int(taken.max()), table[taken].sum(0)
        self._width = int(np.add.reduceat(taken, first[:-1]).max())

    @property
    def fill(self) -> tuple[float, float]:
        """Fractions of the positions of sources and of targets that texts may take."""
        source, target = self._positions / len(self)
        return float(source / self.source_len), float(target / self.length)

    @staticmethod
    def blank(length: int, source_len: int, width: int = LEAST) -> Rows:
        """One row without a text."""
        return {name: np.zeros((1, width), np.int32) for name in ("text", "text_segments")} | Pairs.blank(length, source_len)

    def rows(self, indices: np.ndarray, others: Others = None) -> Rows:
        indices = indices_of(indices, len(self))
        out = {name: np.repeat(x, len(indices), 0) for name, x in self.blank(self.length, self.source_len, self._width).items()}
        for name in ("tokens", "next", "source_tokens"):
            out[name][:] = self.store.eot
        for r, i in enumerate(indices):
            at = 0
            for segment, p in enumerate(range(self._first[i], self._first[i + 1]) if i >= 0 else (), start=1):
                start, size = self._starts[p], self._sizes[p]
                out["text"][r, at:at + size] = self.store.tokens[start:start + size]
                out["text_segments"][r, at:at + size] = segment
                at += size
        return out


Layout = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # of each piece: document, first token in it, tokens, row; by rows


def _run(lengths: np.ndarray, table: np.ndarray, most: list[np.ndarray], room: np.ndarray, longest: int) -> Layout:
    """Documents in their order, cut where either side of a row is full."""
    source, target, most_source, most_target = (x.tolist() for x in (table[:, 0], table[:, 1], *most))
    pieces, row = [], 0
    left = free = (int(room[0]), int(room[1]))
    for document, length in enumerate(lengths.tolist()):
        at = 0
        while (rest := length - at) >= LEAST:
            taken = min(most_source[left[0]], most_target[left[1]], rest)
            if taken < LEAST:
                left, row = free, row + 1
                continue
            if rest - taken == 1 and taken > LEAST:
                taken -= 1
            pieces.append((document, at, taken, row))
            left, at = (left[0] - source[taken], left[1] - target[taken]), at + taken
    return tuple(np.array(pieces, np.int64).reshape(-1, 4).T)


def _packed(lengths: np.ndarray, table: np.ndarray, most: list[np.ndarray], room: np.ndarray, longest: int) -> Layout:
    """Whole documents, those that are too long in pieces of the longest text that a row holds."""
    counts = -(-lengths // longest)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    document, begin = np.repeat(np.arange(len(lengths)), counts), number * longest
    taken = np.minimum(longest, lengths[document] - begin)
    kept = taken >= LEAST
    document, begin, taken = document[kept], begin[kept], taken[kept]
    if not len(taken):
        return document, begin, taken, taken
    row = fit(table[taken], room)
    order = np.lexsort((begin, document, row))
    return document[order], begin[order], taken[order], row[order]

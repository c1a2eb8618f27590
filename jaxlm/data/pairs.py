# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Rows of whole pairs for encoder-decoders: as many sources side by side as fit, and their targets likewise."""
import numpy as np

from jaxlm.core.errors import UserError
from jaxlm.core.log import say
from jaxlm.data.pack import Others, Rows, check, indices_of
from jaxlm.data.store import Store

# Rows that a pair is tried in; more fill rows better and take longer.
_OPEN = 256


class Pairs:
    """Row i is some pairs: segment k of its sources belongs to segment k of its targets. The rows depend on lengths only.

    `rows` gives int32 arrays: tokens, next, segments, positions [n, length] of the targets, in which each begins with eot
    and is ended by it, and source_tokens, source_segments, source_positions [n, source_len], in which each is ended by eot.
    Padding holds eot at segment 0. A pair that is too long is a UserError, or with `cut` loses the end of its source
    (not its eot) and of its target (with its eot, as it does not end there); this is said.
    """

    def __init__(self, store: Store, length: int, source_len: int, cut: bool = False):
        check(store, length)
        if store.targets is None:
            raise UserError("this token store knows no pairs: its source yields texts alone; take source=parallel, or set source.target_field")
        self.store, self.length, self.source_len = store, length, source_len
        # With the eot that ends a source, and the one that begins a target or ends it.
        sizes = np.stack([store.targets - store.offsets[:-1], store.offsets[1:] - store.targets + 1], 1)
        room = np.array([source_len, length])
        long = (sizes > room).any(1)
        self.whole = not long.any()  # every token is predicted once
        if not self.whole:
            most, said = sizes.max(0), f"{long.sum():,} of {len(sizes):,} pairs are longer than data.source_len={source_len} or data.seq_len={length}"
            if not cut:
                raise UserError(f"{said} (the longest source has {most[0]} tokens and the longest target {most[1]}, their ends included): raise "
                                "these, or set data.cut_pairs to true to cut what is longer")
            say(f"{said} and are cut, the longest of {most[0]} and {most[1]} tokens")
        self._sizes = np.minimum(sizes, room)
        row = fit(self._sizes, room)
        self._order = np.lexsort((np.arange(len(row)), row))
        self._first = np.searchsorted(row[self._order], np.arange(row.max() + 2))

    def __len__(self) -> int:
        return len(self._first) - 1

    @property
    def fill(self) -> tuple[float, float]:
        """Fractions of the positions of sources and of targets that are not padding."""
        source, target = self._sizes.sum(0) / len(self)
        return float(source / self.source_len), float(target / self.length)

    @staticmethod
    def blank(length: int, source_len: int) -> Rows:
        """One row without a text."""
        return {name: np.zeros((1, length), np.int32) for name in ("tokens", "next", "segments", "positions")} | \
            {f"source_{name}": np.zeros((1, source_len), np.int32) for name in ("tokens", "segments", "positions")}

    def row(self, i: int) -> Rows:
        return {name: values[0] for name, values in self.rows(np.array([i])).items()}

    def rows(self, indices: np.ndarray, others: Others = None) -> Rows:
        indices = indices_of(indices, len(self))
        out = {name: np.repeat(x, len(indices), 0) for name, x in self.blank(self.length, self.source_len).items()}
        for name in ("tokens", "next", "source_tokens"):
            out[name][:] = self.store.eot
        for r, i in enumerate(indices):
            at, read = 0, 0
            for segment, pair in enumerate(self.documents(i), start=1):
                source_size, size = self._sizes[pair]
                begin, end = int(self.store.offsets[pair]), int(self.store.targets[pair])
                source, target = slice(read, read + source_size), slice(at, at + size)
                out["source_tokens"][r, source][:-1] = self.store.tokens[begin + 1:min(end, begin + source_size)]
                # The eot that ends a whole target is the next document's.
                out["next"][r, target] = self.store.tokens[end:end + size]
                out["tokens"][r, target][1:] = out["next"][r, target][:-1]
                for name, where, width in (("source_segments", source, source_size), ("segments", target, size)):
                    out[name][r, where] = segment
                    out[name.replace("segments", "positions")][r, where] = np.arange(width)
                at, read = at + size, read + source_size
        return out

    def documents(self, i: int) -> np.ndarray:
        """Indices of the pairs in row i, in their order."""
        i = int(indices_of(np.array([i]), len(self))[0])
        return self._order[self._first[i]:self._first[i + 1]] if i >= 0 else np.zeros(0, np.int64)


def fit(sizes: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Row of each pair, sizes [pairs, 2]: from the largest down, each into that of the open rows in which it leaves the least room.

    Best-fit decreasing (Johnson 1973) in two dimensions, each as a share of its room; of the rows only the _OPEN with the
    most room are tried, so that it takes O(pairs).
    """
    shares = sizes / room
    row = np.empty(len(sizes), np.int64)
    left, number = np.full((_OPEN, 2), -1), np.zeros(_OPEN, np.int64)  # of the open rows; -1: there is none yet
    made = 0
    for pair in np.argsort(-shares.max(1), kind="stable"):
        fits = (left >= sizes[pair]).all(1)
        if fits.any():
            after = np.where(fits, ((left - sizes[pair]) / room).sum(1), np.inf)
            chosen = int(after.argmin())
        else:
            chosen = int((left / room).min(1).argmin())
            left[chosen], number[chosen], made = room, made, made + 1
        left[chosen] -= sizes[pair]
        row[pair] = number[chosen]
    return row

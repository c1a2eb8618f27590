# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The batch as a pure function of (seed, step, row): the state of the data is the step number.

Any number of hosts draws the same global batch, each only its rows; nothing is kept in memory, nothing is
replayed on resume.
"""
import numpy as np

from jaxlm.core.errors import UserError
from jaxlm.data.pack import Plan, Rows
from jaxlm.data.stream import Stream

# What a random stream is for; it goes into the key, so that no two uses share numbers.
_ORDER, _ROW, _FIXED, _OTHER, _FIXED_OTHER = 1, 2, 3, 4, 5


class Sampler:
    """Rows of a plan without end: each epoch is a new permutation of all rows, and epochs follow without a gap.

    plan: rows to draw from; batch_size: global rows per step; shuffle=False keeps the order of the plan. A Stream has an order
    of its own, which cannot be shuffled.
    """

    def __init__(self, plan: Plan, batch_size: int, seed: int, shuffle: bool = True):
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} must be at least 1")
        if seed < 0:
            raise UserError(f"seed={seed} must not be negative")
        if shuffle and isinstance(plan, Stream):
            raise UserError("a stream is read in its order: set data.shuffle to false")
        self.plan, self.batch_size, self.seed, self.shuffle = plan, batch_size, seed, shuffle

    def epoch(self, step: int) -> float:
        """Epochs done before `step`: 1.5 is half of the second."""
        return step * self.batch_size / len(self.plan)

    def indices(self, step: int, rows: slice = slice(None)) -> np.ndarray:
        """Row of the plan for each of `rows` of the global batch of `step`, int64."""
        if step < 0:
            raise ValueError(f"step={step} must not be negative")
        if isinstance(self.plan, Stream):
            return self.plan.indices(step, np.arange(self.batch_size)[rows], self.batch_size)
        epochs, indices = np.divmod(step * self.batch_size + np.arange(self.batch_size)[rows], len(self.plan))
        if self.shuffle:
            for epoch in np.unique(epochs):
                of = epochs == epoch
                indices[of] = permute(indices[of], len(self.plan), words(self.seed, _ORDER, int(epoch)))
        return indices

    def batch(self, step: int, rows: slice = slice(None)) -> Rows:
        """The given rows of the global batch of `step`, as the plan makes them; what it draws has numbers of its own."""
        numbers = range(self.batch_size)[rows]
        return self.plan.rows(self.indices(step, rows), lambda i: _generator(self.seed, _OTHER, step, numbers[i]))

    def document_ids(self, step: int, row: int) -> np.ndarray:
        """Indices in the store of the documents in one row of a batch: to look at what the model saw."""
        return self.plan.documents(int(self.indices(step, slice(row, row + 1))[0]))

    def rng(self, step: int, row: int) -> np.random.Generator:
        """The random numbers of one row of the global batch of `step` (masking and the like)."""
        return rng(self.seed, step, row)


class InOrder:
    """Every row of a plan once, in order, in batches of one shape: the last is filled up with rows of padding.

    The random numbers of a row depend on its place in the plan only, so an evaluation masks the same tokens every time,
    whatever the batch size. Of a Stream, the rows of a batch go on where those of the batch before it ended.
    """

    def __init__(self, plan: Plan, batch_size: int, seed: int = 0):
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} must be at least 1")
        self.plan = plan.once(batch_size) if isinstance(plan, Stream) else plan
        self.batch_size, self.seed = batch_size, seed

    def __len__(self) -> int:
        """Batches."""
        return -(-len(self.plan) // self.batch_size)

    def indices(self, step: int, rows: slice = slice(None)) -> np.ndarray:
        """Row of the plan for each of `rows` of batch `step`, -1 for padding."""
        if not 0 <= step < len(self):
            raise ValueError(f"batch {step} of {len(self)}")
        indices = step * self.batch_size + np.arange(self.batch_size)[rows]
        return np.where(indices < len(self.plan), indices, -1)

    def batch(self, step: int, rows: slice = slice(None)) -> Rows:
        """The given rows of batch `step`."""
        indices = self.indices(step, rows)
        return self.plan.rows(indices, lambda i: _generator(self.seed, _FIXED_OTHER, int(indices[i]), 0))

    def document_ids(self, step: int, row: int) -> np.ndarray:
        """Indices in the store of the documents in one row of a batch."""
        return self.plan.documents(int(self.indices(step, slice(row, row + 1))[0]))

    def rng(self, step: int, row: int) -> np.random.Generator:
        """The random numbers of one row of batch `step`."""
        return _generator(self.seed, _FIXED, step * self.batch_size + row, 0)


def rng(seed: int, step: int, row: int) -> np.random.Generator:
    """Generator of a row of the global batch of a step: the same on every host, and after every resume."""
    return _generator(seed, _ROW, step, row)


def _generator(*integers: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words(*integers))))


def words(*integers: int) -> list[int]:
    """Two 32-bit words of each integer in [0, 2^64): SeedSequence alone joins (1, 2) and (1, 2, 0) to one."""
    if any(not 0 <= i < 1 << 64 for i in integers):
        raise ValueError(f"seed, step and row must be in [0, 2^64), got {integers}")
    return [w for i in integers for w in (i & 0xFFFFFFFF, i >> 32)] + [len(integers)]


def permute(indices: np.ndarray, n: int, key: int | list[int], rounds: int = 6) -> np.ndarray:
    """Images of `indices` [any, in [0, n)] under a keyed permutation of [0, n), with O(1) memory.

    A Feistel network over the next even power of two, repeated for what falls outside [0, n) (cycle walking: Black and
    Rogaway, "Ciphers with arbitrary finite domains", 2002).
    """
    half = np.uint64(max(1, (int(n - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.SeedSequence(key).generate_state(rounds, np.uint64)

    def once(x: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & mask
        for k in keys:
            f = (right + k) * np.uint64(0x9E3779B97F4A7C15)
            f ^= f >> np.uint64(29)
            f *= np.uint64(0xBF58476D1CE4E5B9)
            f ^= f >> np.uint64(32)
            left, right = right, (left ^ f) & mask
        return left << half | right

    x = once(np.array(indices, np.uint64, ndmin=1))
    outside = x >= np.uint64(n)
    while outside.any():
        x[outside] = once(x[outside])
        outside = x >= np.uint64(n)
    return x.astype(np.int64)

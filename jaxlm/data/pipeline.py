# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Batches made ready on a thread while the device works."""
from collections.abc import Callable
from typing import Any, Protocol

import grain
import numpy as np

Batch = dict[str, np.ndarray]
# prepare(rows of the plan [B, L], rngs) -> fields of the batch; rngs(i) is the random generator of row i of these rows.
Prepare = Callable[[Batch, Callable[[int], np.random.Generator]], Batch]


class Drawn(Protocol):
    """What batches are drawn from: Sampler and InOrder."""
    batch_size: int

    def batch(self, step: int, rows: slice) -> Batch: ...

    def rng(self, step: int, row: int) -> np.random.Generator: ...


def make(sampler: Drawn, prepare: Prepare, step: int, rows: slice = slice(None)) -> Batch:
    """The given rows of the batch of `step`, made ready. A row's random numbers do not depend on the host."""
    numbers = range(sampler.batch_size)[rows]
    return prepare(sampler.batch(step, rows), lambda i: sampler.rng(step, numbers[i]))


class Batches:
    """Iterator of (step, batch) for steps [start, stop), `prefetch` batches ahead on a thread (0: made when asked for).

    rows: the slice of the global batch this host makes. What `prepare` raises is raised by `next`, and the
    iterator is over. Use as a context manager, or call `close`: at most the batch being made is finished.
    """

    def __init__(self, sampler: Drawn, prepare: Prepare, start: int, stop: int, rows: slice = slice(None),
                 prefetch: int = 2):
        if prefetch < 0:
            raise ValueError(f"prefetch={prefetch} must not be negative")
        # One thread: more of them fight over the interpreter lock with the thread that feeds the device.
        options = grain.ReadOptions(num_threads=min(prefetch, 1), prefetch_buffer_size=prefetch)
        steps = grain.MapDataset.range(start, max(start, stop))
        self._inner = iter(steps.map(lambda step: (int(step), make(sampler, prepare, int(step), rows)))
                           .to_iter_dataset(options))
        self._closed = False

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> tuple[int, Batch]:
        if self._closed:
            raise StopIteration
        try:
            return next(self._inner)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop making batches."""
        if not self._closed:
            self._closed = True
            self._inner.close()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


def batches(sampler: Drawn, prepare: Prepare, start: int, stop: int, rows: slice = slice(None),
            prefetch: int = 2) -> Batches:
    """(step, batch) for steps [start, stop), made ahead on a thread; see `Batches`."""
    return Batches(sampler, prepare, start, stop, rows, prefetch)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Batches in the order of the text: each row goes on where it ended in the batch before, for models that carry a state from step to step.

The segments of these rows are numbers of documents, which hold over all batches: a model whose state knows the last one sees
where the next document begins.
"""
import numpy as np

from jaxlm.data.pack import Others, Rows, Standard, Windows, check, document_at, indices_of, read
from jaxlm.data.store import Store


class Stream(Windows):
    """Windows of the stream, each the continuation of the one before it, without end: window i of `len` comes again as i + len.

    A lap of the text gives its documents other numbers than the lap before, so that the first follows no last one, though it be
    the only one there is.
    """

    def indices(self, step: int, rows: np.ndarray, batch_size: int) -> np.ndarray:
        """Window of each of `rows` of the global batch of `step`: rows begin apart, and each reads the whole text in its order."""
        return rows * len(self) // batch_size + step

    def rows(self, indices: np.ndarray, others: Others = None) -> Rows:
        indices = np.asarray(indices, np.int64)
        laps, windows = np.divmod(indices, len(self))
        windows = np.where(indices < 0, -1, windows)
        numbers = document_at(self.store, windows * self.length) + laps % 2 * self.store.documents
        return _numbered(super().rows(windows), numbers)

    def documents(self, i: int) -> np.ndarray:
        return super().documents(i % len(self) if i >= 0 else i)

    def once(self, columns: int) -> "Once":
        """The same text as rows of batches of `columns` rows that end."""
        return Once(self.store, self.length, columns)


class Once(Standard):
    """Every document from its beginning to its end, once: row i is the next piece of column i % columns, padded where that has ended.

    A column is a stretch of whole documents, about as long as the others; of a single document all but one are padding. So
    each token is predicted from all of its document before it, whatever the number of columns is.
    """

    def __init__(self, store: Store, length: int, columns: int):
        check(store, length)
        self.store, self.length, self._columns = store, length, columns
        ideal = np.arange(columns + 1) * store.offsets[-1] // columns
        self._bounds = store.offsets[np.searchsorted(store.offsets, ideal)].astype(np.int64)
        self._count = int(-(-np.diff(self._bounds).max() // length)) * columns

    def __len__(self) -> int:
        return self._count

    def _place(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(start, size) of each row in the stream."""
        steps, columns = np.divmod(indices, self._columns)
        starts = self._bounds[columns] + steps * self.length
        return starts, np.where(indices < 0, 0, np.clip(self._bounds[columns + 1] - starts, 0, self.length))

    def rows(self, indices: np.ndarray, others: Others = None) -> Rows:
        starts, sizes = self._place(indices_of(indices, len(self)))
        return _numbered(read(self.store, self.length, starts, sizes), document_at(self.store, starts))

    def documents(self, i: int) -> np.ndarray:
        """Indices of the documents with a token in row i."""
        (start,), (size,) = self._place(indices_of(np.array([i]), len(self)))
        return np.arange(document_at(self.store, start), document_at(self.store, start + size - 1) + 1) if size else np.zeros(0, np.int64)


def _numbered(rows: Rows, numbers: np.ndarray) -> Rows:
    """Rows with segments counted from `numbers` [n], that of each one's first token less 1."""
    segments = rows["segments"]
    return {**rows, "segments": np.where(segments > 0, segments + numbers[:, None], 0).astype(np.int32)}

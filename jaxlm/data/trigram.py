# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A byte trigram model in closed form: the bits per byte that a language model has to beat to have learned something.

Interpolated Witten-Bell: with N the count of a context and T the number of different bytes seen after it,
    p(c | ab) = (n(abc) + T(ab) p(c | b)) / (N(ab) + T(ab)),  likewise p(c | b) over p(c), and p(c) over 1/256.
Source: Witten and Bell, "The zero-frequency problem", 1991, method C; interpolated as in Chen and Goodman, 1998, 2.5.
No constant is tuned. As a language model predicts the separator, so does this one: a document is its bytes and an end.
"""
from collections.abc import Iterable, Iterator

import numpy as np

# A byte that UTF-8 never uses: it begins and ends documents.
_EDGE = 0xFF
_BLOCK = 1 << 23


def bits_per_byte(train: Iterable[bytes], held_out: Iterable[bytes]) -> float:
    """Bits per byte of held-out documents under the trigram model of the training documents.

    Documents are UTF-8. The end of each held-out document is predicted too, and its bits are counted; the bytes are
    those of the text.
    """
    n = counts(train)
    if not n.any():
        raise ValueError("bits_per_byte: there is no training text")
    seen = counts(held_out)
    a, b, c = np.nonzero(seen)
    times = seen[a, b, c]
    total = int(times[c != _EDGE].sum())
    if not total:
        raise ValueError("bits_per_byte: there is no held-out text")

    pairs = n.sum(axis=0)
    singles = pairs.sum(axis=0)
    p1 = (singles + np.count_nonzero(singles) / 256) / (singles.sum() + np.count_nonzero(singles))
    p2 = _mix(pairs, p1[None], pairs.sum(axis=1)[:, None], np.count_nonzero(pairs, axis=1)[:, None])
    p = _mix(n[a, b, c], p2[b, c], n.sum(axis=2)[a, b], np.count_nonzero(n, axis=2)[a, b])
    return float(-(times * np.log2(p)).sum() / total)


def counts(documents: Iterable[bytes]) -> np.ndarray:
    """int64 [256, 256, 256]: how often byte c follows a, b; each document begins after two edges and ends with one."""
    total = np.zeros(1 << 24, np.int64)
    for block in _blocks(documents):
        x = np.frombuffer(block, np.uint8).astype(np.int32)
        keys = (x[:-2] << 16) | (x[1:-1] << 8) | x[2:]
        # Two edges in a row are the gap between documents, not something to predict.
        keys = keys[(x[1:-1] != _EDGE) | (x[2:] != _EDGE)]
        total += np.bincount(keys, minlength=1 << 24)
    return total.reshape(256, 256, 256)


def _blocks(documents: Iterable[bytes]) -> Iterator[bytes]:
    edge = bytes((_EDGE,))
    parts, size = [edge], 0
    for text in documents:
        if not text:
            continue
        if edge in text:
            raise ValueError("a document holds byte 0xFF, so it is not UTF-8")
        parts += [edge, text, edge]
        size += len(text)
        if size >= _BLOCK:
            yield b"".join(parts)
            parts, size = [edge], 0
    if size:
        yield b"".join(parts)


def _mix(n: np.ndarray, lower: np.ndarray, total: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Witten-Bell; a context never seen leaves the lower order as it is."""
    return np.where(total > 0, (n + kinds * lower) / np.maximum(total + kinds, 1), lower)

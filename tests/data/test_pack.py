# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Plans: every token is predicted exactly once, within its document, in windows, packed rows and padded rows."""
import time

import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.data.pack import Packed, Padded, Windows
from jaxlm.data.store import Store

EOT = 999


def make(lengths, dtype=np.uint16):
    """A store with documents of these lengths (their tokens are numbered), without the disk."""
    parts, offsets, n = [], [], 0
    for k in lengths:
        offsets.append(n + len(parts))
        parts.append([EOT, *((n + np.arange(k)) % 900)])
        n += k
    offsets.append(n + len(parts))
    return Store(np.concatenate([*parts, [EOT]]).astype(dtype), np.array(offsets), np.array(lengths), EOT)


STORES = [make(k) for k in ([3], [1], [5, 1, 7, 2], [40], [7, 7, 7, 7], [1] * 30, [63, 64, 65])] + [
    make(np.random.default_rng(s).integers(1, 10 + 20 * s, 20 + 10 * s)) for s in range(3)]
LENGTHS = [1, 2, 3, 8, 13, 64]
CASES = [(s, L) for s in range(len(STORES)) for L in LENGTHS]


def one_row_the_slow_way(plan, i):
    """Segments and positions of row i of Windows, from their definition."""
    s, L = plan.store, plan.length
    row = {k: np.zeros(L, np.int32) for k in ("segments", "positions")}
    segment = 0
    for j, p in enumerate(range(i * L, min(i * L + L, len(s.tokens) - 1))):
        begins = p in s.offsets[:-1]
        segment += begins or j == 0
        row["positions"][j] = 0 if begins or j == 0 else row["positions"][j - 1] + 1
        row["segments"][j] = segment
    return row


@pytest.mark.parametrize("s, L", CASES)
@pytest.mark.parametrize("kind", [Windows, Packed, Padded])
def test_every_token_is_predicted_once_from_its_own_document(kind, s, L):
    """Fails if _cut makes pieces of length - 1, or Windows begins row i at i * (L + 1)."""
    store = STORES[s]
    plan = kind(store, L)
    rows = plan.rows(np.arange(len(plan)))
    assert all(v.shape == (len(plan), L) and v.dtype == np.int32 for v in rows.values())
    real = rows["segments"] > 0
    pairs = np.stack([rows["tokens"][real], rows["next"][real]])
    expected = np.stack([store.slice(0, -1), store.slice(1, len(store.tokens))])
    if kind is Packed:
        pairs, expected = (x[:, np.lexsort(x)] for x in (pairs, expected))
    np.testing.assert_array_equal(pairs, expected)
    assert (rows["tokens"][~real] == EOT).all() and (rows["next"][~real] == EOT).all()
    assert (rows["positions"][~real] == 0).all() and rows["positions"].max() < L
    if kind is not Windows:  # pieces are as long as they can be
        assert rows["positions"].max() == min(L, np.diff(store.offsets).max()) - 1
    for r in range(len(plan)):
        segments, positions = rows["segments"][r], rows["positions"][r]
        size = np.count_nonzero(segments)
        assert (segments[:size] > 0).all() and (segments[size:] == 0).all()
        starts = np.flatnonzero(np.diff(segments[:size], prepend=0))
        np.testing.assert_array_equal(segments[starts], 1 + np.arange(len(starts)))
        assert (positions[starts] == 0).all()
        assert (np.diff(positions[:size]) == 1).sum() == size - len(starts)
        # Only the first token of a segment may be a separator.
        np.testing.assert_array_equal(np.setdiff1d(np.flatnonzero(rows["tokens"][r][:size] == EOT), starts), [])
        for name, values in plan.row(r).items():
            np.testing.assert_array_equal(values, rows[name][r])
        if kind is Windows:
            for name, values in one_row_the_slow_way(plan, r).items():
                np.testing.assert_array_equal(values, rows[name][r])


@pytest.mark.parametrize("s, L", CASES)
def test_packed_rows_hold_the_pieces_of_padded_rows(s, L):
    """Packing may move pieces, never change them: what makes packed = unpacked possible."""
    def pieces(plan):
        rows = plan.rows(np.arange(len(plan)))
        names = ("tokens", "next", "positions")
        return sorted(tuple(zip(*(rows[name][r][rows["segments"][r] == k].tolist() for name in names)))
                      for r in range(len(plan)) for k in range(1, rows["segments"][r].max() + 1))
    packed, padded = Packed(STORES[s], L), Padded(STORES[s], L)
    assert pieces(packed) == pieces(padded) and len(packed) <= len(padded)
    every = np.arange(len(packed))
    np.testing.assert_array_equal(packed.rows(every)["tokens"], Packed(STORES[s], L).rows(every)["tokens"])


@pytest.mark.parametrize("s, L", CASES)
@pytest.mark.parametrize("kind", [Windows, Packed, Padded])
def test_documents_of_a_row(kind, s, L):
    store = STORES[s]
    plan = kind(store, L)
    seen = np.concatenate([plan.documents(i) for i in range(len(plan))])
    assert set(seen.tolist()) == set(range(store.documents)) and plan.documents(-1).tolist() == []
    row = plan.row(len(plan) - 1)
    assert len(plan.documents(len(plan) - 1)) <= row["segments"].max()


def test_best_fit_is_nearly_full_and_fast():
    r = np.random.default_rng(0)
    store = make(np.exp(r.normal(5, 1, 20000)).astype(int) + 1, np.uint16)
    began = time.process_time()
    plan = Packed(store, 256)
    assert time.process_time() - began < 2 and plan.fill > 0.999
    assert Packed(make([3, 3, 5, 5]), 10).fill == 1.0  # 4 + 6, 4 + 6
    assert len(Padded(make([3, 3, 5, 5]), 10)) == 4


def test_padding_rows_and_bounds():
    for kind in (Windows, Packed, Padded):
        plan = kind(STORES[2], 8)
        rows = plan.rows(np.array([0, -1]))
        assert (rows["segments"][1] == 0).all() and (rows["tokens"][1] == EOT).all() and (rows["next"][1] == EOT).all()
        np.testing.assert_array_equal(rows["tokens"][0], plan.row(0)["tokens"])
        for bad in (len(plan), -2):
            with pytest.raises(IndexError):
                plan.row(bad)
        assert plan.rows(np.zeros(0, int))["tokens"].shape == (0, 8)


def test_drop_last_leaves_out_only_the_short_row():
    store = make([20])  # 21 inputs
    assert len(Windows(store, 8)) == 3 and len(Windows(store, 8, drop_last=True)) == 2
    assert len(Windows(store, 7, drop_last=True)) == 3
    with pytest.raises(UserError, match="lower data.seq_len"):
        Windows(store, 22, drop_last=True)
    with pytest.raises(UserError, match="at least 1"):
        Windows(store, 0)
    with pytest.raises(UserError, match="no document"):
        Packed(Store(np.array([EOT]), np.array([0]), np.zeros(0, int), EOT), 4)

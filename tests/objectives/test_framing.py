# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""An encoder's rows field by field, and by which coin they are cut and shortened; the pairs are looked at in test_mlm.py."""
import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.objectives import framing, mlm
from jaxlm.objectives.framing import ORDERED

CLS, SEP, PAD, LENGTH = 1000, 1001, 1002, 16


def stretch(*sentences, other=()):
    """One row of a plan, of these sentences."""
    out = {}
    for name, number, parts in (("tokens", "sentences", sentences), ("other", "other_sentences", other)):
        ids = [t for part in parts for t in part]
        out[name], out[number] = np.zeros(2 * LENGTH, np.int32), np.zeros(2 * LENGTH, np.int32)
        out[name][:len(ids)], out[number][:len(ids)] = ids, np.repeat(np.arange(len(parts)) + 1, [len(p) for p in parts])
    return out


def frame(pairs, row, seed=0, short_rate=0.0, length=LENGTH):
    return framing.frame(pairs, row, length, CLS, SEP, PAD, short_rate, np.random.default_rng(seed))


def parts(row):
    """A and B of a finished row (B may be absent), having looked at all that is around them."""
    size = int((row["segments"] > 0).sum())
    tokens = row["tokens"][:size]
    assert size and tokens[0] == CLS and tokens[-1] == SEP and (row["tokens"][size:] == PAD).all()
    ends = np.flatnonzero(tokens == SEP)
    np.testing.assert_array_equal(row["segments"], np.arange(len(row["tokens"])) < size)
    np.testing.assert_array_equal(row["positions"], np.where(row["segments"] > 0, np.arange(len(row["tokens"])), 0))
    types = np.zeros(len(row["tokens"]), np.int32)
    types[ends[0] + 1:size] = 1
    np.testing.assert_array_equal(row["types"], types)
    assert {row[k].dtype.name for k in ("tokens", "segments", "positions", "types")} == {"int32"}
    found = [tokens[1:ends[0]], *(tokens[a + 1:b] for a, b in zip(ends, ends[1:]))]
    assert all(len(x) for x in found) and not np.isin(np.concatenate(found), (CLS, SEP, PAD)).any()
    return found


def test_a_row_in_full():
    """By hand: fields of a pair, of a single stretch, and of padding."""
    row, begins = frame("sop", stretch([5, 6], [7]), seed=1)
    a, b = ([5, 6], [7]) if row["labels"] == ORDERED else ([7], [5, 6])
    assert row["tokens"].tolist() == [CLS, *a, SEP, *b, SEP, *[PAD] * 10]
    assert row["types"].tolist() == [0] * (len(a) + 2) + [1] * (len(b) + 1) + [0] * 10 and row["label_weights"] == 1
    row, begins = frame("none", stretch([5, 6], [7, 8, 9]))
    assert row["tokens"].tolist() == [CLS, 5, 6, 7, 8, 9, SEP, *[PAD] * 9] and np.flatnonzero(begins).tolist() == [1, 3]
    assert "labels" not in row and not row["types"].any() and row["positions"].tolist() == [*range(7), *[0] * 9]
    for pairs in ("none", "nsp", "sop"):
        row, begins = frame(pairs, stretch())
        assert (row["tokens"] == PAD).all() and not begins.any() and not row["segments"].any() and not row.get("label_weights", 0)


@pytest.mark.parametrize("sizes", [(20, 3), (3, 20), (13, 14), (14, 14), (1, 30), (30, 1), (6, 7), (7, 7), (2, 3)])
def test_what_does_not_fit_is_cut_from_the_longer(sizes):
    """As one token after the other would be taken from the longer part (B of equal ones), at the front or the back by a fair
    coin (3 sigma). Fails if only the back is cut, or the shorter part."""
    room, want = LENGTH - 3, list(sizes)
    while sum(want) > room:
        want[0 if want[0] > want[1] else 1] -= 1
    a, b = list(range(sizes[0])), list(range(100, 100 + sizes[1]))
    fronts, lost = 0, 0
    for seed in range(200):
        row, begins = frame("sop", {k: x[:2 * LENGTH] for k, x in stretch_long(a, b).items()}, seed)
        found = parts(row) if row["labels"] == ORDERED else parts(row)[::-1]
        assert [len(x) for x in found] == want
        for x, whole in zip(found, (a, b)):
            assert (np.diff(x) == 1).all() and whole[0] <= x[0] and x[-1] <= whole[-1]
            fronts += x[0] - whole[0]
            lost += len(whole) - len(x)
        # What is left of a sentence begins one still.
        assert sorted(row["tokens"][begins]) == sorted(x[0] for x in found)
    assert abs(fronts - lost / 2) <= 3 * np.sqrt(lost) / 2


def stretch_long(a, b):
    tokens = np.array([*a, *b], np.int32)
    return {"tokens": tokens, "sentences": np.repeat([1, 2], [len(a), len(b)]).astype(np.int32),
            "other": np.zeros(1, np.int32), "other_sentences": np.zeros(1, np.int32)}


def test_a_stretch_without_a_pair_is_cut_at_both_ends():
    """Every window alike. Fails if it is always the end that goes: `_trim(sentences, 0, excess)`."""
    sentence = list(range(LENGTH + 2))  # 4 tokens more than the row's 14
    firsts = [parts(frame("none", stretch(sentence), seed)[0])[0][0] for seed in range(400)]
    assert set(firsts) == set(range(5)) and max(abs(firsts.count(k) - 80) for k in range(5)) < 4 * np.sqrt(400 * 0.16)
    assert all(len(parts(frame("none", stretch(sentence), seed)[0])[0]) == LENGTH - 2 for seed in range(20))


def test_short_rows_are_a_share():
    """short_rate of the pairs aim at a length drawn evenly. Fails if none is made shorter, or all."""
    sizes = {rate: [] for rate in (0.0, 0.5, 1.0)}
    full = stretch(*([10 * k + 1, 10 * k + 2] for k in range(8)))
    for rate, found in sizes.items():
        for seed in range(600):
            row, _ = frame("sop", full, seed, rate)
            found.append(int(row["segments"].sum()))
    assert set(sizes[0.0]) == {LENGTH}
    short = lambda rate: np.mean(np.array(sizes[rate]) < LENGTH - 2)
    assert short(1.0) > 0.6 and abs(short(0.5) - short(1.0) / 2) < 3 * np.sqrt(0.25 / 600)
    assert min(sizes[1.0]) <= 6


def test_one_document_is_not_enough_for_pairs():
    """Every row says so, whatever its coin. Fails if rows that a coin makes NEXT pass: ask only under `if single or coin`."""
    for seed in range(8):
        with pytest.raises(UserError, match="only one: split the source into documents.*or set objective.pairs='sop'"):
            frame("nsp", stretch([1, 2], [3]), seed)
    assert set(framing.LABELS) | {"none"} == set(mlm.PAIRS)

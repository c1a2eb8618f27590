# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Masks as a run draws them, from every plan and for any number of hosts."""
import math

import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.core.types import Vocabulary
from jaxlm.data import pipeline, sampler
from jaxlm.data.pack import Packed, Windows
from jaxlm.data.stretches import Stretches
from jaxlm.data.store import Store
from jaxlm.objectives import mlm

# Special tokens are spread over the ids, so that a range of ids is not what keeps them out.
VOCAB, EOT, CLS, SEP, MASK = 200, 0, 7, 199, 101
SPECIAL = (EOT, CLS, 50, MASK, SEP)
CONTINUES = np.arange(VOCAB) % 3 == 2
CONTINUES[list(SPECIAL)] = False
VOCABULARY = Vocabulary(VOCAB, EOT, SPECIAL, pad=None, cls=CLS, sep=SEP, mask=MASK, continues=CONTINUES)
LENGTH = 64


def store(documents=60):
    """Random text; special tokens stand in it as they do where text names them."""
    draw = np.random.default_rng(0)
    tokens, offsets, sentences = [], [], []
    for _ in range(documents):
        offsets.append(len(tokens))
        tokens.append(EOT)
        for _ in range(draw.integers(1, 9)):
            sentences.append(len(tokens))
            tokens += draw.choice(VOCAB, draw.integers(1, 30)).tolist()
    offsets.append(len(tokens))
    return Store(np.array([*tokens, EOT], np.uint16), np.array(offsets), np.ones(documents, np.int64), EOT, np.array(sentences))


STORE = store()
PLANS = {"windows": Windows, "pack": Packed, "sentences": Stretches}


def objective(**fields):
    return mlm.build(mlm.Config(**fields), VOCABULARY)


def drawn(plan, batch=32):
    return sampler.Sampler(PLANS[plan](STORE, LENGTH), batch, seed=5)


def batches(plan, steps, **fields):
    """Each with the rows as they were before anything was hidden, where the plan's rows are the batch's."""
    source, made = drawn(plan), objective(**fields)
    for step in range(steps):
        yield pipeline.make(source, made.prepare, step), source.batch(step)


def restored(batch):
    """The tokens before they were hidden, bool [B, L] of what is predicted."""
    tokens, hit = batch["tokens"].copy(), np.zeros(batch["tokens"].shape, bool)
    for row in range(len(tokens)):
        at = batch["predict"][row][batch["weights"][row] > 0]
        assert len(set(at)) == len(at) and (np.diff(at) > 0).all()
        tokens[row, at], hit[row, at] = batch["targets"][row][batch["weights"][row] > 0], True
    assert set(np.unique(batch["weights"])) <= {0.0, 1.0}
    assert not batch["predict"][batch["weights"] == 0].any() and not batch["targets"][batch["weights"] == 0].any()
    return tokens, hit


@pytest.mark.parametrize("plan, pairs", [("windows", "none"), ("pack", "none"), ("sentences", "none"), ("sentences", "nsp"), ("sentences", "sop")])
def test_what_is_predicted(plan, pairs):
    """`targets` at `predict` is what was there; everything else is shown as it is; no special token and no padding is
    predicted; and the share is mask_rate of the ordinary tokens, to 3 sigma of the rounding of each row (a few tokens in all).

    Fails if a special token may be predicted (`segments > 0` alone in _choose), if rows round down always (drop rng.random()
    there), or targets are read after hiding (`shown[hit]`)."""
    count, expected, variance = 0, 0.0, 0.0
    for batch, rows in batches(plan, 12, pairs=pairs):
        tokens, hit = restored(batch)
        if plan != "sentences":
            np.testing.assert_array_equal(tokens, rows["tokens"])
            np.testing.assert_array_equal(batch["segments"], rows["segments"])
            np.testing.assert_array_equal(batch["positions"], rows["positions"])
        free = (batch["segments"] > 0) & ~np.isin(tokens, SPECIAL)
        assert (free | ~hit).all()
        for n, found in zip(free.sum(1), hit.sum(1)):
            share = 0.15 * n
            if share < 1:
                assert found == min(n, 1)  # one at least
                continue
            assert found in (math.floor(share), math.floor(share) + 1)
            count, expected, variance = count + found, expected + share, variance + share % 1 * (1 - share % 1)
        assert batch["predict"].shape == (32, math.floor(0.15 * LENGTH) + 1) and (hit.sum(1) <= batch["predict"].shape[1]).all()
    assert expected > 1000 and abs(count - expected) < 3 * math.sqrt(variance), (count, expected)


def test_every_position_alike():
    """Of the ordinary tokens of a full row, each is predicted as often as another (4 sigma of 64). Fails if the first are taken:
    `free[:wanted]` in _choose."""
    source = {"tokens": np.full((2000, LENGTH), 9, np.int32), "segments": np.ones((2000, LENGTH), np.int32),
              "positions": np.tile(np.arange(LENGTH, dtype=np.int32), (2000, 1))}
    for whole_word in (False, True):
        _, hit = restored(objective(whole_word=whole_word).prepare(source, lambda i: np.random.default_rng(i)))
        assert np.abs(hit.mean(0) - 0.15).max() < 4 * math.sqrt(0.15 * 0.85 / 2000)


def test_a_sentence_begins_a_word():
    """Two sentences that meet between pieces are two words. Fails if `begins` is not looked at in _choose."""
    rows = {name: np.zeros((200, 2 * LENGTH), np.int32) for name in ("tokens", "sentences", "other", "other_sentences")}
    rows["tokens"][:, :4], rows["sentences"][:, :4] = 11, [1, 1, 2, 2]  # 11 goes on with the word before it
    assert CONTINUES[11]
    _, hit = restored(objective(whole_word=True, mask_rate=0.5).prepare(rows, lambda i: np.random.default_rng(i)))
    assert {tuple(row[1:5]) for row in hit.tolist()} == {(True, True, False, False), (False, False, True, True)}


def test_more_than_there_is_room_for():
    """predictions caps a row; a word that is longer than what is left makes way. Fails if the cap is not kept in _choose."""
    for whole_word in (False, True):
        for batch, _ in batches("windows", 2, predictions=3, mask_rate=0.5, whole_word=whole_word):
            assert batch["predict"].shape == (32, 3) and batch["weights"].sum() > 80


@pytest.mark.parametrize("plan, pairs", [("windows", "none"), ("sentences", "nsp"), ("sentences", "sop")])
def test_the_same_rows_for_any_number_of_hosts(plan, pairs):
    """1, 2 and 4 hosts, each making its rows, make the batch of one; a step made again is the same and another hides others.

    Fails if a row's numbers come from its place on the host: `sampler.rng(step, i)` in data/pipeline.make, or without the step."""
    source, made = drawn(plan, 8), objective(pairs=pairs)
    for step in (0, 3):
        whole = pipeline.make(source, made.prepare, step)
        for hosts in (1, 2, 4):
            size = 8 // hosts
            parts = [pipeline.make(source, made.prepare, step, slice(h * size, (h + 1) * size)) for h in range(hosts)]
            for name, x in whole.items():
                np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), x, err_msg=name)
    # The same rows in another step: a plan in order, a whole epoch apart.
    plan = PLANS[plan](STORE, LENGTH)
    in_order = sampler.Sampler(plan, len(plan), 0, shuffle=False)
    first, second = (pipeline.make(in_order, made.prepare, step) for step in (0, 1))
    assert not np.array_equal(first["predict"], second["predict"])
    if pairs == "none":
        np.testing.assert_array_equal(restored(first)[0], restored(second)[0])
    held = lambda size: np.concatenate([pipeline.make(sampler.InOrder(plan, size), made.prepare, n)["predict"] for n in range(-(-len(plan) // size))])
    np.testing.assert_array_equal(held(5)[:len(plan)], held(16)[:len(plan)])


def test_every_problem_of_its_fields():
    """Fails if problems() stops at the first."""
    found = mlm.Config(mask_rate=0.0, hidden=0.95, random=1.5, predictions=-1, pairs="nps", short_rate=-0.1).problems()
    assert len(found) == 6 and all("objective." in line for line in found)
    assert mlm.Config().problems() == [] and mlm.Config(mask_rate=1.0, hidden=0.0, random=0.0).problems() == []
    with pytest.raises(UserError, match="pairs is 'nps'"):
        objective(pairs="nps")

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Rows that go on from batch to batch: the order of the text, for any number of hosts; held-out documents whole and once."""
import numpy as np
import pytest

from jaxlm import build
from jaxlm.core.errors import UserError
from jaxlm.data.pack import Windows
from jaxlm.data.sampler import InOrder, Sampler
from jaxlm.data.stream import Stream
from tests.data.test_pack import STORES, make

CASES = [(s, L, R) for s in range(len(STORES)) for L, R in ((1, 1), (3, 4), (8, 2), (13, 5)) if len(STORES[s].tokens) > L]


def columns(drawn, steps: int) -> dict[str, np.ndarray]:
    """Each row of the batches one after the other: [rows, steps x L]."""
    batches = [drawn.batch(step) for step in range(steps)]
    return {name: np.concatenate([b[name] for b in batches], axis=1) for name in batches[0]}


@pytest.mark.parametrize("s, L, R", CASES)
def test_each_row_reads_the_whole_text_in_its_order(s, L, R):
    """Over two laps and more. Fails if rows take turns (`step * batch_size + rows` in Stream.indices), a document has another number
    in the next window (drop document_at from Stream.rows), or the last goes on in the first (drop `laps % 2`)."""
    store = STORES[s]
    plan = Stream(store, L, drop_last=True)
    n = len(plan) * L
    seen = columns(Sampler(plan, R, 0, shuffle=False), 2 * len(plan) + 3)
    for row in range(R):
        at = row * len(plan) // R * L + np.arange(seen["tokens"].shape[1])
        np.testing.assert_array_equal(seen["tokens"][row], store.slice(0, n)[at % n])
        np.testing.assert_array_equal(seen["next"][row], store.slice(1, n + 1)[at % n])
        begins = np.isin(at % n, store.offsets[:-1])
        np.testing.assert_array_equal(np.diff(seen["segments"][row]) != 0, begins[1:])
    assert seen["segments"].min() > 0 and seen["positions"].max() < L
    np.testing.assert_array_equal(seen["positions"], np.concatenate(
        [Windows(store, L).rows(Sampler(plan, R, 0, False).indices(t) % len(plan))["positions"] for t in range(2 * len(plan) + 3)], axis=1))


@pytest.mark.parametrize("hosts", [2, 4])
def test_any_number_of_hosts_draws_the_same_batches(hosts):
    """Fails if a host counts from its first row: `np.arange(len(range(self.batch_size)[rows]))` in Sampler.indices."""
    sampler = Sampler(Stream(STORES[-1], 5, drop_last=True), 8, 0, shuffle=False)
    for step in (0, 1, 40):
        whole = sampler.batch(step)
        parts = [sampler.batch(step, slice(h * 8 // hosts, (h + 1) * 8 // hosts)) for h in range(hosts)]
        for name, values in whole.items():
            np.testing.assert_array_equal(values, np.concatenate([p[name] for p in parts]))
        for row in range(8):
            ids = 1 + sampler.document_ids(step, row)
            assert set((whole["segments"][row] - 1) % STORES[-1].documents + 1) == set(ids.tolist())


@pytest.mark.parametrize("s, L, R", [*CASES, (3, 8, 7), (1, 1, 9)])
def test_held_out_documents_come_whole_and_once(s, L, R):
    """Fails if a column begins inside a document (take `ideal` itself for the bounds in Once), or pieces overlap."""
    store = STORES[s]
    drawn = InOrder(Stream(store, L), R)
    seen = columns(drawn, len(drawn))
    real = seen["segments"] > 0
    pairs = np.stack([seen["tokens"][real], seen["next"][real]])
    np.testing.assert_array_equal(pairs, np.stack([store.slice(0, -1), store.slice(1, len(store.tokens))]))  # in the order of the text, too
    found = []
    for row in range(R):
        size = real[row].sum()
        assert real[row, :size].all()
        found += sorted(set(seen["segments"][row, :size].tolist()))
    assert found == list(range(1, store.documents + 1))
    assert (seen["tokens"][~real] == store.eot).all() and (seen["positions"][~real] == 0).all()
    documents = [drawn.document_ids(step, row) for step in range(len(drawn)) for row in range(R)]
    assert set(np.concatenate(documents).tolist()) == set(range(store.documents))


def test_columns_are_about_equally_long():
    """Fails if documents are dealt by their number and not their length."""
    store = make(np.random.default_rng(0).integers(1, 40, 2000))
    assert len(InOrder(Stream(store, 16), 8)) * 8 <= 1.05 * (len(store.tokens) / 16) + 8


def test_an_order_that_is_none_is_refused():
    """Fails if a model whose state nobody carries reads a stream, or a stream is shuffled: drop either from build._cross and
    corpus.Config.problems."""
    with pytest.raises(UserError, match="set data.shuffle to false"):
        Sampler(Stream(STORES[2], 4), 2, 0)
    config = build.defaults(model="gpt")
    config.source.path, config.data.packing = "x", "stream"
    with pytest.raises(UserError, match="data.shuffle is true and data.packing 'stream'"):
        build.validate(config)
    config.data.shuffle = False
    with pytest.raises(UserError, match="model 'gpt' has none: take a recurrent one"):
        build.validate(config)
    build.validate(build.variant(config, "model=lstm"))

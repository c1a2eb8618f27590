# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The sampler: a permutation each epoch, one batch for any number of hosts, random numbers that belong to a row."""
import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.data.pack import Windows
from jaxlm.data.sampler import InOrder, Sampler, permute, rng, words
from tests.data.test_pack import make

STORE = make([5, 1, 7, 2, 30, 11, 60])
PLAN = Windows(STORE, 4)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 16, 17, 100, 1000, 4097])
@pytest.mark.parametrize("key", [0, 1, [3, 4]])
def test_permute_is_a_permutation(n, key):
    images = permute(np.arange(n), n, key)
    np.testing.assert_array_equal(np.sort(images), np.arange(n))
    np.testing.assert_array_equal(images[::3], permute(np.arange(n)[::3], n, key))


def test_permute_mixes_and_depends_on_the_key():
    n = 10000
    a, b = permute(np.arange(n), n, 1), permute(np.arange(n), n, 2)
    for x in (a, b, b[np.argsort(a)]):
        assert abs(np.corrcoef(np.arange(n), x)[0, 1]) < 0.05
        assert (x == np.arange(n)).sum() < 10
        assert 0.45 < (np.diff(x) > 0).mean() < 0.55
    far = permute(10**15 - 1 - np.arange(100), 10**15, 5)
    assert len(set(far)) == 100 and 0 <= far.min() and far.max() < 10**15
    three = [tuple(permute(np.arange(3), 3, k)) for k in range(3000)]
    assert all(400 < three.count(p) < 600 for p in set(three)) and len(set(three)) == 6


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
@pytest.mark.parametrize("seed", [0, 7])
def test_each_epoch_holds_every_row_once_in_a_new_order(batch_size, seed):
    """Fails if the epoch is left out of the key of the permutation."""
    sampler, n = Sampler(PLAN, batch_size, seed), len(PLAN)
    drawn = np.concatenate([sampler.indices(step) for step in range(3 * n // batch_size + 1)])[:3 * n].reshape(3, n)
    for epoch in drawn:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(n))
    assert not np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[1], drawn[2])
    plain = Sampler(PLAN, batch_size, seed, shuffle=False)
    np.testing.assert_array_equal(plain.indices(5), (5 * batch_size + np.arange(batch_size)) % n)
    assert sampler.epoch(n) == batch_size


@pytest.mark.parametrize("hosts", [1, 2, 4, 8])
def test_any_number_of_hosts_draws_the_same_batch(hosts):
    """Fails if the rows are permuted after the slice by their number on the host."""
    sampler = Sampler(PLAN, 8, 3)
    for step in (0, 1, 17, 1000):
        whole = sampler.batch(step)
        parts = [sampler.batch(step, slice(h * 8 // hosts, (h + 1) * 8 // hosts)) for h in range(hosts)]
        for name, values in whole.items():
            np.testing.assert_array_equal(values, np.concatenate([p[name] for p in parts]))


def test_seed_and_step_change_the_batch():
    drawn = {tuple(Sampler(PLAN, 8, seed).indices(step)) for seed in range(5) for step in range(3)}
    assert len(drawn) == 15


def test_document_ids_name_the_documents_of_a_row():
    sampler = Sampler(PLAN, 8, 3)
    for row in range(8):
        assert sampler.document_ids(2, row).tolist() == PLAN.documents(sampler.indices(2)[row]).tolist()


@pytest.mark.parametrize("batch_size", [1, 4, 7, 50])
def test_in_order_gives_every_row_once_and_fills_up_with_padding(batch_size):
    ordered = InOrder(PLAN, batch_size)
    batches = [ordered.batch(i) for i in range(len(ordered))]
    assert all(b["tokens"].shape == (batch_size, 4) for b in batches)
    tokens = np.concatenate([b["tokens"] for b in batches])
    np.testing.assert_array_equal(tokens[:len(PLAN)], PLAN.rows(np.arange(len(PLAN)))["tokens"])
    assert not np.concatenate([b["segments"] for b in batches])[len(PLAN):].any()
    with pytest.raises(ValueError):
        ordered.batch(len(ordered))


def test_random_numbers_belong_to_the_row():
    """Fails if `words` gives one word for each integer."""
    assert rng(1, 2, 3).random() == rng(1, 2, 3).random()
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (1 << 32, 0, 0), (0, 1 << 32, 0), (0, 0, 1 << 32)]
    assert len({rng(*k).random() for k in keys}) == len(keys)
    assert len({np.random.SeedSequence(words(*w)).generate_state(1)[0] for w in ((1, 2), (1, 2, 0), (1,), (1, 0))}) == 4
    by_row = {InOrder(PLAN, b).rng(i // b, i % b).random() for b in (1, 3, 7) for i in (11,)}
    assert len(by_row) == 1
    assert Sampler(PLAN, 4, 1).rng(0, 0).random() != InOrder(PLAN, 4, 1).rng(0, 0).random()


def test_bad_arguments():
    for bad in (lambda: Sampler(PLAN, 0, 1), lambda: Sampler(PLAN, 1, -1), lambda: InOrder(PLAN, 0)):
        with pytest.raises(UserError):
            bad()
    with pytest.raises(ValueError):
        Sampler(PLAN, 1, 1).batch(-1)
    with pytest.raises(ValueError):
        rng(-1, 0, 0)

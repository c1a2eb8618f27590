# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Prefetching changes when a batch is made, never what it is; errors arrive, waiting is counted, close never hangs."""
import threading
import time

import numpy as np
import pytest

from jaxlm.data.pack import Windows
from jaxlm.data.pipeline import batches, make
from jaxlm.data.sampler import InOrder, Sampler
from tests.data.test_pack import make as make_store

SAMPLER = Sampler(Windows(make_store([5, 1, 7, 2, 30, 11]), 4), 4, 3)


def noisy(rows, rngs):
    return rows | {"noise": np.array([rngs(i).random() for i in range(len(rows["tokens"]))])}


@pytest.mark.parametrize("prefetch", [0, 1, 2, 5])
def test_batches_are_those_of_the_sampler_in_order(prefetch):
    with batches(SAMPLER, noisy, 3, 40, prefetch=prefetch) as found:
        found = list(found)
    assert [step for step, _ in found] == list(range(3, 40))
    for step, batch in found:
        expected = make(SAMPLER, noisy, step)
        assert batch.keys() == expected.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], expected[name])
    assert list(batches(SAMPLER, noisy, 5, 5)) == []


def test_a_host_makes_its_rows_with_their_random_numbers():
    """Fails if make gives rngs(i) the number of the row on the host."""
    whole = make(SAMPLER, noisy, 7)
    for part in (slice(0, 2), slice(2, 4), slice(1, 4, 2)):
        (_, batch), = batches(SAMPLER, noisy, 7, 8, rows=part)
        for name in whole:
            np.testing.assert_array_equal(batch[name], whole[name][part])


def test_it_works_for_evaluation():
    ordered = InOrder(SAMPLER.plan, 5)
    found = list(batches(ordered, noisy, 0, len(ordered)))
    assert sum((b["segments"].max(1) > 0).sum() for _, b in found) == len(SAMPLER.plan)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_error_reaches_the_caller_and_ends_the_iteration(prefetch):
    def prepare(rows, rngs):
        if rngs(0).random() == SAMPLER.rng(5, 0).random():
            raise KeyError("step five")
        return rows
    found, steps = batches(SAMPLER, prepare, 0, 100, prefetch=prefetch), []
    with pytest.raises(KeyError, match="step five"):
        for step, _ in found:
            steps.append(step)
    assert steps == [0, 1, 2, 3, 4] and next(found, None) is None


def test_closing_early_does_not_hang_and_stops_the_thread():
    made = []

    def slow(rows, rngs):
        made.append(1)
        time.sleep(0.05)
        return rows
    before = threading.active_count()
    with batches(SAMPLER, slow, 0, 10**9, prefetch=3) as found:
        next(found)
    began = time.monotonic()
    found.close()
    assert next(found, None) is None and time.monotonic() - began < 1
    while threading.active_count() > before and time.monotonic() - began < 20:
        time.sleep(0.01)
    assert len(made) <= 5 and threading.active_count() <= before


def test_batches_are_made_ahead():
    """Fails if num_threads is 0 for every prefetch."""
    def slow(rows, rngs):
        time.sleep(0.03)
        made.release()
        return rows
    made = threading.Semaphore(0)
    with batches(SAMPLER, slow, 0, 8, prefetch=2) as found:
        next(found)
        assert all(made.acquire(timeout=20) for _ in range(3))  # two more, though nobody asked
        assert not made.acquire(timeout=0.1)
        began = time.monotonic()
        next(found)
        assert time.monotonic() - began < 0.03
    with batches(SAMPLER, slow, 0, 8, prefetch=0) as found:
        began = time.monotonic()
        assert len(list(found)) == 8 and time.monotonic() - began > 8 * 0.03
    with pytest.raises(ValueError, match="prefetch"):
        batches(SAMPLER, slow, 0, 1, prefetch=-1)

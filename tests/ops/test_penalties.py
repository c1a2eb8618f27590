# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Filters and penalties equal transformers' processors of the same name, stored and installed; padding never counts."""
import importlib
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import penalties, sample
from jaxlm.ops.penalties import History, Penalties
from tests.generate.test_beam import HERE

EOT = 3
BAD = ((EOT,), (1,), (2, 4), (0, 1, 2), (2, 2, 5))


def history(tokens, padding=0, room=0, prompt=6):
    """Rows of equal length, behind padding that would be counted if it were looked at, before free slots."""
    rows = len(tokens)
    wide = np.concatenate([np.full((rows, padding), 2), tokens, np.full((rows, room), 1)], axis=1).astype(np.int32)
    size = padding + tokens.shape[1]
    return History(jnp.asarray(wide), jnp.full((rows,), padding, jnp.int32), jnp.int32(size), padding + prompt)


# name: (ours, of logits and history)
CASES = {
    "temperature": lambda x, h: sample.filter_logits(x, 0.7),
    "top_k": lambda x, h: sample.filter_logits(x, top_k=5),
    "top_p": lambda x, h: sample.filter_logits(x, top_p=0.8),
    "min_p": lambda x, h: sample.filter_logits(x, min_p=0.1),
    "typical_p": lambda x, h: sample.filter_logits(x, typical_p=0.7),
    "repetition": lambda x, h: penalties.repetition(x, h, 1.7),
    "no_repeat_ngram_1": lambda x, h: penalties.no_repeat_ngram(x, h, 1),
    "no_repeat_ngram_2": lambda x, h: penalties.no_repeat_ngram(x, h, 2),
    "no_repeat_ngram_3": lambda x, h: penalties.no_repeat_ngram(x, h, 3),
    "bad_words": lambda x, h: penalties.bad_words(x, h, BAD, EOT),
    "min_new": lambda x, h: penalties.min_new(x, h, 4, EOT),
    "all": lambda x, h: sample.filter_logits(
        penalties.penalize(x, h, EOT, Penalties(1.7, no_repeat_ngram=3, bad_words=BAD, min_new=4)), 0.7, 5, 0.8, min_p=0.1, typical_p=0.7),
}


@jax.jit
def ours(logits, past):
    return {name: case(logits, past) for name, case in CASES.items()}


def compare(expected, padding, room):
    tokens, logits = expected.pop("tokens"), expected.pop("logits")
    got = ours(logits, history(tokens, padding, room))
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        mine = np.asarray(got[name])
        assert ((mine == -np.inf) == (value == -np.inf)).all(), name
        # Filters of draws shift a row, which changes no probability.
        shift = lambda x: x - x.max(axis=1, keepdims=True)
        np.testing.assert_allclose(shift(mine), shift(value), atol=2e-5, err_msg=name)
        assert not np.array_equal(value, logits), f"{name} changes nothing here"


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("padding, room", [(0, 0), (3, 4)])
def test_stored(seed, padding, room):
    """Fails if padding or free slots count (`filled` without `slot >= start`), if min-p comes before the temperature,
    or if a positive logit is multiplied by the repetition penalty."""
    with np.load(HERE / "references.npz") as file:
        prefix = f"filters/{seed}/"
        compare({key.removeprefix(prefix): file[key] for key in file.files if key.startswith(prefix)}, padding, room)


def test_live():
    if not (importlib.util.find_spec("torch") and importlib.util.find_spec("transformers")):
        pytest.skip("torch and transformers are not installed")
    compare(importlib.import_module("tests.generate.make_references").filtered(2), 3, 4)


def test_presence_and_frequency():
    """logit - presence * [generated] - frequency * times (OpenAI's definition); the prompt does not count. Fails if it does."""
    rng = np.random.default_rng(0)
    tokens, logits = rng.integers(0, 6, (20, 9)), rng.normal(size=(20, 17)).astype(np.float32)
    got = penalties.presence_and_frequency(jnp.asarray(logits), history(tokens, 2, 3), 0.5, 0.25)
    for row in range(20):
        counts = np.bincount(tokens[row, 6:], minlength=17)
        np.testing.assert_allclose(got[row], logits[row] - 0.5 * (counts > 0) - 0.25 * counts, atol=1e-6)


def test_the_first_token_is_forced_behind_a_start_alone():
    """As transformers' processor, which asks whether there is one token; padding is none. Fails if a prompt that goes on is
    forced too (`end == prompt`), or padding counts (`end == 1`)."""
    tokens, starts = np.array([[1, 1, 1, 4, 9], [1, 1, 4, 5, 9], [4, 5, 6, 7, 9]], np.int32), [3, 2, 0]
    logits = jnp.asarray(np.random.default_rng(4).normal(size=(3, 11)).astype(np.float32))
    call = lambda end: np.asarray(penalties.penalize(logits, History(tokens, jnp.array(starts), jnp.int32(end), 4), EOT, Penalties(first=7, min_new=2)))
    assert np.isfinite(call(4)).sum(axis=1).tolist() == [1, 10, 10] and call(4)[0, 7] == 0
    assert np.isfinite(call(5)).sum(axis=1).tolist() == [10, 10, 10]
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
        torch, theirs = (importlib.import_module(name) for name in ("torch", "transformers"))
        for row, start in enumerate(starts):
            forced = theirs.ForcedBOSTokenLogitsProcessor(7)(torch.tensor(tokens[row : row + 1, start:4]), torch.tensor(np.asarray(logits)[row : row + 1]))
            own = penalties.forced_first(logits, History(tokens, jnp.array(starts), jnp.int32(4), 4), 7)[row]
            np.testing.assert_array_equal(forced[0].numpy(), own)


def test_rows_that_differ():
    """A setting [B], and rows that began and stand elsewhere, are each row alone. Fails if `end` is read from row 0."""
    rng = np.random.default_rng(1)
    tokens, logits = rng.integers(0, 4, (4, 12)).astype(np.int32), jnp.asarray(rng.normal(size=(4, 9)).astype(np.float32))
    starts, ends = np.array([0, 3, 1, 5], np.int32), np.array([12, 9, 7, 6], np.int32)
    least, penalty = jnp.array([3, 1, 9, 2]), jnp.array([1.0, 1.5, 0.7, 2.0])

    top_k = jnp.array([0, 3, 2, 5])

    @jax.jit
    def call(x, h, least, penalty, top_k):
        x = penalties.presence_and_frequency(penalties.repetition(x, h, penalty), h, penalty, penalty)
        x = penalties.bad_words(penalties.no_repeat_ngram(x, h, 2), h, ((1, 2), (0, 3, 1)), 8)
        x = penalties.min_new(x, h, least, 8)
        return sample.filter_logits(x, penalty, top_k, jnp.full(len(x), 0.9), 0, penalty / 20, penalty / 2)

    whole = penalties.min_new(logits, History(tokens, starts, ends, 5), least, 8)
    assert (whole[:, 8] == -np.inf).tolist() == [False, False, True, True]
    together = call(logits, History(tokens, starts, ends, 5), least, penalty, top_k)
    for row in range(4):
        one = slice(row, row + 1)
        alone = call(logits[one], History(tokens[one], starts[one], ends[one], 5), least[one], penalty[one], top_k[one])
        np.testing.assert_allclose(alone[0], together[row], atol=1e-6)
    for row in (1, 3):
        one = slice(row, row + 1)
        own = History(tokens[one, starts[row] : ends[row]], starts[one] * 0, jnp.int32(ends[row] - starts[row]), 0)
        together = penalties.no_repeat_ngram(logits, History(tokens, starts, ends, 5), 2)
        np.testing.assert_array_equal(penalties.no_repeat_ngram(logits[one], own, 2)[0], together[row])

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Sampling against distributions computed one id at a time in float64."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import sample as sampling

LOGITS = np.array([1.2, -0.3, 2.0, 0.4, 0.4, -1.5, 1.9, 0.0, -0.7, 3.0], np.float32)
# The 99.99 % quantile of chi-square by degrees of freedom.
LIMIT = {1: 15.14, 2: 18.42, 3: 21.11, 4: 23.51, 5: 25.74, 6: 27.86, 7: 29.88, 8: 31.83, 9: 33.72}


def exact(logits, temperature=1.0, top_k=0, top_p=1.0, valid=0, min_p=0.0, typical_p=1.0):
    """The filtered, renormalised distribution, by its definition."""
    valid = valid or len(logits)
    weight = np.exp(np.asarray(logits[:valid], np.float64) / temperature)
    ranked = sorted(range(valid), key=lambda i: (-weight[i], i))[:top_k or valid]
    total, kept, mass = sum(weight[i] for i in ranked), [], 0.0
    for i in ranked:
        kept.append(i)
        mass += weight[i] / total
        if mass >= top_p:
            break
    kept = [i for i in kept if weight[i] >= min_p * weight[ranked[0]]]
    if typical_p < 1:
        chance = {i: weight[i] / weight[kept].sum() for i in kept}
        entropy = -sum(p * np.log(p) for p in chance.values())
        far = {i: abs(-np.log(chance[i]) - entropy) for i in kept}
        nearest = sorted(kept, key=far.get)
        reached = np.cumsum([chance[i] for i in nearest])
        last = far[nearest[min((reached < typical_p).sum(), len(nearest) - 1)]]
        kept = [i for i in kept if far[i] <= last]  # equally near ones stay together
    out = np.zeros(len(logits))
    out[kept] = weight[kept] / weight[kept].sum()
    return out


CASES = [
    dict(),
    dict(temperature=0.6),
    dict(top_k=3),
    dict(top_p=0.8),
    dict(temperature=1.7, top_k=7, top_p=0.85),
    dict(temperature=0.9, top_p=0.95, valid=9),
    dict(min_p=0.15),
    dict(typical_p=0.6),
    dict(temperature=1.4, top_k=8, top_p=0.95, min_p=0.05, typical_p=0.8),
]


@pytest.mark.parametrize("case, per_row", [(case, False) for case in CASES] + [(CASES[4], True), (CASES[-1], True)], ids=str)
def test_draws_follow_the_exact_distribution(case, per_row):
    """Fails if top-p drops the id that reaches the mass (`reached < mass`), or reads masses beyond the top k."""
    draws, settings = 20000, {("valid_vocab" if k == "valid" else k): v for k, v in case.items()}
    if per_row:
        settings = {k: v if k == "valid_vocab" else jnp.full((draws,), v) for k, v in settings.items()}
    logits = np.broadcast_to(LOGITS, (draws, len(LOGITS)))

    @jax.jit
    def draw(rows, logits):
        keys = sampling.row_keys(7, rows, 3)
        left = sampling.filter_logits(logits, **settings)
        return sampling.sample(keys, logits, **settings), jax.nn.softmax(left, axis=-1)

    ids, _ = draw(np.arange(draws), logits)
    expected = exact(LOGITS, **case) * draws
    counts = np.bincount(ids, minlength=len(LOGITS))
    live = expected > 0
    assert counts[~live].sum() == 0
    assert ((counts - expected)[live] ** 2 / expected[live]).sum() < LIMIT[live.sum() - 1]
    # What is drawn from, for other logits.
    rows = np.random.default_rng(0).normal(size=logits.shape).astype(np.float32) * 2
    _, left = draw(np.arange(draws), rows)
    np.testing.assert_allclose(left[:50], [exact(row, **case) for row in rows[:50]], atol=1e-6)


def test_greedy_is_the_first_of_the_best_valid_ids():
    logits = jnp.array([[0.0, 5.0, 5.0, 9.0], [1.0, 0.0, -1.0, 2.0]])
    key = jax.random.key(0)
    assert sampling.sample(key, logits, 0.0, valid_vocab=3).tolist() == [1, 0]
    left = sampling.filter_logits(logits, 0.0, valid_vocab=3)
    assert (left > -jnp.inf).tolist() == [[False, True, False, False], [True, False, False, False]]
    # Rows that differ: the first greedy, the second at two ids.
    left = sampling.filter_logits(logits, jnp.array([0.0, 1.0]), jnp.array([0, 2]), jnp.array([1.0, 1.0]))
    assert (left > -jnp.inf).tolist() == [[False, False, False, True], [True, False, False, True]]


def test_ties_are_cut_by_id():
    """Fails if ids that equal the threshold all stay (drop `ids <= tie`)."""
    logits = jnp.zeros((1, 8))
    assert (sampling.filter_logits(logits, top_k=3) > -jnp.inf)[0].tolist() == [True] * 3 + [False] * 5
    # Exactly half of the mass: four of eight equal ids reach it, a fifth is not needed.
    assert (sampling.filter_logits(logits, top_p=0.5) > -jnp.inf)[0].tolist() == [True] * 4 + [False] * 4


def test_one_id_always_stays_and_nothing_overflows():
    logits = jnp.array([[80.0, -80.0, 79.0]])
    assert (sampling.filter_logits(logits, top_p=1e-6) > -jnp.inf)[0].tolist() == [True, False, False]
    for cold in (1e-38, 1e-37, jnp.array([1e-38]), jnp.array([1e-37])):
        assert jax.nn.softmax(sampling.filter_logits(logits, cold))[0].tolist() == [1.0, 0.0, 0.0]


def test_a_row_draws_the_same_in_any_batch():
    """Fails if one key draws for the whole batch: `categorical(key[0], logits)`."""
    logits = jax.random.normal(jax.random.key(1), (6, 50))
    draw = jax.jit(lambda rows, logits: sampling.sample(sampling.row_keys(3, rows, 5), logits))
    whole = draw(jnp.arange(6), logits)
    for row in range(6):
        alone = draw(jnp.array([row]), logits[row:row + 1])
        assert alone[0] == whole[row]
    # One key for all rows: they still draw independently.
    assert len(set(sampling.sample(jax.random.key(0), jnp.zeros((6, 1000))).tolist())) > 1

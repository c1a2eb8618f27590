# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What every objective promises: sums add over parts of a batch, padding weighs nothing, rows do not depend on hosts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import build
from jaxlm.core.types import Outputs
from jaxlm.data.pairs import Pairs
from jaxlm.objectives import mlm
from tests import families

# Fields that make an objective compute something else; every file of the folder needs an entry.
CASES = {
    "causal_lm": ("causal_lm", {"z_loss": 1e-3, "label_smoothing": 0.05}),
    "seq2seq": ("seq2seq", {"z_loss": 1e-3, "label_smoothing": 0.05}),
    "mlm": ("mlm", {}),
    "mlm_nsp": ("mlm", {"pairs": "nsp", "mask_rate": 0.4}),
    "mlm_sop": ("mlm", {"pairs": "sop", "whole_word": True}),
    "denoise": ("denoise", {"rate": 0.4, "span": 1.5}),
    "denoise_infilling": ("denoise", {"kind": "infilling", "rate": 0.4, "label_smoothing": 0.05}),
}
ROWS = 16


def test_every_objective_is_here():
    assert set(build.names("objective")) == {name for name, _ in CASES.values()}, "add an entry to CASES"


def made(case: str):
    name, options = CASES[case]
    module = build.find("objective", name)
    return module.build(module.Config(**options), families.vocabulary())


def rows_of(case: str, seed: int = 0) -> dict[str, np.ndarray]:
    if "_nsp" in case or "_sop" in case:
        return families.stretches(seed, ROWS, 24)
    packed = families.packed(seed)
    if "denoise" in case:
        rows = {"text": packed["tokens"], "text_segments": packed["segments"]} | {
            name: np.repeat(x, ROWS, 0) for name, x in Pairs.blank(24, 20).items()}
        return {k: x[:ROWS] for k, x in rows.items()}
    sources = families.sources(packed, seed) if case == "seq2seq" else {}
    rows = packed | sources | {"next": packed["targets"]}
    return {k: x[:ROWS] for k, x in rows.items() if k not in ("targets", "weights")}


def prepared(case: str, rows: slice = slice(None), seed: int = 0):
    """The given rows of a batch as a host with those rows alone would make them."""
    numbers = range(ROWS)[rows]
    return made(case).prepare({k: x[rows] for k, x in rows_of(case, seed).items()}, lambda i: np.random.default_rng([7, seed, numbers[i]]))


def outputs_of(batch, seed: int = 0) -> Outputs:
    """Random outputs, a function of the batch's content so that a part of a batch has its part of them."""
    draw = np.random.default_rng(seed)
    at = batch.get("predict", batch["tokens"])
    vectors = jnp.asarray(draw.standard_normal((families.VOCAB, 8)), jnp.float32)
    hidden = vectors[batch["targets"]] + 0.5 * jnp.sin(at[:, :, None].astype(jnp.float32))
    pair = jnp.stack([batch["tokens"].sum(1) % 7 - 3.0, batch["tokens"].sum(1) % 5 - 2.0], -1).astype(jnp.float32)
    table = jnp.asarray(draw.standard_normal((families.VOCAB, 8)), jnp.float32)
    return Outputs(hidden, table, head={"pair": pair})


@pytest.mark.parametrize("case", CASES)
def test_sums_add_over_parts(case):
    """The Means of a batch are the sums of those of its parts, to 1e-6. Fails if a loss divides by the weight of the part it
    sees: `jnp.sum(batch["weights"])` of the part for that of the whole in mlm.balance, called on each part."""
    objective = made(case)
    batch = objective.balance(jax.tree.map(jnp.asarray, prepared(case)))
    whole = objective.loss(outputs_of(batch), batch)
    total = None
    for part in (slice(0, 3), slice(3, 4), slice(4, ROWS)):
        cut = jax.tree.map(lambda x: x[part], batch)
        means = objective.loss(outputs_of(cut), cut)
        total = means if total is None else {k: m + total[k] for k, m in means.items()}
    assert whole["loss"].weight > 0
    for name, mean in whole.items():
        np.testing.assert_allclose(total[name].total, mean.total, rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(total[name].weight, mean.weight, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("case", ["mlm_nsp", "mlm_sop"])
def test_the_loss_adds_averages(case):
    """As published: the average over masked tokens plus the average over labels. Fails if labels weigh as one token each."""
    objective = made(case)
    batch = jax.tree.map(jnp.asarray, prepared(case))
    means = objective.loss(outputs_of(batch), batch)
    assert len(objective.terms) == 2
    np.testing.assert_allclose(means["loss"].value, sum(means[name].value for name in objective.terms), rtol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_padding_weighs_nothing(case):
    """Rows of padding alone add nothing to any Mean. Fails if `_choose` takes positions of segment 0."""
    objective = made(case)
    blank = {k: np.zeros_like(x[:2]) for k, x in rows_of(case).items()}
    batch = jax.tree.map(jnp.asarray, objective.prepare(blank, np.random.default_rng))
    for mean in objective.loss(outputs_of(batch), batch).values():
        assert mean.total == 0 and mean.weight == 0


@pytest.mark.parametrize("case", CASES)
def test_any_number_of_hosts_makes_the_same_rows(case):
    """Fails if a row's numbers come from the batch: one generator for all rows in mlm.prepare, `rngs(0)` in noise._drawn."""
    whole = prepared(case)
    for hosts in (2, 4):
        parts = [prepared(case, slice(i * ROWS // hosts, (i + 1) * ROWS // hosts)) for i in range(hosts)]
        for name, x in whole.items():
            np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), x, err_msg=name)


def test_labels_of_a_pair():
    """-log p and right answers against a softmax in float64."""
    logits, labels = np.random.default_rng(0).standard_normal((9, 2)) * 5, np.arange(9) % 2
    nll, right = mlm._label(jnp.asarray(logits, jnp.float32), jnp.asarray(labels))
    want = np.log(np.exp(logits).sum(-1)) - logits[np.arange(9), labels]
    np.testing.assert_allclose(nll, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(right, logits.argmax(-1) == labels)

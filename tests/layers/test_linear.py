# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The einsum: two-dimensional or not the same numbers, by the kind of leaf, and clear on equations it cannot do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.layers import linear
from jaxlm.layers.embed import sinusoidal

RNG = np.random.default_rng(0)
CASES = {
    "btd,dnh->btnh": ((2, 3, 4), (4, 5, 6)),
    "btnh,nhd->btd": ((2, 3, 5, 6), (5, 6, 4)),
    "bd,df->bf": ((2, 4), (4, 7)),
}


@pytest.mark.parametrize("equation", CASES)
def test_flat_is_einsum(equation, monkeypatch):
    x, w = (jnp.asarray(RNG.standard_normal(s), jnp.float32) for s in CASES[equation])
    for flat in (True, False):
        monkeypatch.setattr(linear, "flat", lambda flat=flat: flat)
        np.testing.assert_allclose(linear.einsum(equation, x, w), jnp.einsum(equation, x, w), rtol=1e-5, atol=1e-6)
    assert linear.einsum(equation, x.astype(jnp.bfloat16), w).dtype == jnp.bfloat16


@pytest.mark.parametrize("equation", ["btd,fd->btf", "btd,bdf->btf", "btd,df->bft", "btd,ef->btf"])
def test_equations_it_cannot_do(equation):
    with pytest.raises(ValueError, match="last dimensions of x"):
        linear.einsum(equation, jnp.ones((2, 2, 2)), jnp.ones((2,) * len(equation.split(",")[1].split("-")[0])))


def test_other_kinds_of_leaf(monkeypatch):
    """A weight of another type acts by its own function, also stacked and scanned, with no change to a layer."""

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Scaled:
        whole: jax.Array
        scale: jax.Array

    monkeypatch.setitem(linear.KINDS, Scaled, lambda eq, x, w, axes: linear.einsum(eq, x, w.whole * w.scale, axes))
    layer = linear.Linear(nnx.Rngs(0), (4,), (5,), ("embed", "mlp"))
    graphdef, state = nnx.split(layer)
    weights = nnx.to_pure_dict(state)
    x = jnp.ones((2, 3, 4))
    other = {**weights, "kernel": Scaled(weights["kernel"] / 2, jnp.float32(2))}
    np.testing.assert_allclose(nnx.merge(graphdef, other)(x), layer(x), rtol=1e-6)


def test_parameter_needs_a_name_a_dimension():
    with pytest.raises(ValueError, match="1 axis names"):
        linear.param(nnx.Rngs(0), (2, 3), "embed")


def test_sinusoidal():
    """Sines of decreasing frequency, then cosines."""
    got = sinusoidal(jnp.array([[0, 3]]), 4)[0]
    np.testing.assert_allclose(got, [[0, 0, 1, 1], [np.sin(3), np.sin(0.03), np.cos(3), np.cos(0.03)]], atol=1e-6)

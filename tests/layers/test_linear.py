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


def projections(bias, shapes=((4, 6), (2, 6), (2, 6))):
    rngs = nnx.Rngs(1)
    layers = [linear.Linear(rngs, (8,), shape, ("embed", "heads", "head_dim"), bias=bias, float8=True) for shape in shapes]
    for layer in layers if bias else []:
        layer.bias.set_value(jnp.asarray(RNG.standard_normal(layer.bias.get_value().shape), jnp.float32))
    return nnx.split(tuple(layers))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_beside_is_each_alone(bias, dtype):
    """Values and gradients, of projections of several widths; fails if parts are cut elsewhere, or a bias is another's."""
    graphdef, weights = projections(bias)
    x = jnp.asarray(RNG.standard_normal((2, 3, 8)), dtype)
    directions = [jnp.asarray(RNG.standard_normal((2, 3, *shape)), dtype) for shape in ((4, 6), (2, 6), (2, 6))]

    def total(x, weights, run):
        made = run(x, nnx.merge(graphdef, weights))
        return sum(jnp.sum((y * d).astype(jnp.float32)) for y, d in zip(made, directions, strict=True)), made

    each = lambda x, layers: [layer(x) for layer in layers]
    run = lambda how: jax.value_and_grad(total, (0, 1), has_aux=True)(x, weights, how)
    ((_, one), (d_x, d_w)), ((_, other), (e_x, e_w)) = run(linear.beside), run(each)
    close = dict(rtol=1e-5, atol=1e-6) if dtype == jnp.float32 else dict(rtol=2e-2, atol=6e-2)
    for a, b in zip(jax.tree.leaves((one, d_x, d_w)), jax.tree.leaves((other, e_x, e_w)), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), **close)


def test_when_weights_lie_side_by_side(monkeypatch):
    """Once, for plain weights of one CPU; each alone where one is of a kind of its own, and where devices share the work.

    Fails if one of the conditions is left out."""
    graphdef, weights = projections(True)
    x = jnp.ones((2, 3, 8))
    count = lambda: str(jax.make_jaxpr(lambda x, w: linear.beside(x, nnx.merge(graphdef, w)))(x, weights)).count("dot_general[")
    assert count() == 1
    for name, value in (("alone", lambda: False), ("platform", lambda: "gpu")):
        with monkeypatch.context() as patch:
            patch.setattr(linear.place, name, value)
            assert count() == 3, name

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Doubled:
        half: jax.Array

    monkeypatch.setitem(linear.KINDS, Doubled, lambda eq, x, w, axes: linear.einsum(eq, x, 2 * w.half, axes))
    layers = nnx.merge(graphdef, weights)
    expected = [np.asarray(layer(x)) for layer in layers]
    layers[1].kernel.set_value(Doubled(layers[1].kernel.get_value() / 2))
    for y, e in zip(linear.beside(x, layers), expected, strict=True):
        np.testing.assert_allclose(y, e, rtol=1e-6)


@pytest.mark.parametrize("case", ["plain", "no_bias", "gated", "bfloat16", "one_row", "devices", "gpu"])
def test_after_is_the_layer_of_it(case, monkeypatch):
    """Values and gradients; on one CPU in float32 the backward pass finds only `parts` of that width saved.

    Fails if a condition of `after` is left out, or the bias is.
    """
    rows = (1, 1) if case == "one_row" else (2, 3)
    dtype = jnp.bfloat16 if case == "bfloat16" else jnp.float32
    layer = linear.Linear(nnx.Rngs(2), (8,), (5,), ("mlp", "embed"), bias=case != "no_bias")
    if layer.bias is not None:
        layer.bias.set_value(jnp.arange(5.0))
    graphdef, weights = nnx.split(layer)
    parts = tuple(jnp.asarray(RNG.standard_normal((*rows, 8)), dtype) for _ in range(1 + (case == "gated")))
    of = lambda *parts: jnp.tanh(parts[0]) * parts[-1]
    if case in ("devices", "gpu"):
        monkeypatch.setattr(linear.place, *(("alone", lambda: False) if case == "devices" else ("platform", lambda: "gpu")))
    y, back = jax.vjp(lambda parts, w: linear.after(of, parts, nnx.merge(graphdef, w)), parts, weights)
    z, other = jax.vjp(lambda parts, w: nnx.merge(graphdef, w)(of(*parts)), parts, weights)
    d_y = jnp.asarray(RNG.standard_normal(y.shape), dtype)
    close = dict(rtol=1e-5, atol=1e-6) if dtype == jnp.float32 else dict(rtol=2e-2, atol=6e-2)
    for a, b in zip(jax.tree.leaves((y, back(d_y))), jax.tree.leaves((z, other(d_y))), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), **close)
    made, wide = np.asarray(of(*parts), np.float32).reshape(-1, 8), jax.tree.leaves(back)
    kept = any(getattr(x, "size", 0) == made.size and np.array_equal(np.asarray(x, np.float32).reshape(-1, 8), made) for x in wide)
    assert kept == (case not in ("plain", "no_bias", "gated"))


def test_float8_is_asked_of_each():
    """Fails if `beside` does not ask whether float8 is wanted: the products would be counted as none and stay bfloat16."""
    graphdef, weights = projections(True)

    class Model:
        def apply(self, params, batch, *, key=None, cache=None):
            return linear.beside(batch, nnx.merge(graphdef, params))

    asked = linear.Float8(Model())
    jax.eval_shape(lambda x, w: asked.apply(w, x), jnp.ones((2, 3, 8), jnp.bfloat16), weights)
    assert asked.seen == {(6, 8, 24): 1, (6, 8, 12): 2}


def test_parameter_needs_a_name_a_dimension():
    with pytest.raises(ValueError, match="1 axis names"):
        linear.param(nnx.Rngs(0), (2, 3), "embed")


def test_sinusoidal():
    """Sines of decreasing frequency, then cosines."""
    got = sinusoidal(jnp.array([[0, 3]]), 4)[0]
    np.testing.assert_allclose(got, [[0, 0, 1, 1], [np.sin(3), np.sin(0.03), np.cos(3), np.cos(0.03)]], atol=1e-6)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Rows times a weight: value and both gradients against float64, in every form that the weight's gradient takes."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import dense


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("size", [(24, 5, 11), (24, 11, 5), (24, 7, 7), (13, 5, 11)], ids=str)
def test_value_and_gradients(size, dtype, seed):
    """float32 to 1e-5, bfloat16 to one rounding of a float64 product of the same operands.

    Fails if rows are left out: `cut(a)[1:]` and `cut(b)[1:]` in the product of the transposed operand.
    """
    R, K, M = size
    rng = np.random.default_rng(seed)
    x, w, d_y = (jnp.asarray(rng.standard_normal(s), dtype) for s in ((R, K), (K, M), (R, M)))
    y, back = jax.vjp(jax.jit(dense.matmul), x, w)
    d_x, d_w = back(d_y)
    wide = [np.asarray(a, np.float64) for a in (x, w, d_y)]
    tolerance = dict(rtol=2**-8, atol=2**-8) if dtype == jnp.bfloat16 else dict(rtol=1e-5, atol=1e-5)
    for got, want in ((y, wide[0] @ wide[1]), (d_x, wide[2] @ wide[1].T), (d_w, wide[0].T @ wide[2])):
        assert got.dtype == dtype
        np.testing.assert_allclose(np.asarray(got, np.float64), want, **tolerance)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_width_whose_columns_are_alike(seed, monkeypatch):
    """Float32 with 1024 columns (8 here), of which oneDNN is slow to make a weight's gradient: made transposed, and the same.

    Fails without the first branch of dense.weight (not transposed), and without its `.T` (another shape).
    """
    monkeypatch.setattr(dense, "_ALIKE", 8)
    rng = np.random.default_rng(seed)
    for K, M, product in ((5, 16, (16, 5)), (16, 5, (16, 5)), (8, 16, (8, 16))):
        x, d_y = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((24, K), (24, M)))
        made, = (e.outvars[0].aval.shape for e in jax.make_jaxpr(dense.weight)(x, d_y).eqns if e.primitive.name == "dot_general")
        assert made == product
        np.testing.assert_allclose(dense.weight(x, d_y), np.float64(x).T @ np.float64(d_y), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_product_of_what_is_made_again(dtype):
    """Value and gradients of two operands and the weight are those of autodiff, and of(*x) is not among what is saved.

    Fails if the rule saves it: `(made, w)` in the place of `(x, w)`.
    """
    rng = np.random.default_rng(0)
    a, b, w, d_y = (jnp.asarray(rng.standard_normal(s), dtype) for s in ((24, 5), (24, 5), (5, 11), (24, 11)))
    of = lambda a, b: jnp.tanh(a) * b
    y, back = jax.vjp(lambda a, b, w: dense.matmul_of(of, (a, b), w), a, b, w)
    z, other = jax.vjp(lambda a, b, w: of(a, b) @ w, a, b, w)
    close = dict(rtol=1e-5, atol=1e-6) if dtype == jnp.float32 else dict(rtol=2e-2, atol=2e-2)
    for got, want in zip((y, *back(d_y)), (z, *other(d_y)), strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(np.asarray(got, np.float32), np.asarray(want, np.float32), **close)
    saved = [np.asarray(x, np.float32) for x in jax.tree.leaves(back) if getattr(x, "shape", None) == a.shape]
    assert len(saved) == 2 and all(any((x == np.asarray(y, np.float32)).all() for y in (a, b)) for x in saved)

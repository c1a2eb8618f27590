# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Grouped products against a loop over groups in float64: values and gradients, odd sizes, groups without rows."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import ragged

# (rows, inputs, outputs, rows of each group): fewer rows than given, none, one group, more groups than rows, many blocks.
CASES = [
    (37, 7, 11, [3, 0, 20, 1, 8]),
    (37, 5, 3, [0, 0, 37, 0, 0]),
    (2, 4, 3, [0, 1, 0, 1]),
    (1, 3, 2, [1]),
    (9, 4, 4, [0, 0, 0]),
    (530, 6, 5, [301, 2, 0, 200]),
]


def arrays(rows, inputs, outputs, sizes):
    draw = np.random.default_rng(rows)
    x, w, d_y = (draw.standard_normal(s).astype(np.float32)
                 for s in ((rows, inputs), (len(sizes), inputs, outputs), (rows, outputs)))
    return x, w, d_y, np.asarray(sizes, np.int32)


def loop(x, w, d_y, sizes):
    """Product and gradients, group by group."""
    x, w, d_y = (a.astype(np.float64) for a in (x, w, d_y))
    y, d_x, d_w = np.zeros(d_y.shape), np.zeros(x.shape), np.zeros(w.shape)
    ends = np.cumsum(sizes)
    for group, (start, end) in enumerate(zip(ends - sizes, ends, strict=True)):
        y[start:end] = x[start:end] @ w[group]
        d_x[start:end] = d_y[start:end] @ w[group].T
        d_w[group] = x[start:end].T @ d_y[start:end]
    return y, d_x, d_w


@pytest.mark.parametrize("backend", ragged.BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}rows{len(c[3])}groups")
def test_is_a_loop_over_groups(case, backend):
    """1e-5 of the largest number. Fails if a block's rows past its group are kept: `where(True, product` in _product,
    or `where(True, rows` in _outer."""
    x, w, d_y, sizes = arrays(*case)

    @jax.jit
    def both(x, w, sizes, d_y):
        y, back = jax.vjp(lambda x, w: ragged.ragged_dot(x, w, sizes, backend), x, w)
        return y, *back(d_y)

    for found, expected in zip(both(x, w, sizes, d_y), loop(x, w, d_y, sizes), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(np.abs(expected).max(), 1e-3))


def test_rows_of_nobody_stay_out():
    """What lies past the last group may be anything. Fails if the product there is computed (0 * nan) and added."""
    x, w, d_y, sizes = arrays(20, 4, 3, [5, 6])
    x[11:] = d_y[11:] = np.nan
    for backend in ragged.BACKENDS:
        y, back = jax.vjp(lambda x, w: ragged.ragged_dot(x, w, jnp.asarray(sizes), backend), jnp.asarray(x), jnp.asarray(w))
        d_x, d_w = back(jnp.asarray(d_y))
        for found, expected in zip((y[:11], d_x[:11], d_w), loop(x[:11], w, d_y[:11], sizes), strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_bfloat16_sums_in_float32():
    """Within a rounding of bfloat16 of the float32 product, in bfloat16."""
    x, w, d_y, sizes = arrays(64, 32, 8, [40, 20])
    narrow = [jnp.asarray(a, jnp.bfloat16) for a in (x, w, d_y)]
    y, back = jax.vjp(lambda x, w: ragged.ragged_dot(x, w, jnp.asarray(sizes), "blocks"), *narrow[:2])
    for found, expected in zip((y, *back(narrow[2])), loop(*(np.asarray(a, np.float32) for a in narrow), sizes), strict=True):
        assert found.dtype == jnp.bfloat16
        np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=0, atol=2**-7 * np.abs(expected).max())


def test_permute():
    """A permutation, and its inverse for the gradient. Fails if _permute's gradient looks up by `order` again."""
    draw = np.random.default_rng(0)
    x, d_y, order = draw.standard_normal((9, 2)), draw.standard_normal((9, 2)), draw.permutation(9)
    y, back = jax.vjp(lambda x: ragged.permute(x, jnp.asarray(order), jnp.argsort(jnp.asarray(order))), jnp.asarray(x))
    np.testing.assert_array_equal(y, x[order].astype(np.float32))
    expected = np.zeros_like(x)
    expected[order] = d_y
    np.testing.assert_allclose(back(jnp.asarray(d_y, jnp.float32))[0], expected, rtol=1e-6)

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

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""One row times a matrix is that product, with its gradients, whatever the numbers of rows divide into."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.layers import linear
from jaxlm.ops import vector

# Inputs that are cut into blocks more than once, whose rest is prime, whose most blocks are not 16.
SHAPES = ((768, 96), (688, 101), (260, 257), (16, 4096))
TOLERANCE = {"float32": 1e-6, "bfloat16": 2**-8}  # of the largest; bfloat16: half a unit in the last place


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_product(shape, dtype):
    """Fails if a block is left out or its weights meet another's inputs: wide[:size, None] in the place of wide[i : i + size, None]."""
    assert vector.suits(*shape, jnp.dtype(dtype))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x, w, d_y = (jnp.asarray(rng.standard_normal(n), dtype) for n in (shape[:1], shape, shape[1:]))
        y, back = jax.vjp(jax.jit(vector.times), x, w)
        assert y.dtype == x.dtype
        wide = [np.asarray(a, np.float64) for a in (x, w, d_y)]
        expected = wide[0] @ wide[1], wide[1] @ wide[2], np.outer(wide[0], wide[2])
        for found, right in zip((y, *back(d_y)), expected, strict=True):
            assert found.shape == right.shape
            np.testing.assert_allclose(np.asarray(found, np.float64), right, rtol=0, atol=TOLERANCE[dtype] * np.abs(right).max())


def test_where_it_is_not_worth_it():
    """A prime number of inputs, few numbers, another type."""
    assert not vector.suits(769, 768, jnp.dtype("float32")) and not vector.suits(64, 64, jnp.dtype("float32"))
    assert not vector.suits(768, 768, jnp.dtype("float16"))


@pytest.mark.parametrize("equation", ["btd,dnh->btnh", "btnh,nhd->btd"])
def test_a_layer_takes_it_for_one_row_alone(equation):
    """Fails if a product of one row is a dot, or one of two is not: `one = False` in linear.product, or no x.shape[0] == 1."""
    w = jnp.ones((256, 8, 32) if "dnh" in equation else (8, 32, 256)) * 0.5
    inner = w.shape[: 1 if "dnh" in equation else 2]
    for rows, length in ((1, 1), (2, 1), (1, 2)):
        x = jnp.ones((rows, length, *inner))
        text = jax.jit(lambda x, w: linear.einsum(equation, x, w)).lower(x, w).as_text()
        assert ("dot_general" in text) == (rows * length > 1)
        np.testing.assert_allclose(linear.einsum(equation, x, w), jnp.einsum(equation, x, w), rtol=1e-6)

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
# Roundings of a float32 sum grow with the root of its terms: so many keep that tolerance (4,096 on a processor with AVX2: 1.4e-6).
TERMS = 1024
UNIT = {"float32": 2**-23, "bfloat16": 2**-8}  # in the last place, of a number between 1 and 2


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_product(shape, dtype):
    """Fails if a block is left out or its weights meet another's inputs: wide[:size, None] in the place of wide[i : i + size, None]; and if
    sums are of bfloat16: w[i : i + size] * x[i : i + size, None] in `times`."""
    assert vector.suits(*shape, jnp.dtype(dtype))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x, w, d_y = (jnp.asarray(rng.standard_normal(n), dtype) for n in (shape[:1], shape, shape[1:]))
        y, back = jax.vjp(jax.jit(vector.times), x, w)
        assert y.dtype == x.dtype
        wide = [np.asarray(a, np.float64) for a in (x, w, d_y)]
        expected, terms = ((x @ w, w @ d_y, np.outer(x, d_y)) for x, w, d_y in (wide, map(np.abs, wide)))
        for found, right, sizes, count in zip((y, *back(d_y)), expected, terms, (*shape, 1), strict=True):
            assert found.shape == right.shape
            rate = TOLERANCE[dtype] * (max(1.0, (count / TERMS) ** 0.5) if dtype == "float32" else 1.0)
            np.testing.assert_allclose(np.asarray(found, np.float64), right, rtol=0, atol=rate * np.abs(right).max())
            # And each number by its own size: one unit of its type, and two of float32 of its terms' absolute values.
            assert (np.abs(np.asarray(found, np.float64) - right) <= UNIT[dtype] * np.abs(right) + 2 * UNIT["float32"] * sizes).all()


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

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
UNIT = {"float32": 2**-23, "bfloat16": 2**-8}  # in the last place, of a number between 1 and 2; see `bound`


def bound(dtype: str, right: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """What may be missing of each number: one unit of its type, and of its float32 sum two units of all terms' absolute values. How far
    a sum is off depends on the processor, which adds 4,096 terms up in 8 or 16 lanes: up to 0.7 units of them with AVX2."""
    return UNIT[dtype] * np.abs(right) + 2 * UNIT["float32"] * terms


@pytest.mark.parametrize("dtype", UNIT)
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
        for found, right, sizes in zip((y, *back(d_y)), expected, terms, strict=True):
            assert found.shape == right.shape
            assert (np.abs(np.asarray(found, np.float64) - right) <= bound(dtype, right, sizes)).all()


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

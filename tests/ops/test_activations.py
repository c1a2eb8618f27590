# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Activations by name: right at a few points, computed in float32, and an unknown name says what exists."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.ops.activations import ACTIVATIONS, find


def test_values():
    x = 1.3
    want = {
        "gelu": x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
        "gelu_tanh": 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "gelu_quick": x / (1 + math.exp(-1.702 * x)),
        "relu": x,
        "relu2": x * x,
        "silu": x / (1 + math.exp(-x)),
        "tanh": math.tanh(x),
    }
    assert want.keys() == ACTIVATIONS.keys()
    for name, value in want.items():
        np.testing.assert_allclose(find(name)(jnp.float32(x)), value, rtol=1e-5)


def test_rounded_once():
    """bfloat16 in and out, at most one rounding from the float32 value. Fails if computed in bfloat16."""
    x = jnp.linspace(-3, 3, 101).astype(jnp.bfloat16)
    for name in ACTIVATIONS:
        np.testing.assert_array_equal(find(name)(x), find(name)(x.astype(jnp.float32)).astype(jnp.bfloat16))


def test_unknown():
    with pytest.raises(UserError, match="did you mean 'gelu'"):
        find("gelo")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_computed_again(dtype):
    """The same bits and gradients, with nothing kept but the input. Fails if the gradient is that of another point, or
    `_again`'s forward keeps more than x."""
    x, d_y = jnp.linspace(-3, 3, 101).astype(dtype), jnp.linspace(1, 2, 101).astype(dtype)
    for name in ACTIVATIONS:
        (y, back), (want, plain) = (jax.vjp(find(name, again), x) for again in (True, False))
        np.testing.assert_array_equal(y, want)
        np.testing.assert_allclose(back(d_y)[0].astype(jnp.float32), plain(d_y)[0].astype(jnp.float32), rtol=1e-6, atol=1e-6)
        assert [leaf.dtype for leaf in jax.tree.leaves(back)] == [dtype]

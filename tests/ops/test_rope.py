# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Rotary positions: what makes them relative, and the scalings' fixed points (reference tests hold the formulas)."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.ops import rope

X, Y = (jnp.asarray(np.random.default_rng(i).standard_normal((1, 1, 2, 8)), jnp.float32) for i in (0, 1))


def turned(x, position, **options):
    return rope.rotate(x, *rope.angles(jnp.array([[position]]), *rope.frequencies(8, **options)))


def test_products_depend_on_distance_only():
    """Fails if sine and cosine are swapped, or halves are paired as neighbours on one side only."""
    one, two = ((turned(X, p) * turned(Y, p + 3)).sum(-1) for p in (0, 50))
    np.testing.assert_allclose(one, two, atol=1e-4)
    np.testing.assert_allclose(turned(X, 0), X, atol=1e-7)


def test_scalings():
    """linear divides positions; ntk keeps the fastest pair and slows the slowest by the factor; 1 changes nothing."""
    np.testing.assert_allclose(turned(X, 12, scaling="linear", factor=4.0), turned(X, 3), atol=1e-6)
    plain, ntk = rope.frequencies(8)[0], rope.frequencies(8, scaling="ntk", factor=4.0)[0]
    np.testing.assert_allclose([ntk[0], ntk[-1]], [plain[0], plain[-1] / 4], rtol=1e-5)
    for name in rope.SCALINGS:
        frequency, scale = rope.frequencies(8, scaling=name, factor=1.0, original_len=16)
        np.testing.assert_allclose(frequency, plain, rtol=1e-6)
        assert scale == 1.0


def test_a_part_of_each_head():
    """Fewer frequencies turn fewer dimensions."""
    got = rope.rotate(X, *rope.angles(jnp.array([[5]]), *rope.frequencies(4)))
    np.testing.assert_array_equal(got[..., 4:], X[..., 4:])
    np.testing.assert_allclose(
        got[..., :4], rope.rotate(X[..., :4], *rope.angles(jnp.array([[5]]), *rope.frequencies(4)))
    )


def test_errors():
    with pytest.raises(UserError, match="even"):
        rope.frequencies(7)
    with pytest.raises(UserError, match="did you mean 'yarn'"):
        rope.frequencies(8, scaling="yarm")
    with pytest.raises(UserError, match="first trained"):
        rope.frequencies(8, scaling="llama3", factor=8.0)

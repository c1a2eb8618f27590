# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The norm of all gradients and clipping by it, against float64."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm.optim import clip
from jaxlm.parallel import mesh, place, rules

SHAPES = {"stack": (3, 16, 24), "odd": (5, 7), "one": (), "bfloat16": (8, 8)}


def draw(seed):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), jnp.bfloat16 if name == "bfloat16" else jnp.float32) for name, shape in SHAPES.items()}


def on_one_device():
    return place.use(place.Layout(mesh.make(mesh.Config(data=1), jax.devices()[:1]), rules.find("dp")))


def length(tree):
    return np.sqrt(sum(np.sum(np.float64(np.asarray(x, np.float32)) ** 2) for x in jax.tree.leaves(tree)))


@pytest.mark.parametrize("seed", [0, 1])
def test_norm(seed):
    """Within 1e-6 of float64, frozen leaves (None) apart. Fails if a part is left out: `x.reshape(rows.PARTS, -1)[1:]`."""
    tree = {**draw(seed), "frozen": None}
    with on_one_device():
        np.testing.assert_allclose(jax.jit(clip.norm)(tree), length(tree), rtol=1e-6)


@pytest.mark.parametrize("most", [0.5, 1e3])
def test_clipping(most):
    """Scaled to the limit, types kept; nothing changes below it, bit for bit. Fails if `jnp.maximum` becomes `minimum`."""
    tree = draw(0)
    with on_one_device():
        got, _ = jax.jit(clip.by_norm(most).update)(tree, optax.EmptyState())
    factor = min(1.0, most / length(tree))
    for name, x in tree.items():
        assert got[name].dtype == x.dtype
        np.testing.assert_allclose(np.float32(got[name]), np.float32(x) * factor, rtol=2**-8 if name == "bfloat16" else 1e-6)
        if factor == 1:
            np.testing.assert_array_equal(got[name], x)

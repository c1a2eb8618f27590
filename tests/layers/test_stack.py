# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The stack: keys and inputs of each layer, scanned or unrolled or shared, and blocks in their three orders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.core import apart
from jaxlm.layers import stack
from jaxlm.layers.attention import Attention
from jaxlm.layers.block import Block
from jaxlm.layers.linear import Linear
from jaxlm.layers.mlp import Mlp
from jaxlm.layers.norm import LayerNorm
from jaxlm.ops.masks import Mask

LAYERS, D = 3, 8
X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, D)), jnp.float32)


def linear(rngs):
    return Linear(rngs, (D,), (D,), ("embed", "mlp"))


def fold(blocks, scan, remat="none", shared=False):
    call = lambda block, x, layer, key, inputs: (
        block(x) * inputs["scale"] + layer,
        (jax.random.key_data(key), inputs["scale"]),
    )
    return stack.run(
        blocks,
        X,
        call,
        layers=LAYERS,
        scan=scan,
        remat=remat,
        shared=shared,
        key=jax.random.key(7),
        inputs={"scale": [1.0, 2.0, 3.0]},
    )


@pytest.mark.parametrize("shared", [False, True])
def test_scan_is_unrolled(shared):
    """Fails if a layer's key is not fold_in(key, layer), or the shared layer's weights are sliced."""
    blocks = stack.make(nnx.Rngs(0), LAYERS, linear, shared)
    assert blocks.kernel.get_value().shape == ((D, D) if shared else (LAYERS, D, D))
    outs = [fold(blocks, scan, remat, shared) for scan in (True, False) for remat in ("none", "full")]
    for out in outs[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), out, outs[0])
    keys, scales = outs[0][1]
    np.testing.assert_array_equal(
        keys, [jax.random.key_data(jax.random.fold_in(jax.random.key(7), i)) for i in range(LAYERS)]
    )
    np.testing.assert_array_equal(scales, [1, 2, 3])
    x = X
    for i in range(LAYERS):
        w = blocks.kernel.get_value() if shared else blocks.kernel.get_value()[i]
        x = x @ w * (i + 1) + i
    np.testing.assert_allclose(outs[0][0], x, rtol=1e-5, atol=1e-5)


def test_unknown_policy():
    with pytest.raises(ValueError, match="remat 'half' is none of none, dots"):
        fold(stack.make(nnx.Rngs(0), LAYERS, linear), True, "half")


@pytest.mark.parametrize("order", ["pre", "post", "sandwich"])
def test_orders(order):
    """A block is the formula of its order. Fails if a residual bypasses another norm."""
    rngs = nnx.Rngs(0)
    block = Block(Attention(rngs, D, 2, 2, 4), Mlp(rngs, D, 12), lambda: LayerNorm(rngs, D), order=order)
    for i, norm in enumerate((block.norm1, block.norm2, block.post_norm1, block.post_norm2)):
        if norm is not None:
            norm.scale = nnx.Param(norm.scale.get_value() * (i + 2))
    attend, mlp = (lambda x: block.attention(x, Mask())[0]), block.mlp
    if order == "pre":
        y = X + attend(block.norm1(X))
        y = y + mlp(block.norm2(y))
    elif order == "post":
        y = block.norm1(X + attend(X))
        y = block.norm2(y + mlp(y))
    else:
        y = X + block.post_norm1(attend(block.norm1(X)))
        y = y + block.post_norm2(mlp(block.norm2(y)))
    np.testing.assert_allclose(block(X, Mask())[0], y, rtol=1e-6)


def test_cross_attention():
    """Over a source of another length: one query's output is a mean of the source's values when keys are equal."""
    layer = Attention(nnx.Rngs(0), D, 2, 2, 4)
    layer.k.kernel = nnx.Param(jnp.zeros((D, 2, 4)))
    source = jnp.asarray(np.random.default_rng(1).standard_normal((2, 7, D)), jnp.float32)
    got, store = layer(X, Mask(False), source=layer.keys(source))
    want = layer.o(jnp.broadcast_to(layer.v(source).mean(1, keepdims=True), (2, 4, 2, 4)))
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert store is None


@pytest.mark.parametrize("scan", [True, False])
def test_layers_apart_are_the_stack(scan):
    """Fails if layers are handed out in another order, or a stack that is apart is scanned."""
    blocks = stack.make(nnx.Rngs(0), LAYERS, linear)
    expected = fold(blocks, False)
    graphdef, state = nnx.split(blocks)
    params = nnx.to_pure_dict(state)
    axes = {"kernel": ("layers", "embed", "mlp"), "bias": ("layers", "mlp")}
    found = fold(nnx.merge(graphdef, jax.jit(lambda p: apart.take_apart(p, axes))(params)), scan)
    jax.tree.map(np.testing.assert_array_equal, found, expected)

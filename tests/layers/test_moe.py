# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The block of experts against a plain loop over tokens and experts, and its load against sums in numpy."""
import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.core import tree
from jaxlm.core.errors import UserError
from jaxlm.layers import linear
from jaxlm.layers.moe import Moe
from jaxlm.ops import activations, route
from jaxlm.parallel import mesh, place, rules

# (rows, positions, embed, hidden, experts, of a token): odd, one expert, all of them, more experts than tokens.
SHAPES = [(2, 7, 6, 10, 5, 2), (1, 5, 4, 3, 1, 1), (3, 3, 5, 7, 3, 3), (1, 2, 6, 5, 9, 2)]


def block(embed, hidden, experts, chosen):
    """(graph, parameters with noise)."""
    graph, params = nnx.split(nnx.eval_shape(lambda: Moe(nnx.Rngs(0), embed, hidden, experts, chosen)))
    draw = np.random.default_rng(experts)
    return graph, tree.map_with_path(lambda _, x: jnp.asarray(draw.standard_normal(x.shape), x.dtype), nnx.to_pure_dict(params))


def apply(graph, params, x, segments=None):
    return nnx.merge(graph, params)(x, segments)


def plain(params, x, segments, chosen):
    """Every expert computes every token; a token's own are added up."""
    kernel = lambda name: params[name]["kernel"]
    probs = jax.nn.softmax(jnp.einsum("bld,de->ble", x, kernel("router")), -1)
    ranks = jnp.argsort(jnp.argsort(-probs, -1), -1)
    weights = jnp.where(ranks < chosen, probs, 0)
    weights = weights / weights.sum(-1, keepdims=True)
    weights = weights * (segments > 0)[..., None]
    out = jnp.zeros_like(x)
    for e in range(probs.shape[-1]):
        hidden = activations.find("silu")(x @ kernel("gate")[e]) * (x @ kernel("up")[e])
        out = out + weights[..., e, None] * (hidden @ kernel("down")[e])
    return out


@functools.cache
def case(rows, length, embed, hidden, experts, chosen):
    graph, params = block(embed, hidden, experts, chosen)
    draw = np.random.default_rng(rows)
    x, d_y = (draw.standard_normal((rows, length, embed)).astype(np.float32) for _ in range(2))
    segments = np.ones((rows, length), np.int32)
    segments[-1, length - 1 :] = 0
    return graph, params, x, d_y, segments


def close(found, expected):
    for (path, a), b in zip(tree.flatten(found).items(), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * max(np.abs(b).max(), 1e-2), err_msg=path)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_is_a_loop_over_experts(shape):
    """Output and the gradient of input, router and experts, to 2e-5; padding gives 0. Fails if choose() does not renormalise,
    or a padded token keeps its experts, or `combine` looks up by `order`."""
    graph, params, x, d_y, segments = case(*shape)
    ours = lambda params, x: apply(graph, params, x, segments)[0]
    theirs = lambda params, x: plain(params, x, segments, shape[-1])
    run = lambda f: jax.jit(lambda params, x: (lambda y, back: {"y": y, "d": back(d_y)})(*jax.vjp(f, params, x)))(params, x)
    found, expected = run(ours), run(theirs)
    close(found, expected)
    assert (found["y"][segments == 0] == 0).all()
    if shape[4] == 9:
        unused = np.abs(found["d"][0]["up"]["kernel"]).max((1, 2)) == 0
        assert unused.sum() >= 5, "some experts must get no token here"


def test_weights_of_one_expert_of_many():
    """With k = 1 the weight is 1: Mixtral's order. Fails if the weights are the probabilities before renormalising."""
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, 3)), jnp.float32)
    weights, experts = route.choose(logits, 1)
    np.testing.assert_array_equal(weights, np.ones((1, 4, 1), np.float32))
    np.testing.assert_array_equal(experts[..., 0], np.argmax(logits, -1))


def loads(layers=3, rows=2, length=6, experts=5, chosen=2, padding=3):
    draw = np.random.default_rng(1)
    logits = draw.standard_normal((layers, rows, length, experts)).astype(np.float32) * 2
    real = np.ones((rows, length), bool)
    real[-1, length - padding :] = False
    each = [route.load(jnp.asarray(x), route.choose(jnp.asarray(x), chosen)[1], jnp.asarray(real)) for x in logits]
    return logits, real, jax.tree.map(lambda *x: jnp.stack(x), *each)


def test_balance_is_transformers():
    """The published implementation's figure, padding left out, to 1e-6. Fails if load() counts padding, or balance()
    multiplies before it averages over layers."""
    if not (importlib.util.find_spec("torch") and importlib.util.find_spec("transformers")):
        pytest.skip("torch and transformers are not installed")
    import torch
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    logits, real, stacked = loads()
    gates = tuple(torch.tensor(x.reshape(-1, x.shape[-1])) for x in logits)
    expected = load_balancing_loss_func(gates, logits.shape[-1], 2, torch.tensor(real.astype(np.int64)))
    np.testing.assert_allclose(route.balance(stacked), float(expected), rtol=1e-6)


def test_balance_in_numpy():
    """By the formula, in float64; its best is k; and the z loss. Fails if a sum of load() counts padding."""
    logits, real, stacked = loads()
    flat = logits[:, real].astype(np.float64).reshape(-1, logits.shape[-1])
    probs = np.exp(flat) / np.exp(flat).sum(-1, keepdims=True)
    hit = np.argsort(np.argsort(-flat, -1), -1) < 2
    np.testing.assert_allclose(route.balance(stacked), 5 * (hit.mean(0) * probs.mean(0)).sum(), rtol=1e-6)
    np.testing.assert_allclose(route.z_loss(stacked), (np.log(np.exp(flat).sum(-1)) ** 2).mean(), rtol=1e-6)
    even = route.Load(jnp.full((1, 5), 2 / 5), jnp.full((1, 5), 1 / 5), jnp.zeros(1), jnp.ones(1))
    np.testing.assert_allclose(route.balance(even), 2, rtol=1e-6)


@pytest.mark.parametrize("params,acts", [
    # Rows are not split where experts are: nothing to gather, results are added.
    (("expert=expert", "mlp=tensor"), ("batch=data", "act_expert=expert", "act_mlp=tensor")),
    # Experts stored and computed over different axes; the others over two axes, one of which the experts are computed by.
    (("expert=data", "embed=expert+tensor"), ("batch=data+expert", "act_expert=expert")),
    # Nothing of experts is split while computing, and two axes gather a dimension.
    (("expert=expert", "embed=data", "mlp=tensor"), ("batch=data+expert",)),
    # Experts over two axes, one with tokens and one without.
    ((), ("batch=data+expert", "act_expert=expert+tensor")),
])
def test_tables_of_ones_own(params, acts):
    """Other splits than the named rules have, values and gradients, against no layout. Fails if `sums` leaves out the
    experts' axes, or _storage does not gather what a dimension has beyond what it is computed with."""
    graph, weights = block(8, 12, 8, 2)
    draw = np.random.default_rng(5)
    x, d_y = (draw.standard_normal((8, 5, 8)).astype(np.float32) for _ in range(2))
    segments = (draw.random((8, 5)) > 0.2).astype(np.int32)
    f = lambda p, x: (lambda y, back: {"y": y, "d": back(d_y)})(*jax.vjp(lambda p, x: apply(graph, p, x, segments)[0], p, x))
    expected = jax.jit(f)(weights, x)
    layout = place.Layout(mesh.make(mesh.Config(data=2, expert=2, tensor=2)), rules.find("custom", rules.Config(params, acts)))
    with place.use(layout):
        close(jax.device_get(jax.jit(lambda p, x: f(p, x))(weights, x)), expected)


def test_what_cannot_be_split_is_said():
    """Fails if experts are cut unevenly, or a quantized leaf is taken for an array."""
    graph, weights = block(8, 12, 3, 2)
    x = jnp.ones((8, 2, 8))
    layout = place.Layout(mesh.make(mesh.Config(data=4, expert=2)), rules.find("custom", rules.Config((), ("batch=data+expert", "act_expert=expert"))))
    with place.use(layout), pytest.raises(UserError, match="3 experts do not divide over 2 devices"):
        apply(graph, weights, x)


def test_other_kinds_of_leaf_are_refused(monkeypatch):
    monkeypatch.setitem(linear.KINDS, type(jnp.ones(1)), lambda *a: jnp.zeros((1, 1, 3)))
    graph, weights = block(8, 12, 3, 2)
    with pytest.raises(UserError, match="plain arrays"):
        apply(graph, weights, jnp.ones((1, 1, 8)))

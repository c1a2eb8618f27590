# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Every optimizer against numpy, and everything around it: decay, rates, freezing, averages, types, placement."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm.core import tree
from jaxlm.core.errors import UserError
from jaxlm.optim import average, optimizers
from jaxlm.parallel import mesh, place, rules

LR = 0.1
SHAPES = {
    "embed/tokens": ((16, 8), ("vocab", "embed")),
    "blocks/q/kernel": ((2, 8, 2, 4), ("layers", "embed", "heads", "head_dim")),
    "blocks/o/kernel": ((2, 2, 4, 8), ("layers", "heads", "head_dim", "embed")),
    "blocks/up/kernel": ((2, 8, 16), ("layers", "embed", "mlp")),
    "blocks/up/bias": ((2, 16), ("layers", "mlp")),
    "norm/scale": ((8,), ("norm",)),
}
AXES = tree.unflatten({path: axes for path, (_, axes) in SHAPES.items()})
PARAMS = tree.unflatten({path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, (shape, _) in SHAPES.items()})
MATRICES = ("blocks/q/kernel", "blocks/o/kernel", "blocks/up/kernel")


def draw(seed):
    rng = np.random.default_rng(seed)
    return {path: rng.normal(size=shape).astype(np.float32) for path, (shape, _) in SHAPES.items()}


def config(name, **changes):
    return optimizers.Config(**{"name": name, "lr": LR, "weight_decay": 0.0, "clip_norm": 0.0, **changes})


def run(cfg, steps, dtype=jnp.float32, schedule=lambda step: LR, see=lambda params, state: None):
    """(parameters by path, optimizer state) after steps with gradients draw(1), draw(2), ..., each shown to `see`."""
    params = tree.unflatten({path: jnp.asarray(x, dtype) for path, x in draw(0).items()})
    tx = optimizers.build(cfg, schedule, params, AXES)
    mask = optimizers.trainable(cfg, params)
    train, frozen = tree.partition(params, mask)
    state = tx.init(train)
    update = jax.jit(tx.update)
    for step in range(steps):
        grads, _ = tree.partition(tree.unflatten({p: jnp.asarray(x, dtype) for p, x in draw(step + 1).items()}), mask)
        updates, state = update(grads, state, train)
        train = optax.apply_updates(train, updates)
        see(tree.flatten(train), state)
    return tree.flatten(tree.combine(train, frozen)), state


def same(got, want, tolerance=2e-5):
    assert got.keys() == want.keys()
    for path in want:
        np.testing.assert_allclose(got[path], want[path], rtol=tolerance, atol=tolerance, err_msg=path)


# ---- the optimizers in numpy, one parameter at a time


def adam(x, grads, b1=0.9, b2=0.95, eps=1e-8):
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t, g in enumerate(grads, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        x = x - LR * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    return x


def lion(x, grads, b1=0.9, b2=0.95):
    m = np.zeros_like(x)
    for g in grads:
        x = x - LR * np.sign(b1 * m + (1 - b1) * g)
        m = b2 * m + (1 - b2) * g
    return x


def sgd(x, grads, momentum=0.95):
    m = np.zeros_like(x)
    for g in grads:
        m = momentum * m + g
        x = x - LR * (g + momentum * m)
    return x


def newton_schulz(g):
    """Five quintic steps on one matrix (Jordan et al. 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / (np.linalg.norm(g) + 1e-8)
    x = x.T if g.shape[0] > g.shape[1] else x
    for _ in range(5):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def muon(x, grads, momentum=0.95):
    """One matrix [in, out]; Nesterov momentum without bias left, update scaled to Adam's size."""
    m = np.zeros_like(x)
    for t, g in enumerate(grads, 1):
        m = momentum * m + (1 - momentum) * g
        ahead = momentum * m / (1 - momentum ** (t + 1)) + (1 - momentum) * g / (1 - momentum**t)
        x = x - LR * 0.2 * np.sqrt(max(x.shape)) * newton_schulz(ahead)
    return x


def muon_stack(path, x, grads):
    """Each layer alone, as a matrix of inputs by outputs."""
    matrix = {"blocks/q/kernel": (8, 8), "blocks/o/kernel": (8, 8), "blocks/up/kernel": (8, 16)}[path]
    layers = [muon(x[i].reshape(matrix), [g[i].reshape(matrix) for g in grads]) for i in range(len(x))]
    return np.stack(layers).reshape(x.shape)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("name", ["adamw", "lion", "sgd", "muon"])
def test_against_numpy(name, steps):
    """Fails if b1 and b2 change places, if muon merges the layers of a stack or cuts o at the wrong end."""
    start, grads = draw(0), [draw(i + 1) for i in range(steps)]
    one = {"adamw": adam, "lion": lion, "sgd": sgd, "muon": adam}[name]
    want = {}
    for path, x in start.items():
        own = [g[path] for g in grads]
        want[path] = muon_stack(path, x, own) if name == "muon" and path in MATRICES else one(x, own)
    got, _ = run(config(name), steps)
    same(got, want, 1e-4 if name == "muon" else 2e-5)


def test_lamb_is_its_formula():
    """You et al. 2019, algorithm 2: x - lr |x| / |r + decay x| (r + decay x) of Adam's r, each layer of a stack by itself.

    Fails if a stack has one ratio (`rest` of all dimensions), or the ratio comes before decay.
    """
    start, grads, want = draw(0), [draw(i + 1) for i in range(3)], {}
    for path, x in start.items():
        decay = 0.3 if path.endswith(("kernel", "tokens")) else 0.0
        m, v = np.zeros_like(x), np.zeros_like(x)
        for t, g in enumerate((g[path] for g in grads), 1):
            m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
            r = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8) + decay * x
            layers = range(len(x)) if path.startswith("blocks/") else [slice(None)]
            x = x.copy()
            for i in layers:
                x[i] -= LR * np.linalg.norm(x[i]) / np.linalg.norm(r[i]) * r[i]
        want[path] = x
    same(run(config("lamb", weight_decay=0.3), 3)[0], want)


def test_lamb_is_optax_lamb():
    """Parameters that are no stack, one of them of length 0. Fails if a ratio of 0 is kept: it could never move."""
    params = {"a": {"kernel": jnp.asarray(draw(0)["blocks/up/kernel"][0])}, "b": {"bias": jnp.zeros(5)}}
    axes = {"a": {"kernel": ("embed", "mlp")}, "b": {"bias": ("mlp",)}}
    mine = optimizers.build(config("lamb", weight_decay=0.3, b2=0.999, eps=1e-6), lambda step: LR, params, axes)
    theirs = optax.lamb(LR, weight_decay=0.3, mask={"a": {"kernel": True}, "b": {"bias": False}})
    out = []
    for tx in (mine, theirs):
        now, state = params, tx.init(params)
        for step in range(3):
            updates, state = tx.update(jax.tree.map(lambda x: jnp.cos(x + step), now), state, now)
            now = optax.apply_updates(now, updates)
        out.append(tree.flatten(now))
    same(*out, 1e-6)
    assert (out[0]["b/bias"] != 0).all()


@pytest.mark.parametrize("scale", [True, False])
def test_adafactor_is_optax_adafactor(scale):
    """Fails if a piece of the chain is missing or in another place. (Factored: min size 128.)"""
    cfg = config("adafactor", parameter_scale=scale)
    rng = np.random.default_rng(0)
    params = {"blocks": {"kernel": jnp.asarray(rng.normal(size=(2, 128, 160)), jnp.float32), "bias": jnp.ones((2, 3))}}
    axes = {"blocks": {"kernel": ("layers", "embed", "mlp"), "bias": ("layers", "mlp")}}
    mine = optimizers.build(cfg, lambda step: LR, params, axes)
    theirs = optax.adafactor(LR, multiply_by_parameter_scale=scale)
    states, trees = [mine.init(params), theirs.init(params)], [params, params]
    update = [jax.jit(mine.update), jax.jit(theirs.update)]
    for _ in range(3):
        grads = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)
        for i in range(2):
            updates, states[i] = update[i](grads, states[i], trees[i])
            trees[i] = optax.apply_updates(trees[i], updates)
    same(tree.flatten(trees[0]), tree.flatten(trees[1]), 1e-6)
    assert tree.size(states[0]) < tree.size(params) / 10


def test_decay_leaves_biases_and_norms_alone():
    """Fails if the mask is left out of add_decayed_weights."""
    plain, _ = run(config("sgd", momentum=0.0), 1)
    decayed, _ = run(config("sgd", momentum=0.0, weight_decay=0.5), 1)
    start = draw(0)
    for path in SHAPES:
        shrunk = LR * 0.5 * start[path] if path.endswith(("kernel", "tokens")) else 0.0
        np.testing.assert_allclose(decayed[path], plain[path] - shrunk, rtol=1e-5, atol=1e-6, err_msg=path)


def test_order_of_clip_decay_rates_and_schedule():
    """Fails if clipping comes after decay, if rates do not reach decay, or if the schedule starts at step 1."""
    cfg = config("sgd", momentum=0.0, clip_norm=1.0, weight_decay=0.5, rates=("kernel$=3",))
    got, state = run(cfg, 1, schedule=lambda step: LR / (step + 1))
    start, grads = draw(0), draw(1)
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    assert norm > 1
    for path in SHAPES:
        decay = 0.5 * start[path] if path.endswith(("kernel", "tokens")) else 0.0
        rate = 3 if path.endswith("kernel") else 1
        want = start[path] - LR * rate * (grads[path] / norm + decay)
        np.testing.assert_allclose(got[path], want, rtol=1e-5, atol=1e-6, err_msg=path)
    assert int(state["lr"].count) == 1


def test_layer_decay_reaches_the_update():
    got, _ = run(config("sgd", momentum=0.0, layer_decay=0.5), 1)
    start, grads = draw(0), draw(1)
    moved = (start["blocks/up/kernel"] - got["blocks/up/kernel"]) / (LR * grads["blocks/up/kernel"])
    np.testing.assert_allclose(moved[0], 0.5, rtol=1e-2)
    np.testing.assert_allclose(moved[1], 1.0, rtol=1e-2)
    same({"e": got["embed/tokens"]}, {"e": start["embed/tokens"] - LR * 0.25 * grads["embed/tokens"]})


@pytest.mark.parametrize("name", optimizers.CORES)
def test_frozen_parameters_stay_and_cost_nothing(name):
    """Fails if the optimizer's state is made of all parameters instead of the trainable ones."""
    got, state = run(config(name, frozen="^embed|bias", weight_decay=0.1, ema=0.5), 2)
    start = draw(0)
    for path in SHAPES:
        frozen = path in ("embed/tokens", "blocks/up/bias")
        assert frozen == (np.asarray(got[path]).tobytes() == start[path].tobytes()), path
    assert not [path for path in tree.paths(state) if "tokens" in path or "bias" in path]
    assert average.averaged(state)["embed"]["tokens"] is None


def test_average_follows_the_new_parameters():
    """Fails if the average takes the parameters before the update."""
    want = draw(0)

    def see(now, state):
        want.update({path: 0.75 * want[path] + 0.25 * np.asarray(now[path]) for path in want})
        same(tree.flatten(average.averaged(state)), want)

    run(config("adamw", ema=0.75), 3, see=see)
    assert average.averaged(run(config("adamw"), 0)[1]) is None


def test_moment_dtype():
    """Fails if moment_dtype is not handed on."""
    places = {"adamw": "core/mu", "lamb": "core/mu", "lion": "core/mu", "sgd": "core/trace", "muon": "muon/inner_state/0/mu"}
    for name, at in places.items():
        tx = optimizers.build(config(name, moment_dtype="bfloat16"), lambda step: LR, PARAMS, AXES)
        updates, state = jax.eval_shape(lambda p: tx.update(p, tx.init(p), p), PARAMS)
        first = {path: x for path, x in tree.flatten(state).items() if at in path}
        assert first and {x.dtype for x in first.values()} == {jnp.dtype(jnp.bfloat16)}, name
        assert all(x.dtype == jnp.float32 for path, x in tree.flatten(state).items() if "/nu/" in path)
        assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(updates))


def test_bfloat16_parameters_keep_float32_moments():
    """Fails if the core sees bfloat16 gradients."""
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), PARAMS)
    for name in optimizers.CORES:
        tx = optimizers.build(config(name, clip_norm=1.0, ema=0.9), lambda step: LR, params, AXES)
        updates, state = jax.eval_shape(lambda p: tx.update(p, tx.init(p), p), params)
        assert all(x.dtype in (jnp.float32, jnp.int32) for x in jax.tree.leaves((updates, state))), name


@pytest.mark.parametrize("name", optimizers.CORES)
def test_split_over_devices_is_the_same(name):
    """Fails if a statistic is taken per device (a norm, a root mean square, an orthogonalisation)."""
    cfg = config(name, weight_decay=0.1, clip_norm=1.0, ema=0.9, layer_decay=0.9, rates=("norm=2",))
    layout = place.Layout(mesh.make(mesh.Config(data=2, fsdp=2, tensor=2)), rules.find("fsdp_tp"))
    params = tree.unflatten({path: jnp.asarray(x) for path, x in draw(0).items()})
    tx = optimizers.build(cfg, lambda step: LR, params, AXES)

    def step(params):
        grads = tree.unflatten({p: jnp.asarray(x) for p, x in draw(1).items()})
        updates, state = tx.update(grads, tx.init(params), params)
        return optax.apply_updates(params, updates), state

    with place.use(layout):
        split = place.shardings(AXES, layout, params)
        state_split = place.like(jax.eval_shape(tx.init, params), params, split, layout)
        many = jax.jit(step, in_shardings=(split,), out_shardings=(split, state_split))(jax.device_put(params, split))
    one = jax.jit(step)(params)
    same(tree.flatten(many), tree.flatten(one), 1e-4)
    held = tree.flatten(many[1])
    for path, x in held.items():
        if path.endswith("q/kernel") and x.shape == params["blocks"]["q"]["kernel"].shape:
            assert x.sharding.spec == split["blocks"]["q"]["kernel"].spec, path
            break
    else:
        raise AssertionError("the state holds nothing in the shape of q")


def test_one_compiled_step_may_donate_everything():
    """Fails if two leaves of a fresh state are one buffer (the average and the parameters)."""
    params = tree.unflatten({path: jnp.asarray(x) for path, x in draw(0).items()})
    tx = optimizers.build(config("adamw", ema=0.9), lambda step: LR, params, AXES)
    made, state = jax.jit(lambda p: (p, tx.init(p)))(params)
    step = jax.jit(lambda p, s: tx.update(p, s, p), donate_argnums=(0, 1))
    jax.block_until_ready(step(made, state))


@pytest.mark.parametrize("bad, words", [
    (dict(name="adam"), "did you mean 'adamw'"), (dict(lr=0.0), "optimizer.lr"), (dict(b2=1.0), "optimizer.b2"),
    (dict(ema=1.0), "optimizer.ema"), (dict(clip_norm=-1.0), "optimizer.clip_norm"),
    (dict(layer_decay=0.0), "layer_decay"), (dict(moment_dtype="float16"), "moment_dtype"),
    (dict(name="adafactor", moment_dtype="bfloat16"), "no first moment"),
    (dict(rates=("kernel",)), "regex=multiplier"), (dict(eps=0.0), "optimizer.eps"),
    (dict(frozen="kernels"), "did you mean 'kernel'"),
    (dict(weight_decay=0.1, decay="tabel"), "optimizer.decay 'tabel'"),
    (dict(weight_decay=0.1, frozen="kernel|tokens"), "set optimizer.weight_decay to 0"),
    (dict(name="muon", matrices="bias"), "no matrix that is trained"),
])
def test_problems_name_the_field(bad, words):
    with pytest.raises(UserError, match=words):
        run(config(**{"name": "adamw", **bad}), 0)


def test_muon_sees_experts_as_matrices_side_by_side():
    """Fails if an expert is taken for a direction: leave "expert" out of _stacked."""
    found = optimizers.dimensions("up", ("layers", "expert", "embed", "mlp"))
    assert (found.reduction_axis, found.output_axis) == ((2,), (3,))


def test_muon_asks_where_the_axes_do_not_say():
    with pytest.raises(UserError, match="cannot tell input from output"):
        optimizers.dimensions("blocks/strange/kernel", ("layers", "heads", "mlp", "head_dim"))

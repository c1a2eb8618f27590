# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The three ways a run starts, and every way the second can go wrong."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.checkpoints import manager, start
from jaxlm.core import tree
from jaxlm.core.errors import UserError
from jaxlm.core.types import TrainState
from jaxlm.optim import average, optimizers
from jaxlm.parallel import mesh, place, rules

AXES = {
    "embed": {"tokens": ("vocab", "embed")},
    "blocks": {"q": {"kernel": ("layers", "embed", "mlp"), "bias": ("layers", "mlp")}},
    "head": {"kernel": ("embed", None)},
}


def draw(key, labels=3):
    """Fresh parameters; two models that differ in their head."""
    keys = jax.random.split(key, 3)
    return {
        "embed": {"tokens": jax.random.normal(keys[0], (16, 8))},
        "blocks": {"q": {"kernel": jax.random.normal(keys[1], (2, 8, 16)), "bias": jnp.zeros((2, 16))}},
        "head": {"kernel": jax.random.normal(keys[2], (8, labels))},
    }


@functools.cache
class Kind:
    """Abstract state and jitted creation, once for all tests."""

    def __init__(self, seed=0, labels=3, dtype=jnp.float32, fsdp=2, ema=0.5):
        self.layout = place.Layout(mesh.make(mesh.Config(data=1, fsdp=fsdp), jax.devices()[:fsdp]), rules.find("fsdp"))
        init = lambda key: jax.tree.map(lambda x: x.astype(dtype), draw(key, labels))
        shapes = jax.eval_shape(init, jax.random.key(0))
        tx = optimizers.build(optimizers.Config(ema=ema), lambda step: 0.1, shapes, AXES)

        def make(loaded):
            params = start.overlay(init(jax.random.key(seed)), loaded)
            return TrainState(jnp.int32(0), params, tx.init(params), jnp.zeros(2, jnp.uint32), jnp.zeros(2, jnp.int32))

        split = place.shardings(AXES, self.layout, shapes)
        state = jax.eval_shape(make, {})
        shardings = place.like(state, shapes, split, self.layout)
        self.abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)
        self.make = jax.jit(make, out_shardings=shardings, donate_argnums=0)


class Run:
    """What a training command would hand to begin()."""

    def __init__(self, **kind):
        self.kind = Kind(**kind)
        self.abstract, self.created = self.kind.abstract, []

    def create(self, loaded):
        self.created.append(sorted(loaded))
        return self.kind.make(loaded)

    def begin(self, here, **config):
        with manager.Checkpoints(here, manager.Config(every=1)) as checkpoints:
            state, how = start.begin(start.Config(**config), checkpoints, self.abstract, self.create)
            return state, how, checkpoints.restored


def bits(x):
    return np.asarray(x).tobytes()


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """(folder, state) of a run that has been trained a little."""
    path = tmp_path_factory.mktemp("other")
    run = Run(seed=1, fsdp=4)
    state = run.create({})
    params = jax.tree.map(lambda x: x + 0.5, state.params)
    state = TrainState(jnp.int32(7), params, state.opt_state, state.rng, state.skipped)
    with manager.Checkpoints(path, manager.Config(every=1)) as checkpoints:
        checkpoints.save(5, TrainState(jnp.int32(5), state.params, state.opt_state, state.rng, state.skipped), {})
        checkpoints.save(7, state, {"name": "other"})
    return path, state


def same(state, want, but=()):
    for path, x in tree.flatten(state).items():
        assert (bits(x) == bits(tree.flatten(want)[path])) != (path in but), path


def test_fresh_then_resumed(tmp_path, other):
    """Fails if a folder with a checkpoint is not resumed from because start.path is set."""
    run = Run()
    state, how, restored = run.begin(tmp_path)
    assert run.created == [[]] and how == "fresh, from the seed" and restored is None
    params = jax.tree.map(lambda x: x * 2, state.params)
    later = TrainState(jnp.int32(3), params, state.opt_state, state.rng, state.skipped)
    with manager.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, later, {}, force=True)
    for config in ({}, {"path": str(other[0])}):
        run = Run(fsdp=1)
        state, how, restored = run.begin(tmp_path, **config)
        assert run.created == [] and restored == 3 and how == f"resumed from step 3 in {tmp_path}"
        same(state, later)


def test_weights_of_another_run(tmp_path, other, capsys):
    """Fails if the optimizer's state is made before the weights are in place (its average would be of others)."""
    path, source = other
    run = Run()
    state, how, restored = run.begin(tmp_path, path=str(path))
    assert restored is None and int(state.step) == 0
    assert "4 of 4 parameters from step 7" in how
    same(state.params, source.params)
    same(average.averaged(state.opt_state), source.params)
    for x, a in zip(jax.tree.leaves(state), jax.tree.leaves(run.abstract), strict=True):
        assert x.sharding == a.sharding and x.dtype == a.dtype
    assert "taken  blocks/q/kernel" in capsys.readouterr().err


def test_a_part_of_another_run(tmp_path, other, capsys):
    """Fails if exclude is not applied, or if what is not taken is not fresh."""
    path, source = other
    run = Run(labels=5)
    fresh = Run(labels=5).create({})
    state, how, _ = run.begin(tmp_path, path=str(path), step=5, exclude="^head")
    assert "3 of 4 parameters from step 5" in how and "1 fresh" in how
    assert run.created == [["blocks/q/bias", "blocks/q/kernel", "embed/tokens"]]
    for name in run.created[0]:
        assert bits(tree.flatten(state.params)[name]) == bits(tree.flatten(source.params)[name])
    assert bits(state.params["head"]["kernel"]) == bits(fresh.params["head"]["kernel"])
    assert "fresh  head/kernel" in capsys.readouterr().err


def test_only_what_is_taken_is_read(tmp_path, other, monkeypatch):
    """Fails if the whole checkpoint is restored and then chosen from."""
    asked = []
    read = manager.Checkpoints.read
    def spy(self, step, wanted):
        asked.append(list(wanted))
        return read(self, step, wanted)

    monkeypatch.setattr(manager.Checkpoints, "read", spy)
    Run().begin(tmp_path, path=str(other[0]), include="^embed")
    assert asked == [["params/embed/tokens"]]


def test_renamed_and_cast(tmp_path, other):
    """Fails if rename is applied to the parameters here instead of those there, or the type here is ignored."""
    path, source = other
    rename = ("^blocks/q/(.*)->blocks/k/\\1", "/k/->/q/")
    state, how, _ = Run(dtype=jnp.bfloat16).begin(
        tmp_path, path=str(path), include="bias|kernel", exclude="head", rename=rename)
    got = state.params["blocks"]["q"]["kernel"]
    assert got.dtype == jnp.bfloat16 and bits(got) == bits(source.params["blocks"]["q"]["kernel"].astype(jnp.bfloat16))
    assert "2 of 4" in how


def test_the_average_of_another_run(tmp_path, other):
    """Fails if average is ignored: the other run's parameters have moved on from its average."""
    path, source = other
    state, _, _ = Run().begin(tmp_path / "a", path=str(path), average=True)
    same(state.params, average.averaged(source.opt_state))
    with manager.Checkpoints(tmp_path / "plain", manager.Config(every=1)) as checkpoints:
        checkpoints.save(1, Run(ema=0.0).create({}), {})
    with pytest.raises(UserError, match="holds no average"):
        Run().begin(tmp_path / "b", path=str(tmp_path / "plain"), average=True)


def test_not_strict(tmp_path, other):
    _, how, _ = Run().begin(tmp_path, path=str(other[0]), rename=("^head->top",), strict=False)
    assert "3 of 4 parameters" in how and "1 of the other run without a place here" in how


@pytest.mark.parametrize("config, words", [
    (dict(include="atention"), "start.include 'atention' matches no parameter"),
    (dict(exclude="nothing"), "start.exclude 'nothing' matches no parameter"),
    (dict(rename=("nothing->x",)), "start.rename 'nothing' matches no parameter"),
    (dict(rename=("kernel",)), "not of the form regex->replacement"),
    (dict(rename=("(kernel->x",)), "not a regular expression"),
    (dict(rename=(r"kernel->\4",)), "start.rename"),
    (dict(rename=("^embed->embedding",)), "embedding/tokens is not a parameter here, did you mean 'embed/tokens'"),
    (dict(rename=("kernel$->bias",)), "would both become blocks/q/bias"),
    (dict(include="("), "start.include"), (dict(step=-1), "start.step"), (dict(step=6), "no checkpoint 6"),
    (dict(include="^embed", rename=("^embed->x",), strict=False), "has a place here"),
])
def test_problems_are_told(tmp_path, other, config, words):
    with pytest.raises(UserError, match=words):
        Run().begin(tmp_path, path=str(other[0]), **config)


def test_another_shape_is_told(tmp_path, other):
    """Fails if a shape that differs is skipped, strict or not."""
    for strict in (True, False):
        with pytest.raises(UserError, match=r"head/kernel is \[8, 3\] there and \[8, 5\] here.*start.exclude"):
            Run(labels=5).begin(tmp_path, path=str(other[0]), strict=strict)


def test_the_wrong_folder_is_told(tmp_path, other):
    with pytest.raises(UserError, match=f"did you mean .*{other[0].name}"):
        start.load(start.Config(path=str(other[0].parent)), Run().abstract.params)
    with pytest.raises(UserError, match="no folder of checkpoints"):
        start.load(start.Config(path=str(tmp_path / "absent")), Run().abstract.params)

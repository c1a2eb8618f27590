# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints come back bit for bit, on any mesh, after any kill; damage is found, and what is good is never lost."""
import json
import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm.checkpoints import digest, manager
from jaxlm.checkpoints.manager import Checkpoints, Config, Damaged
from jaxlm.core import tree
from jaxlm.core.errors import UserError
from jaxlm.core.types import TrainState
from jaxlm.parallel import mesh, place, rules

AXES = {"block": {"kernel": ("layers", "embed", "mlp"), "bias": ("layers", "mlp")}, "scale": ("norm",)}


def make(seed=0, size=8, tx=None):
    """A state with everything one may hold: bfloat16, unsigned keys, optax states, None where frozen."""
    rng = np.random.default_rng(seed)
    params = {
        "block": {"kernel": jnp.asarray(rng.normal(size=(2, size, 16)), jnp.float32),
                  "bias": jnp.asarray(rng.normal(size=(2, 16)), jnp.bfloat16)},
        "scale": jnp.asarray(rng.normal(size=(size,)), jnp.float32),
    }
    train = {**params, "scale": None}
    tx = tx or optax.chain(optax.clip_by_global_norm(1.0), optax.masked(optax.adam(1e-3), {
        "block": {"kernel": True, "bias": False}, "scale": None}))
    rng = jnp.asarray([seed, 2**32 - 1], jnp.uint32)
    return TrainState(jnp.int32(seed), params, tx.init(train), rng, jnp.zeros(2, jnp.int32))


def abstract(state, layout=None):
    shapes = jax.eval_shape(lambda: state)
    if layout is None:
        return shapes
    shardings = place.like(shapes, shapes.params, place.shardings(AXES, layout, shapes.params), layout)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def put(state, layout):
    return jax.tree.map(lambda x, a: jax.device_put(x, a.sharding), state, abstract(state, layout))


def exact(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, x), y in zip(tree.flatten(got).items(), jax.tree.leaves(want), strict=True):
        assert x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes(), path


def folder(path, config=Config(every=10, latest=9), steps=(), **kwargs):
    out = Checkpoints(path, config, **kwargs)
    for step in steps:
        out.save(step, make(step), {"step": step})
    return out


def layouts():
    sizes = ((4, 2), (2, 1), (1, 4))
    meshes = [mesh.make(mesh.Config(data=1, fsdp=f, tensor=t), jax.devices()[: f * t]) for f, t in sizes]
    return [place.Layout(m, rules.find("fsdp_tp")) for m in meshes]


# ---- there and back


def test_bit_exact_onto_other_meshes(tmp_path):
    """Fails if restore ignores the shardings it is given, or if a leaf changes type."""
    first, *others = layouts()
    state = put(make(3), first)
    meta = {"config": {"lr": 0.1}, "tokenizer": json.dumps({"vocab": ["ä"]}), "none": None, "pair": (1, 2), 10: 0, 9: 1}
    with folder(tmp_path) as checkpoints:
        assert checkpoints.latest() is None and checkpoints.restore_latest(abstract(state)) is None
        assert checkpoints.save(10, state, meta, {"eval/loss": 2.5})
        exact(checkpoints.restore(10, abstract(state, first)), state)
    with folder(tmp_path) as checkpoints:
        assert checkpoints.meta(10) == json.loads(json.dumps(meta))
        assert checkpoints.metrics(10) == {"eval/loss": 2.5} and checkpoints.best() == 10
        for layout in others:
            target = abstract(state, layout)
            got = checkpoints.restore(10, target)
            exact(got, state)
            assert [x.sharding for x in jax.tree.leaves(got)] == [a.sharding for a in jax.tree.leaves(target)]
        exact(checkpoints.restore(10, abstract(state)), state)


def test_digest_is_the_same_on_any_mesh_and_sees_one_bit():
    """Fails if positions are not weighted (two rows exchanged), or counted within a shard."""
    rng = np.random.default_rng(0)
    for dtype in (jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint32, jnp.int8, jnp.float8_e4m3fn, jnp.int4, jnp.bool_):
        x = jnp.asarray(rng.normal(size=(8, 16)) * 3, jnp.float32)
        x = x > 0 if dtype == jnp.bool_ else x.astype(dtype)
        one = digest.digests({"x": x})
        sharding = jax.sharding.NamedSharding(mesh.make(mesh.Config(data=4, fsdp=2)), jax.P("fsdp", "data"))
        assert one == digest.digests({"x": jax.device_put(x, sharding)}), dtype
        assert one != digest.digests({"x": x[::-1]}), dtype
    raw = rng.normal(size=64).astype(np.float32)
    base = digest.digests({"x": jnp.asarray(raw)})
    for bit in range(64 * 32):
        flipped = raw.view(np.uint32).copy()
        flipped[bit // 32] ^= np.uint32(1 << bit % 32)
        if bit % 61 == 0:
            assert digest.digests({"x": jnp.asarray(flipped.view(np.float32))}) != base, bit


def test_when_it_saves(tmp_path):
    with folder(tmp_path, Config(every=5, async_save=False)) as checkpoints:
        state = make(1)
        assert [step for step in range(12) if checkpoints.save(step, state, {})] == [5, 10]
        assert not checkpoints.save(10, state, {}, force=True)  # this run has it
        assert checkpoints.save(11, state, {}, force=True)
        with pytest.raises(TypeError, match="not JSON"):
            checkpoints.save(15, state, {"config": object()})
        with pytest.raises(UserError, match="did you mean 'eval/loss'"):
            Checkpoints(tmp_path / "other", Config(metric="eval/los", every=5)).save(5, state, {}, {"eval/loss": 1.0})
        assert checkpoints.steps() == [10, 11]
    with folder(tmp_path, writing=False) as reader, pytest.raises(ValueError, match="opened for reading"):
        reader.save(20, state, {})
    with pytest.raises(UserError, match="no folder"):
        folder(tmp_path / "absent", writing=False)
    with folder(tmp_path, writing=False) as reader, pytest.raises(UserError, match="no checkpoint 7"):
        reader.meta(7)


# ---- what is kept


@pytest.mark.parametrize("mode, best", [("min", [3, 4]), ("max", [1, 8])])
def test_retention_across_restarts(tmp_path, mode, best):
    """Fails if the best are forgotten after a restart, or if a step without a finite metric counts as best."""
    losses = dict(enumerate((9.0, 5.0, 1.0, 2.0, None, -math.inf, math.inf, 8.0, math.nan, 5.6, None), 1))
    config = Config(every=1, latest=2, keep_every=5, best=2, mode=mode)
    state = make(0)
    for part in ([1, 2, 3, 4], [5, 6, 7], [8, 9, 10, 11]):
        with folder(tmp_path, config) as checkpoints:
            if checkpoints.steps():
                checkpoints.restore_latest(abstract(state))
            for step in part:
                metrics = None if losses[step] is None else {"eval/loss": losses[step], "other": 1.0}
                assert checkpoints.save(step, state, {}, metrics)
    with folder(tmp_path, config) as checkpoints:
        assert checkpoints.steps() == sorted({*best, 5, 10, 11})
        assert checkpoints.best() == (3 if mode == "min" else 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(map(str, {*best, 5, 10, 11}))


def test_the_old_one_stays_until_the_new_one_is_whole(tmp_path):
    """Fails if _collect runs before the save is complete."""
    with folder(tmp_path, Config(every=1, latest=1), steps=[1]) as checkpoints:
        checkpoints.wait()
        checkpoints.save(2, make(2), {})
        assert (tmp_path / "1").is_dir()
        checkpoints.wait()
        assert not (tmp_path / "1").exists() and (tmp_path / "2").is_dir()


def test_a_history_that_was_left_is_set_aside(tmp_path, capsys):
    """Fails if a step that exists is silently not saved (as Orbax does), or if later steps of the old history stay."""
    folder(tmp_path, steps=[10, 20, 30, 40]).close()
    with folder(tmp_path) as checkpoints:
        state = checkpoints.restore(20, abstract(make()))
        exact(state, make(20))
        assert checkpoints.steps() == [10, 20, 30, 40]  # reading changes nothing
        assert checkpoints.save(30, make(31), {"branch": 1})
        assert checkpoints.steps() == [10, 20, 30]
    with folder(tmp_path) as checkpoints:
        exact(checkpoints.restore_latest(abstract(make()))[0], make(31))
        assert checkpoints.meta(30) == {"branch": 1}
    assert sorted(p.name for p in (tmp_path / "set_aside").iterdir()) == ["30-0", "40-0"]
    assert "checkpoint 40 belongs to a history" in capsys.readouterr().err


def test_a_left_history_between_two_saves_goes_too(tmp_path):
    """Fails if only steps from the new one on are set aside: 30 would be kept as one of the latest."""
    folder(tmp_path, steps=[10, 20, 30]).close()
    with folder(tmp_path) as checkpoints:
        checkpoints.restore(20, abstract(make()))
        checkpoints.save(40, make(40), {})
        assert checkpoints.steps() == [10, 20, 40]


def test_a_run_that_resumed_nothing_writes_over_nothing(tmp_path):
    """Fails if only steps behind a restored one are set aside."""
    folder(tmp_path, steps=[10, 20, 30]).close()
    with folder(tmp_path) as checkpoints:
        checkpoints.save(20, make(21), {})
        assert checkpoints.steps() == [10, 20]
        exact(checkpoints.restore(20, abstract(make())), make(21))
    assert sorted(p.name for p in (tmp_path / "set_aside").iterdir()) == ["20-0", "30-0"]


def test_unfinished_steps_are_ignored_and_cleared(tmp_path):
    """Fails if the folder is not cleared of half-written and half-deleted steps."""
    folder(tmp_path, steps=[10]).close()
    for name in ("20.orbax-checkpoint-tmp", "30.orbax-checkpoint-tmp", "5.dropped"):
        (tmp_path / name / "state").mkdir(parents=True)
    with folder(tmp_path, writing=False) as reader:
        assert reader.steps() == [10]
    assert (tmp_path / "5.dropped").exists()  # a reader changes nothing
    with folder(tmp_path) as checkpoints:
        exact(checkpoints.restore_latest(abstract(make()))[0], make(10))
        assert checkpoints.save(20, make(20), {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["10", "20"]


# ---- damage


def damage_meta(step):
    path = step / "meta" / "meta.json"
    path.write_text(path.read_text().replace('"answer": 42', '"answer": 43'))


def damage_json(step):
    path = step / "meta" / "meta.json"
    path.write_text(path.read_text()[:-7])


def largest(step):
    return max((p for p in (step / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def damage_flip(step):
    path = largest(step)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)


def damage_truncate(step):
    path = largest(step)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_missing_data(step):
    largest(step).unlink()


def damage_missing_manifest(step):
    (step / "state" / "manifest.ocdbt").unlink()


def damage_missing_meta(step):
    (step / "meta" / "meta.json").unlink()


# Orbax leaves coroutines behind when a read fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [damage_meta, damage_json, damage_flip, damage_truncate, damage_missing_data,
                                    damage_missing_manifest, damage_missing_meta])
def test_damage_is_found_and_the_last_good_one_used(tmp_path, capsys, damage):
    """Fails (flip) if restored arrays are not compared with their digests; (meta) if the JSON's sum is not checked."""
    big = [make(step, size=4096) for step in (1, 2)]  # large enough for arrays to lie in files of their own
    with folder(tmp_path, Config(every=1)) as checkpoints:
        for step, state in enumerate(big, 1):
            checkpoints.save(step, state, {"answer": 42})
    damage(tmp_path / "2")
    with folder(tmp_path, Config(every=1)) as checkpoints:
        with pytest.raises(Damaged, match=f"checkpoint 2 in {tmp_path} is damaged"):
            checkpoints.restore(2, abstract(big[0]))
        state, step = checkpoints.restore_latest(abstract(big[0]))
        assert step == 1 and checkpoints.restored == 1
        exact(state, big[0])
        assert "going back from checkpoint 2" in capsys.readouterr().err
        assert checkpoints.save(2, big[1], {})  # again, in its place
        exact(checkpoints.restore(2, abstract(big[0])), big[1])


def test_every_flipped_bit_is_found(tmp_path):
    """Fails if restored arrays are not compared with their digests."""
    rng = random.Random(0)
    state = make(1, size=4096)
    with folder(tmp_path, Config(every=1, async_save=False)) as checkpoints:
        checkpoints.save(1, state, {})
    path = largest(tmp_path / "1")
    whole = path.read_bytes()
    for _ in range(6):
        raw = bytearray(whole)
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        path.write_bytes(raw)
        with folder(tmp_path) as checkpoints, pytest.raises(Damaged):
            checkpoints.restore(1, abstract(state))
    path.write_bytes(whole)
    with folder(tmp_path) as checkpoints:
        exact(checkpoints.restore(1, abstract(state)), state)


def test_all_damaged(tmp_path):
    folder(tmp_path, steps=[10]).close()
    damage_json(tmp_path / "10")
    with folder(tmp_path) as checkpoints, pytest.raises(Damaged, match="none of the checkpoints"):
        checkpoints.restore_latest(abstract(make()))


def test_another_model_or_optimizer_is_named(tmp_path):
    """Fails if restore hands the difference to Orbax, or takes it for damage and goes back."""
    folder(tmp_path, steps=[10]).close()
    with folder(tmp_path) as checkpoints:
        kernel = r"params/block/kernel: float32\[2, 8, 16\] in the checkpoint, float32\[2, 12, 16\] here"
        with pytest.raises(UserError, match=kernel):
            checkpoints.restore_latest(abstract(make(size=12)))
        moment = r"opt_state/\S+: absent in the checkpoint, bfloat16.* here.*start.path"
        with pytest.raises(UserError, match=moment) as caught:
            checkpoints.restore(10, abstract(make(tx=optax.sgd(0.1, momentum=0.9))))
        assert not isinstance(caught.value, Damaged)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot keep checkpoints in"):
        Checkpoints(tmp_path / "file" / "run")


@pytest.mark.parametrize("bad, words", [
    (dict(every=-1), "checkpoints.every"), (dict(latest=0), "checkpoints.latest"),
    (dict(mode="low"), "checkpoints.mode"), (dict(metric=""), "checkpoints.metric"),
    (dict(best=-1), "checkpoints.best"),
])
def test_problems_name_the_field(tmp_path, bad, words):
    with pytest.raises(UserError, match=words):
        manager.Checkpoints(tmp_path, Config(**bad))

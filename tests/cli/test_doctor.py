# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""jaxlm doctor: a healthy installation passes; each kind of fault is found, told in a line, and makes the command fail."""
import types

import numpy as np
import pytest

from jaxlm.cli import doctor
from jaxlm.core import processor
from jaxlm.training import selfcheck
from tests import tiny
from tests.test_configs import load


def test_a_healthy_installation(tmp_path):
    done = tiny.command("doctor", "--config=configs/gpt_tiny.py", f"--workdir={tmp_path}", devices=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout and done.stdout.splitlines()[-1] == "all is well"
    assert all(word in done.stdout for word in ("jax ", "devices", "data=2", "write", "all-reduce", "loss", "bit for bit"))
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_faults_are_told(tmp_path):
    """Fails if a fault does not show in the exit status: drop `raise SystemExit(1)` from cli/doctor.py."""
    (tmp_path / "file").write_text("")
    done = tiny.command("doctor", "--config=configs/gpt_tiny.py", f"--workdir={tmp_path / 'file'}", "--config.mesh.tensor=3", devices=2)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    faults = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert any("3" in f and "mesh" in f for f in faults) and any("storage" in f for f in faults)
    assert done.stdout.count(" -> ") == len(faults)


@pytest.mark.parametrize("page", ["t5_tiny", "lstm_tiny", "transformer_multi30k"])
def test_pages_of_other_models(page):
    """A page that can be run as it is passes, one that lacks its text says so. Fails if the config is not validated: drop
    build.validate from cli/doctor.py."""
    config = load(tiny.ROOT / "configs" / f"{page}.py")
    if page == "transformer_multi30k":
        assert not (found := doctor.layout(config)).well and "source.path is empty: name what both files begin with" in found.seen and found.todo
        config.source.path = "pairs"
    assert (found := doctor.layout(config)).well and found.seen.startswith("data=8"), found
    config.data.packing = "sentences"
    assert not (found := doctor.layout(config)).well and "data.packing is 'sentences'" in found.seen


@pytest.mark.parametrize("page,change,said", [("gpt_tiny", {}, "heads of "), ("llama_1b", {"head_dim": 128}, ""), ("lstm_tiny", {}, "")])
def test_the_size_of_heads_is_advised_on_a_gpu(page, change, said, monkeypatch):
    """Fails if it is said of heads that are large enough (`<=` for `<` in doctor.heads), or of models without any."""
    config = load(tiny.ROOT / "configs" / f"{page}.py")
    config.model.update(change)
    assert not list(doctor.heads(config))
    monkeypatch.setattr(doctor.jax, "default_backend", lambda: "gpu")
    found = [finding.seen for finding in doctor.heads(config)]
    assert [text[:len(said)] for text in found] == ([said] if said else [])


def test_versions():
    """Fails if an untried version passes: drop the upper bound from selfcheck.versions."""
    faults = lambda version: [f for f in selfcheck.versions(((types.SimpleNamespace(__name__="flax", __version__=version), "0.12.8", "0.13"),))
                              if not f.well]
    assert not faults("0.12.8") and not faults("0.12.30")
    assert [f.name for f in faults("0.13.0")] == ["flax"] == [f.name for f in faults("0.9.12")]


def test_bfloat16_on_this_cpu(tmp_path, monkeypatch):
    """Fails if an old jax or processor passes for one that computes in bfloat16: ask for jax < (0, 1)."""
    (tmp_path / "new").write_text("flags\t: fpu avx512f avx512_bf16 avx512vbmi\n")
    (tmp_path / "old").write_text("flags\t: fpu avx512f\n")
    def told(jax_version, file):
        monkeypatch.setattr(processor, "CPUINFO", tmp_path / file)
        return selfcheck.bfloat16(jax_version)

    assert "Python 3.12" in told((0, 10, 2), "new")
    assert "native (avx512_bf16)" in told((0, 12, 0), "new")
    assert "float32" in told((0, 12, 0), "old") == told((0, 12, 0), "absent")


def test_a_model_that_does_not_learn(tmp_path, monkeypatch):
    """Fails if the loss is not looked at: `falls = True` in selfcheck.learning."""
    build = selfcheck.schedules.build
    monkeypatch.setattr(selfcheck.schedules, "build", lambda *args: lambda step: 0.0 * build(*args)(step))
    found = {f.name: f for f in selfcheck.learning(tmp_path / "a")}
    assert not found["learning"].well and found["resume"].well


def test_a_checkpoint_that_comes_back_changed(tmp_path, monkeypatch):
    """Fails if the resumed state is not compared: `same = True` in selfcheck.learning."""
    restore = selfcheck.Checkpoints.restore
    def changed(self, step, target):
        state = restore(self, step, target)
        return type(state)(**{**vars(state), "rng": state.rng, "params": selfcheck.jax.tree.map(lambda x: x + np.float32(1e-6), state.params)})
    monkeypatch.setattr(selfcheck.Checkpoints, "restore", changed)
    found = {f.name: f for f in selfcheck.learning(tmp_path / "a")}
    assert found["learning"].well and not found["resume"].well


@pytest.mark.parametrize("megabytes", [1])
def test_network(megabytes):
    [found] = list(selfcheck.network(megabytes))
    assert found.well and "over 8 devices of 1 processes" in found.seen

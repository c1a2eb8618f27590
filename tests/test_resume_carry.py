# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A run whose state is carried from step to step: interrupted, replayed, on other devices and evaluated in other batches, it is the same."""
import json
import os
import re
import shutil
import signal

import jax
import numpy as np
import pytest
from absl import flags

from jaxlm import build
from jaxlm.checkpoints.manager import Checkpoints
from jaxlm.cli import evaluate, replay, train
from jaxlm.training import metrics
from tests import several, tiny
from tests.test_configs import load
from tests.test_resume import STRIKE, figures


@pytest.fixture(scope="module")
def carried(tmp_path_factory):
    """(folder, config) of an uninterrupted run `whole` of 6 steps of an LSTM whose state is carried, with dropout, on 8 devices."""
    folder = tmp_path_factory.mktemp("carried")
    config = tiny.shrink(load(tiny.ROOT / "configs" / "lstm_tiny.py"), tiny.write_text(folder / "text"), folder / "cache")
    config.model.update(layers=1, embed_dropout=0.1, weight_dropout=0.1, locked=True)
    config.train.update(steps=6, sample_tokens=0, picture=False, baseline="")
    config.eval.update(every=3, batches=0)
    config.checkpoints.update(every=2, latest=3, async_save=False)
    (folder / "config.json").write_text(build.to_json(config))
    order = []
    with pytest.MonkeyPatch.context() as patched, tiny.workdir(folder / "whole"):
        patched.setattr(metrics.Metrics, "sync", lambda self, real=metrics.Metrics.sync: (
            order.append(max(row["step"] for row in metrics.read(self.path))), real(self)))
        patched.setattr(Checkpoints, "save", lambda self, step, *args, real=Checkpoints.save, **options: (
            order.append(f"checkpoint {step}"), real(self, step, *args, **options))[1])
        train.main(config)
    # A checkpoint does not survive a power cut that its rows do not. Fails without record.sync() in cli/train.py.
    assert order == [x for step in (2, 4, 6) for x in (step, f"checkpoint {step}")]
    return folder, config


def arrays(run, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint."""
    with Checkpoints(run / "checkpoints", writing=False) as kept:
        return jax.device_get(kept.read(step, {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in kept.leaves(step).items()}))


def test_a_carried_state_resumes(carried, monkeypatch, capsys):
    """SIGTERM after step 3, kill -9 after step 5, then the rest: the arrays, the carry among them, and the rows of the whole run; a
    step replayed from a checkpoint has the bits of the row.

    Fails if the carry is drawn anew on resume (`carry` left out of what is saved, or states.empty after a restore)."""
    folder, config = carried
    with monkeypatch.context() as patched:
        patched.setattr(metrics.Metrics, "write", lambda self, step, values, write=metrics.Metrics.write: (
            write(self, step, values), os.kill(os.getpid(), signal.SIGTERM) if step == 3 and "train/loss" in values else None))
        with pytest.raises(SystemExit) as stopped, tiny.workdir(folder / "cut"):
            train.main(config)
    assert stopped.value.code == 143 and "Run the same command again" in capsys.readouterr().err
    cut = tiny.command("train", f"--config={folder / 'config.json'}", f"--workdir={folder / 'cut'}", devices=8, code=STRIKE.format(step=5, signal=9))
    assert cut.returncode == -9 and re.search(r"resumed from step [34]", cut.stderr), cut.stderr
    with tiny.workdir(folder / "cut"):
        train.main(config)
    assert "resumed from step 4" in capsys.readouterr().err
    expected, found = arrays(folder / "whole", 6), arrays(folder / "cut", 6)
    assert expected.keys() == found.keys() and {"carry/h", "carry/c", "carry/segments"} <= found.keys() and expected["carry/h"].any()
    for path, x in expected.items():
        np.testing.assert_array_equal(found[path], x, err_msg=path)
    assert figures(folder, "cut") == figures(folder, "whole")
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["test", f"--workdir={folder / 'whole'}", "--at=5"])
    replay.main(build.from_json((folder / "config.json").read_text()))
    said = capsys.readouterr().out
    assert "replayed from checkpoint 4" in said and "DIFFERS" not in said and "every number of the step was finite" in said


def test_a_carried_state_moves_to_other_devices(carried):
    """From step 2 of one process of 8 devices on two processes of one, with other rules: the losses and held-out figures of the whole run to
    2e-6, the carry to 1e-5. Fails if a row's state goes to another row (`first = 0` in place.put), or held-out rows are not carried."""
    folder, _ = carried
    shutil.copytree(folder / "whole", folder / "moved", ignore=shutil.ignore_patterns("4", "6"))
    words = (f"--config={folder / 'config.json'}", f"--workdir={folder / 'moved'}", "--config.rules=fsdp", "--config.mesh.fsdp=2", "--config.mesh.data=1")
    several.run(folder, "moved", 2, devices=2, words=words)
    assert "resumed from step 2" in several.told(folder, "moved")
    one, two = ({(row["step"], name): x for row in figures(folder, run) for name, x in row.items() if name.endswith(("/loss", "/nll"))}
                for run in ("whole", "moved"))
    assert one.keys() == two.keys() and len(one) > 12
    for key, x in one.items():
        np.testing.assert_allclose(two[key], x, rtol=2e-6, err_msg=key)
    expected, found = arrays(folder / "whole", 6), arrays(folder / "moved", 6)
    for path in ("carry/h", "carry/c"):
        np.testing.assert_allclose(found[path], expected[path], atol=1e-5)


def test_held_out_figures_do_not_depend_on_the_batch(carried, capsys):
    """A recurrent model's held-out text is read document by document: 8 rows at a time or 16, one figure, and another one
    than of windows that begin anew. Fails if rows begin inside documents (no `once` in InOrder)."""
    folder, config = carried
    found = []
    for rows, packing in ((8, "stream"), (16, "stream"), (16, "windows")):
        config.eval.batch_size, config.data.packing = rows, packing
        flags.FLAGS.unparse_flags()
        flags.FLAGS(["test", f"--workdir={folder / 'whole'}"])
        evaluate.main(config)
        found.append(json.loads(capsys.readouterr().out)["eval/bits_per_byte"])
    np.testing.assert_allclose(*found[:2], rtol=1e-6)
    assert abs(found[2] - found[0]) > 1e-5

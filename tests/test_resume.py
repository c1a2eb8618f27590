# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Interrupted = uninterrupted, bit for bit: parameters, optimizer, losses and batches, after kill -9 and after SIGTERM."""
import json
import signal

import jax
import numpy as np
import pytest

from jaxlm import build
from jaxlm.checkpoints.manager import Checkpoints
from jaxlm.cli import experiment
from jaxlm.core import tree
from jaxlm.parallel import place
from jaxlm.training import metrics
from tests import tiny

STEPS = 8
# Runs before the command, in its process: a signal to oneself when the metrics of that step are written. Deterministic,
# where a signal from outside would hit a different moment each time.
STRIKE = """
import os
from jaxlm.training import metrics
write = metrics.Metrics.write
def strike(self, step, values):
    write(self, step, values)
    if step == {step} and 'train/loss' in values:
        os.kill(os.getpid(), {signal})
metrics.Metrics.write = strike
"""
# Notes each batch as it goes to the device, so that the order of the data is compared too.
RECORD = """
import hashlib, os
from jaxlm.parallel import place
put = place.put
def record(batch, layout, rows):
    digest = hashlib.sha256(b''.join(batch[k].tobytes() for k in sorted(batch))).hexdigest()
    with open(os.environ['BATCHES'], 'a') as file:
        file.write(digest + chr(10))
    return put(batch, layout, rows)
place.put = record
"""


def arguments(tmp_path, name: str) -> list[str]:
    return ["--config=configs/gpt_tiny.py:tokenizer=byte", f"--workdir={tmp_path / name}", f"--config.source.path={tmp_path / 'text'}",
            f"--config.data.cache_dir={tmp_path / 'cache'}", "--config.data.seq_len=32",
            "--config.data.holdout=0.2", "--config.model.layers=2", "--config.model.embed=32", "--config.model.residual_dropout=0.1",
            f"--config.train.steps={STEPS}", "--config.train.batch_size=8", "--config.train.log_every=1",
            "--config.train.baseline=", "--config.train.sample_tokens=0", "--config.train.picture=false",
            "--config.train.tensorboard=false", "--config.schedule.warmup=2", "--config.eval.every=0", "--config.eval.batches=1",
            "--config.checkpoints.every=3",
            "--config.checkpoints.async_save=false", "--config.optimizer.ema=0.9"]


def run(tmp_path, name: str, code: str = "", extra: tuple = ()):
    return tiny.command("train", *arguments(tmp_path, name), *extra, code=RECORD + code, BATCHES=str(tmp_path / f"{name}.batches"))


def losses(tmp_path, name: str) -> dict[int, tuple]:
    rows = metrics.read(tmp_path / name / "metrics.jsonl")
    kept = [row for row in rows if "train/loss" in row]
    assert len(kept) == len({row["step"] for row in kept})
    return {row["step"]: tuple(row[f"train/{k}"] for k in ("loss", "grad_norm", "lr")) for row in kept}


def final(tmp_path, name: str) -> dict[str, np.ndarray]:
    config = build.from_json((tmp_path / name / "config.json").read_text())
    here = experiment.experiment(config, 257, jax.devices()[:1])
    with Checkpoints(tmp_path / name / "checkpoints", build.section(config, "checkpoints"), writing=False) as checkpoints, place.use(here.layout):
        assert checkpoints.latest() == STEPS
        return jax.device_get(tree.flatten(checkpoints.restore(STEPS, here.target)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("resume")
    tiny.write_text(folder / "text")
    done = run(folder, "whole")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("number,code", [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 128 + signal.SIGTERM)], ids=["kill-9", "SIGTERM"])
def test_interrupted_is_uninterrupted(whole, number, code):
    """Fails if anything of the state is left out or drawn anew: `opt_state=tx.init(params)` after a restore, a dropout
    key from the clock, or a sampler that starts at 0 (`begin = 0` in cli/train.py)."""
    name = f"cut-{int(number)}"
    cut = run(whole, name, STRIKE.format(step=5, signal=int(number)))
    assert cut.returncode == code, cut.stderr
    if number == signal.SIGTERM:
        assert "Run the same command again" in cut.stderr
    again = run(whole, name)
    assert again.returncode == 0, again.stderr
    assert "resumed from step" in again.stderr
    assert losses(whole, name) == losses(whole, "whole")
    expected, found = final(whole, "whole"), final(whole, name)
    assert expected.keys() == found.keys() and any("opt_state" in path for path in found)
    for path, x in expected.items():
        np.testing.assert_array_equal(found[path], x, err_msg=path)
    # The last evaluation's batch is among those noted; what the resumed run saw is the end of what the whole one saw.
    seen = lambda n: (whole / f"{n}.batches").read_text().split()
    resumed_at = 3 if number == signal.SIGKILL else 6
    resumed = seen(name)[-(STEPS - resumed_at + 1):]
    assert resumed == seen("whole")[-(STEPS - resumed_at + 1):]


@pytest.mark.parametrize("change,word", [
    ("--config.train.batch_size=16", "train.batch_size: 8 -> 16"),
    ("--config.optimizer.lr=0.5", "optimizer.lr"),
    ("", "the text is not what"),
])
def test_changes_are_refused(whole, change, word):
    """Fails if a resumed run takes a changed setting or text without a word: drop check_resume from cli/train.py."""
    more = whole / "text" / "more.txt"
    if not change:
        more.write_text("A document that was not there before.")
    done = run(whole, "whole", extra=(change,) if change else ())
    more.unlink(missing_ok=True)
    assert done.returncode == 2 and word in done.stderr and "allow_changes" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_left_to_do(whole):
    """A run that is complete says so again and changes nothing."""
    before = (whole / "whole" / "metrics.jsonl").read_text()
    done = run(whole, "whole")
    assert done.returncode == 0 and "held out" in done.stdout
    rows = [json.loads(line) for line in before.splitlines()]
    assert losses(whole, "whole") == {r["step"]: tuple(r[f"train/{k}"] for k in ("loss", "grad_norm", "lr")) for r in rows if "train/loss" in r}

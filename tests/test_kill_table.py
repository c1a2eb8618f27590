# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Kill -9 at random moments of a real run, from its first import to its last word, each followed by the same command: nothing is lost."""
import os
import pathlib
import random

import jax
import numpy as np
import pytest

from jaxlm import build
from jaxlm.checkpoints.manager import Checkpoints
from jaxlm.cli import experiment
from jaxlm.core import tree
from jaxlm.data.tokenizers.tokenizer import ByteTokenizer
from jaxlm.parallel import place
from tests import tiny
from tests.kills import Run, kill_until_done
from tests.test_resume import figures

STEPS = 40
# Compiled anew each time, so that compiling is a time in which a run can be killed.
ENVIRONMENT = {"JAX_NUM_CPU_DEVICES": "2", "JAX_ENABLE_COMPILATION_CACHE": "0"}


def arguments(folder: pathlib.Path, name: str) -> list[str]:
    """A run that saves after every step while the next is computed, evaluates on the way and has an end worth interrupting."""
    return ["--config=configs/gpt_tiny.py:tokenizer=byte", f"--workdir={folder / name}", f"--config.source.path={folder / 'text'}",
            "--config.data.seq_len=32", "--config.data.holdout=0.2", "--config.model.layers=2", "--config.model.embed=128",
            "--config.model.residual_dropout=0.1", f"--config.train.steps={STEPS}", "--config.train.batch_size=8", "--config.train.log_every=1",
            "--config.train.sample_tokens=8", "--config.eval.every=4", "--config.eval.batches=2", "--config.checkpoints.every=1",
            "--config.schedule.warmup=2", "--config.optimizer.ema=0.9"]


def ended(folder: pathlib.Path, name: str) -> tuple[list[dict], dict[str, np.ndarray], str]:
    """(rows, the last state, what was said at the end); nothing half-written lies about."""
    config = build.from_json((folder / name / "config.json").read_text())
    here = experiment.experiment(config, ByteTokenizer().vocabulary, jax.devices()[:2])
    with Checkpoints(folder / name / "checkpoints", writing=False) as kept, place.use(here.layout):
        assert kept.latest() == STEPS and len(kept.steps()) <= 3
        state = jax.device_get(tree.flatten(kept.restore(STEPS, here.target)))
    assert not list((folder / name / "checkpoints").glob("*tmp*")) and not list((folder / name / "checkpoints").glob("*.dropped"))
    last = max(folder.glob(f"{name}.*.log"), key=lambda path: int(path.name.split(".")[-2])).read_text()
    return figures(folder, name), state, "held out" + last.partition("held out")[2].replace(f"/{name}/", "/")


@pytest.mark.slow
def test_the_kill_table(tmp_path):
    """24 kills; KILL_SEED chooses other moments. Fails if a row is written twice (drop the filter in Metrics.__init__), or an
    evaluation that is recorded is made again (`self.held_out = {}` there)."""
    draw = random.Random(int(os.environ.get("KILL_SEED", 0)))
    moments = [("start", draw.uniform(0, 8)) for _ in range(5)] + [("begun", draw.uniform(0, 3)) for _ in range(4)]
    moments += [("step", draw.uniform(0, 1)) for _ in range(5)] + [("save", draw.uniform(0, 0.1)) for _ in range(6)]
    draw.shuffle(moments)
    moments += [("last", draw.uniform(0, 3)) for _ in range(4)]
    tiny.write_text(tmp_path / "text")
    whole = Run(tmp_path / "whole", STEPS, arguments(tmp_path, "whole"), **ENVIRONMENT)
    assert whole.process.wait(300) == 0, whole.log.read_text()[-3000:]
    print("\n".join(kill_until_done(tmp_path / "killed", STEPS, arguments(tmp_path, "killed"), moments, **ENVIRONMENT)))
    rows, state, said = ended(tmp_path, "whole")
    found_rows, found, found_said = ended(tmp_path, "killed")
    assert len(rows) == STEPS + STEPS // 4 and found_rows == rows and found_said == said
    for path, x in state.items():
        np.testing.assert_array_equal(found[path], x, err_msg=path)

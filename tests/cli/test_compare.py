# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Two configs or two revisions on the same data: equal is said only of the same bits."""
import shutil
import subprocess

import pytest

from jaxlm.cli import compare
from jaxlm.training import metrics
from tests import tiny

ANY = ["--config.source.include=('*.txt',)", "--config.data.seq_len=16", "--config.data.holdout=0.2", "--config.model.layers=2",
       "--config.model.embed=16", "--config.train.batch_size=4", "--config.schedule.warmup=0"]
SMALL = ["--config=configs/gpt_tiny.py:tokenizer=byte", "--config.model.heads=2", *ANY]
T5 = ["--config=configs/t5_tiny.py:tokenizer=byte", "--config.tokenizer.special_tokens=('<extra_id_0>','<extra_id_1>','<extra_id_2>')",
      "--config.data.source_len=32", *ANY]
LSTM = ["--config=configs/lstm_tiny.py:tokenizer=byte", "--config.model.hidden=16", *ANY]


def rows(*values: tuple) -> list[dict]:
    return [{"step": i, "train/loss": a, "train/grad_norm": b} for i, (a, b) in enumerate(values, 1)]


def test_the_report():
    """Fails if nearly equal passes: `abs(float(a[name]) - float(b[name])) > 1e-9` in metrics.compare()."""
    same = rows((2.0, 1.0), (1.5, "nan"), ("nan", "nan"))
    assert metrics.compare(same, same) == ("the losses and gradient norms of 3 steps are equal, bit for bit", True)
    text, equal = metrics.compare(rows((2.0, 1.0), (1.5, 1.0)), rows((2.0, 1.0), (1.5000000000000002, 1.0)))
    assert not equal and "step 2 is the first that differs" in text and "1.5 and 1.5000000000000002" in text and "1.48e-16 (step 2)" in text
    text, equal = metrics.compare(rows((2.0, 1.0)), rows((2.0, 1.1)))
    assert not equal and "train/grad_norm" in text and "train/loss" not in text
    assert not metrics.compare(same, same[:2])[1]


def test_words():
    """A page and bare fields are written out; what is written out stays."""
    assert compare.words("configs/a.py:model=llama optimizer.lr=1e-3 'train.sample=a b' --config.seed=1") == [
        "--config=configs/a.py:model=llama", "--config.optimizer.lr=1e-3", "--config.train.sample=a b", "--config.seed=1"]
    assert compare.words("source.path=my.json") == ["--config.source.path=my.json"]


def test_two_configs(tmp_path):
    """A run equals itself, also a T5 whose masks are drawn; of an LSTM whose state is carried another learning rate shows in the
    second step, as the first is taken before any update.

    Fails if the second run is not given its own words: `FLAGS.first` twice in main()."""
    tiny.write_text(tmp_path / "text")
    common = [f"--config.source.path={tmp_path / 'text'}", "--steps=3"]
    done = tiny.command("compare", *T5, *common, "--first=data.prefetch=0", "--second=data.prefetch=3")
    assert done.returncode == 0, done.stderr
    assert "data.prefetch: 0 -> 3\nthe losses and gradient norms of 3 steps are equal, bit for bit" in done.stdout
    done = tiny.command("compare", *LSTM, *common, "--second=optimizer.lr=0.01")
    assert done.returncode == 1, done.stderr
    assert "optimizer.lr: 0.003 -> 0.01\nstep 2 is the first that differs:\n  train/loss" in done.stdout


@pytest.mark.slow
def test_scanned_and_unrolled(tmp_path):
    """Two formulations: the same bits, or how far apart, and never more than rounding."""
    tiny.write_text(tmp_path / "text")
    done = tiny.command("compare", *SMALL, f"--config.source.path={tmp_path / 'text'}", "--steps=3", "--first=model.scan=false", "--second=model.scan=true")
    assert "model.scan: False -> True" in done.stdout
    if done.returncode:
        assert float(done.stdout.split("in 3 steps: ")[1].split()[0]) < 1e-5
    else:
        assert "bit for bit" in done.stdout


@pytest.mark.slow
def test_two_revisions(tmp_path):
    """Fails if a revision runs the code that one stands in: drop -P or PYTHONPATH in run()."""
    here = tmp_path / "checkout"
    for part in ("jaxlm", "configs"):
        shutil.copytree(tiny.ROOT / part, here / part, ignore=shutil.ignore_patterns("__pycache__"))
    git = lambda *a: subprocess.run(["git", "-C", str(here), "-c", "user.name=a", "-c", "user.email=a@b.c", *a], check=True, capture_output=True)
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "one")
    objective = here / "jaxlm" / "training" / "step.py"
    objective.write_text(objective.read_text().replace('means["loss"].weight, 1e-9)', 'means["loss"].weight, 1e-9) * 1.5'))
    git("commit", "-qam", "two")
    tiny.write_text(tmp_path / "text")
    arguments = [*SMALL, f"--config.source.path={tmp_path / 'text'}", "--steps=2"]
    environment = {"PYTHONPATH": str(here)}
    program = f"import os; os.chdir({str(here)!r}); import sys; sys.path.insert(0, {str(here)!r})"
    done = tiny.command("compare", *arguments, "--revisions=HEAD~1,HEAD", code=program, **environment)
    assert done.returncode == 1 and "step 1 is the first that differs:\n  train/grad_norm" in done.stdout, done.stdout + done.stderr
    assert not subprocess.run(["git", "-C", str(here), "worktree", "list"], capture_output=True, text=True).stdout.strip().count("\n")

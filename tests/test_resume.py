# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Interrupted = uninterrupted, bit for bit: parameters, optimizer, losses and batches, after kill -9 and after SIGTERM."""
import signal
import subprocess

import jax
import numpy as np
import pytest

from jaxlm import build
from jaxlm.checkpoints.manager import Checkpoints
from jaxlm.cli import experiment, train
from jaxlm.core import tree
from jaxlm.data.tokenizers.tokenizer import ByteTokenizer
from jaxlm.parallel import place
from jaxlm.training import metrics
from tests import families, tiny
from tests.kills import kill_until_done

STEPS, EVALUATED, BATCHES = 8, 4, 3  # steps, steps between evaluations, batches of one
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
# A signal to oneself at the n-th call of a function of the library, before it does its work.
STRIKE_AT = """
import importlib, operator, os
*path, name = '{name}'.split('.')
owner = operator.attrgetter('.'.join(path))(importlib.import_module('{module}')) if path else importlib.import_module('{module}')
real, calls = getattr(owner, name), 0
def strike_at(*args, **options):
    global calls
    calls += 1
    if calls == {nth} and {who}:
        os.kill(os.getpid(), {signal})
        {then}
    return real(*args, **options)
setattr(owner, name, strike_at)
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
            "--config.train.baseline=", "--config.train.sample_tokens=4", "--config.train.picture=false",
            "--config.train.tensorboard=false", "--config.schedule.warmup=2", f"--config.eval.every={EVALUATED}", f"--config.eval.batches={BATCHES}",
            "--config.checkpoints.every=3",
            "--config.checkpoints.async_save=false", "--config.optimizer.ema=0.9"]


def run(tmp_path, name: str, code: str = "", extra: tuple = (), timeout: int = 300):
    return tiny.command("train", *arguments(tmp_path, name), *extra, code=RECORD + code, timeout=timeout, BATCHES=str(tmp_path / f"{name}.batches"))


def figures(tmp_path, name: str) -> list[dict]:
    """Every row, without what a clock says."""
    rows = [{k: v for k, v in row.items() if k not in ("train/tokens_per_second", "train/mfu", "train/data_wait")}
            for row in metrics.read(tmp_path / name / "metrics.jsonl")]
    assert len(rows) == len({(row["step"], "eval/loss" in row) for row in rows}), "a step was recorded twice"
    return rows


def norms(tmp_path, name: str) -> list[float]:
    """The last gradient norms, by which an exploding step is told; they are in the checkpoint."""
    with Checkpoints(tmp_path / name / "checkpoints", writing=False) as checkpoints:
        return checkpoints.meta(STEPS)["norms"]


def final(tmp_path, name: str) -> dict[str, np.ndarray]:
    config = build.from_json((tmp_path / name / "config.json").read_text())
    here = experiment.experiment(config, ByteTokenizer().vocabulary, jax.devices()[:1])
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
    (folder / "whole.out").write_text(done.stdout)
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
    assert figures(whole, name) == figures(whole, "whole")
    expected, found = final(whole, "whole"), final(whole, name)
    assert expected.keys() == found.keys() and any("opt_state" in path for path in found)
    for path, x in expected.items():
        np.testing.assert_array_equal(found[path], x, err_msg=path)
    assert norms(whole, name) == norms(whole, "whole") and len(norms(whole, name)) == STEPS
    # Batches of evaluations are among those noted; what the resumed run saw is the end of what the whole one saw.
    seen = lambda n: (whole / f"{n}.batches").read_text().split()
    resumed_at = 3 if number == signal.SIGKILL else 6
    after = STEPS - resumed_at + BATCHES * (STEPS // EVALUATED - resumed_at // EVALUATED)
    assert seen(name)[-after:] == seen("whole")[-after:]


# gpt is what all other tests of this file train; of the rest, those that share most with others are slow.
SHARED = ("albert", "llama", "llama_moe", "t5", "bart")
FAMILIES = [pytest.param(name, marks=[pytest.mark.slow] if name in SHARED else []) for name in families.FAMILIES if name != "gpt"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_resumes(family, tmp_path):
    """Masks, pairs, sources, routing, dropout and every loss go on as if nothing had happened: state and rows, bit for bit.
    A T5 that denoises is killed by kill -9 in its third step; the others end after two.

    Fails if a mask is drawn from anything but (seed, step, row): `np.random.default_rng()` for `rngs(i)` in mlm.prepare; or a dropout key
    is another after a restore: `rng + 1` in what Checkpoints.restore gives."""
    config = tiny.shrink(families.config_of(family), tiny.write_text(tmp_path / "text"), tmp_path / "cache")
    for field in config.model:
        if field.endswith("dropout"):
            config.model[field] = 0.1
    config.schedule.total = 5
    found = {}
    for name, stops in (("whole", (4,)), ("cut", (4,) if family == "t5_denoise" else (2, 4))):
        if name == "cut" and family == "t5_denoise":
            (tmp_path / "config.json").write_text(build.to_json(config))
            killed = tiny.command("train", f"--config={tmp_path / 'config.json'}", f"--workdir={tmp_path / name}", devices=8, code=STRIKE.format(step=3, signal=9))
            assert killed.returncode == -9, killed.stderr
            with Checkpoints(tmp_path / name / "checkpoints", writing=False) as checkpoints:
                assert 0 < checkpoints.latest() < 4
        for config.train.steps in stops:
            with tiny.workdir(tmp_path / name):
                train.main(config)
        with Checkpoints(tmp_path / name / "checkpoints", writing=False) as checkpoints:
            found[name] = checkpoints.read(4, {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in checkpoints.leaves(4).items()})
    assert found["whole"].keys() == found["cut"].keys() and any("opt_state" in path for path in found["cut"])
    for path, x in found["whole"].items():
        np.testing.assert_array_equal(found["cut"][path], x, err_msg=path)
    rows = {name: [row for row in figures(tmp_path, name) if "train/loss" in row] for name in found}
    assert rows["cut"] == rows["whole"] and len(rows["cut"]) == 4
    terms = {"bert": "train/nsp_loss", "albert": "train/sop_loss"}
    assert terms.get(family, "train/loss") in rows["cut"][0], rows["cut"][0].keys()


# What the run is doing when the signal comes, where that is in the library, at which call; and what the run then has.
MOMENTS = [("compiling", "jaxlm.training.step", "compile_step", 1, signal.SIGTERM, "there is no checkpoint yet"),
           ("evaluating", "jaxlm.training.evaluate", "_add", 1, signal.SIGTERM, "saved after step 4 of 8"),
           ("restoring", "jaxlm.checkpoints.manager", "Checkpoints.read", 1, signal.SIGINT, "the newest checkpoint is of step 4"),
           ("evaluating at the end", "jaxlm.training.evaluate", "_add", BATCHES + 1, signal.SIGINT, "saved after step 8 of 8"),
           ("sampling", "jaxlm.generate.text", "generate", 1, signal.SIGTERM, "the newest checkpoint is of step 8")]


def test_signals_outside_the_steps(whole):
    """One run, interrupted at every one of these moments, ends as the whole one, with the same rows.

    Fails if a signal outside the steps ends the run without a word (drop `with Stop` from cli/train.py), an evaluation is not
    left (drop `stop=stop` in Experiment.evaluate), not made up for (drop `assess(begin, state)` from cli/train.py) or written
    twice (`self.held_out = {}` in Metrics.__init__)."""
    for what, module, name, nth, number, told in MOMENTS:
        cut = run(whole, "signals", STRIKE_AT.format(module=module, name=name, nth=nth, signal=int(number), who=True, then="pass"))
        assert cut.returncode == 128 + number, (what, cut.stderr)
        assert told in cut.stderr and "Run the same command again" in cut.stderr and "Traceback" not in cut.stderr, (what, cut.stderr)
    last, uninterrupted = run(whole, "signals"), (whole / "whole.out").read_text()
    assert last.returncode == 0 and last.stdout == uninterrupted.replace("/whole", "/signals")
    assert figures(whole, "signals") == figures(whole, "whole")
    expected, found = final(whole, "whole"), final(whole, "signals")
    for path, x in expected.items():
        np.testing.assert_array_equal(found[path], x, err_msg=path)


def test_killed_while_it_saves(whole):
    """Two kills of a run that saves after every step; tests/test_kill_table.py has 24. Fails if a row is written
    twice: drop the filter in Metrics.__init__."""
    words = [*arguments(whole, "killed"), "--config.checkpoints.every=1", "--config.checkpoints.async_save=true"]
    print("\n".join(kill_until_done(whole / "killed", STEPS, words, [("step", 0.05), ("save", 0.01)])))
    assert figures(whole, "killed") == figures(whole, "whole")
    expected, found = final(whole, "whole"), final(whole, "killed")
    for path, x in expected.items():
        np.testing.assert_array_equal(found[path], x, err_msg=path)


# A call into C that lasts, during which the signal comes.
BUSY = """
import hashlib, os, threading
from jaxlm.training import step, stop
stop.PATIENCE = 0.5
def compile_step(*args):
    threading.Timer(0.5, os.kill, (os.getpid(), 15)).start()
    hashlib.pbkdf2_hmac('sha256', b'', b'', 2_000_000_000)
step.compile_step = compile_step
"""


def test_a_signal_while_python_cannot_be_reached(whole):
    """Compiling is one call, of minutes for a large model. Fails if the signal waits until it is over: drop the thread from Stop."""
    cut = run(whole, "busy", BUSY)
    assert cut.returncode == 143 and "Run the same command again" in cut.stderr, cut.stderr


@pytest.mark.parametrize("change,word", [
    ("--config.train.batch_size=16", "train.batch_size: 8 -> 16"),
    ("--config.optimizer.lr=0.5", "optimizer.lr"),
    ("", "the text is not what"),
])
def test_changes_are_refused(whole, change, word):
    """Fails if a resumed run takes a changed setting or text without a word: drop resume.check from cli/train.py."""
    more = whole / "text" / "more.txt"
    if not change:
        more.write_text("A document that was not there before.")
    done = run(whole, "whole", extra=(change,) if change else ())
    more.unlink(missing_ok=True)
    assert done.returncode == 2 and word in done.stderr and "allow_changes" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def small_disk(whole):
    """The run `full` has a disk of its own; a function that sets its size."""
    folder = whole / "full"
    folder.mkdir()
    mount = lambda *options: subprocess.run(["mount", "-t", "tmpfs", "-o", *options], capture_output=True, text=True)
    done = mount("size=4m", "tmpfs", str(folder))
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here, which only root may: {done.stderr.strip()}")
    yield lambda size: mount(f"remount,size={size}", str(folder))
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(whole, small_disk):
    """A run that keeps every checkpoint, on a disk for some of them, says so in one line, also when it is started again; given room it
    goes on, and ends as the whole one.

    Fails if a failed save is passed over (`return` before `raise` in Checkpoints.wait), or libraries speak of it besides: drop
    messages.quiet_failed_saves() from cli/flags.py, which is seen in most runs, not in each: their callbacks race."""
    extra = ("--config.checkpoints.every=1", "--config.checkpoints.keep_every=1", "--config.checkpoints.async_save=true",
             "--config.train.tensorboard=true")
    for attempt in range(2):
        full = run(whole, "full", extra=extra, timeout=300)
        assert full.returncode == 2 and full.stderr.count("error: ") == 1 and "Traceback" not in full.stderr, full.stderr
        assert "No space left on device" in full.stderr.splitlines()[-1]
        with Checkpoints(whole / "full" / "checkpoints", writing=False) as kept:
            assert 0 < kept.latest() < STEPS and not [p for p in (whole / "full").rglob("*") if "tmp" in p.name or "partial" in p.name]
    small_disk("64m")
    again = run(whole, "full", extra=extra)
    assert again.returncode == 0 and "resumed from step" in again.stderr, again.stderr
    assert figures(whole, "full") == figures(whole, "whole")
    expected, found = final(whole, "whole"), final(whole, "full")
    for path, x in expected.items():
        np.testing.assert_array_equal(found[path], x, err_msg=path)


def test_nothing_left_to_do(whole):
    """A run that is complete says so again and changes nothing."""
    before = (whole / "whole" / "metrics.jsonl").read_text()
    done = run(whole, "whole")
    assert done.returncode == 0 and done.stdout == (whole / "whole.out").read_text()
    assert (whole / "whole" / "metrics.jsonl").read_text() == before

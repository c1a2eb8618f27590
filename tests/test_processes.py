# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Several real processes on loopback = one process: the same batches, losses and checkpoints; they stop together or say why."""
import json
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from jaxlm.checkpoints.manager import Checkpoints
from jaxlm.training import metrics
from tests import tiny
from tests.test_resume import STRIKE_AT
from tests.several import SLOW, STEPS, finish, held_out, losses, rows, run, start, told, wait_for


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run by one process, and the same by two; 8 devices each time."""
    folder = tmp_path_factory.mktemp("processes")
    tiny.write_text(folder / "text")
    run(folder, "one", 1)
    run(folder, "two", 2)
    return folder


def state(folder, name: str, step: int = STEPS) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, as any number of devices reads it."""
    with Checkpoints(folder / name / "checkpoints", writing=False) as kept:
        shapes = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in kept.leaves(step).items()}
        return jax.device_get(kept.read(step, shapes))


def close(found: dict, expected: dict) -> None:
    """The same steps, and figures of each that differ by no more than sums in another order do."""
    assert found.keys() == expected.keys()
    for step, x in expected.items():
        np.testing.assert_allclose(found[step], x, rtol=2e-6, err_msg=str(step))


def figures(folder, name: str) -> dict[int, list[float]]:
    return {step: [row["eval/loss"], row["eval/accuracy"]] for step, row in held_out(folder, name).items()}


def same_end(folder, name: str) -> None:
    """The losses, held-out figures, generated text and every array of the last checkpoint are those of the run by one."""
    close(losses(folder, name), losses(folder, "one"))
    close(figures(folder, name), figures(folder, "one"))
    text = lambda n: (folder / f"{n}.0.out").read_text().partition("a continuation")[2].splitlines()[:3]
    assert text(name) == text("one") and len(text(name)) > 1
    expected, found = state(folder, "one"), state(folder, name)
    assert expected.keys() == found.keys()
    for path, x in expected.items():
        # A softmax takes away again what a bias adds to all keys: its gradient is a sum of nothing but rounding.
        if not path.endswith("k/bias"):
            np.testing.assert_allclose(found[path], x, rtol=0, atol=1e-5 * float(np.abs(x).max()) + 1e-9, err_msg=path)


def same_rows(folder, name: str, count: int) -> None:
    """The same batches in the same order, and no process made ready more than its own rows."""
    assert rows(folder, "one", 1) == rows(folder, name, count)
    for index in range(count):
        batches = [json.loads(line) for line in (folder / f"{name}.{count}.{index}.rows").read_text().splitlines()]
        assert {len(digests) for digests in batches} == {16 // count}


def test_two_processes_are_one(whole):
    """Fails if processes draw other rows (`slice(0, 8)` for every process in place.local_rows), or all the whole batch
    (`slice(0, rows)`)."""
    assert set(losses(whole, "two")) == set(range(1, STEPS + 1)) and set(figures(whole, "two")) == {4, STEPS}
    same_end(whole, "two")
    same_rows(whole, "two", 2)


@pytest.mark.slow
@pytest.mark.parametrize("name,count", [("four", 4), ("eight", 8)])
def test_more_processes_are_one(whole, name, count):
    """As for two; eight have one device each."""
    run(whole, name, count, extra=("--config.train.sample_tokens=4",))
    same_end(whole, name)
    same_rows(whole, name, count)


def test_only_the_first_speaks(whole):
    """Fails if the others print or write too: drop log.silence() or the redirection from processes.initialise."""
    assert "held out" in told(whole, "two") and "a continuation" in told(whole, "two")
    assert (whole / "two.1.out").read_text() == ""
    assert not re.search(r"parameters,|start: |step \d", (whole / "two.1.err").read_text()), told(whole, "two", 1)


def resume(folder, name: str, after: int, steps: int = STEPS, **more) -> None:
    """The run of that folder goes on from its step 2 or 4, with its batches noted anew."""
    run(folder, name, after, steps, **more)
    found, expected = rows(folder, name, after), rows(folder, "one", 1)
    # Of each batch that was drawn: those of the steps and, at 4 and at the end, two of the held-out text.
    of = {step: index + 2 * (step > 4) for index, step in enumerate(range(1, STEPS + 1))}
    began = int(re.search(r"resumed from step (\d)", told(folder, name))[1])
    wanted = expected[of[began + 1]:of[steps] + 1]
    assert found[:len(wanted)] == wanted, (began, steps)


def test_resume_with_another_number_of_processes(whole):
    """Two processes, then one, then four: the same batches in the same order, and the end of a run never interrupted.

    Fails if anything a checkpoint holds depends on the number of processes: save `rng + jax.process_count()` in its state."""
    # The run of two as it was at step 2.
    shutil.copytree(whole / "two", whole / "chain", ignore=shutil.ignore_patterns("4", "6"))
    resume(whole, "chain", 1, steps=4)
    resume(whole, "chain", 4)
    assert "resumed from step 4" in told(whole, "chain")
    same_end(whole, "chain")


def test_resume_on_fewer_devices(whole):
    """8 devices, then 2. Fails as the one above, with `jax.device_count()`."""
    shutil.copytree(whole / "one", whole / "fewer", ignore=shutil.ignore_patterns("4", "6"))
    resume(whole, "fewer", 1, devices=2, extra=("--config.mesh.fsdp=2",))
    assert "resumed from step 2" in told(whole, "fewer")
    close(losses(whole, "fewer"), losses(whole, "one"))
    close(figures(whole, "fewer"), figures(whole, "one"))


def test_sigterm_to_one_stops_all_at_the_same_step(whole):
    """Fails if the others do not hear of it: drop processes.stop_all() from Stop._handle."""
    started = start(whole, "term", 2, steps=400, code=SLOW)
    wait_for(whole / "term.1.err", "at step 3\n")
    started[1].send_signal(signal.SIGTERM)
    codes = finish(started)
    assert codes == [143, 143], told(whole, "term") + told(whole, "term", 1)
    last = [re.findall(r"at step (\d+)", told(whole, "term", i))[-1] for i in (0, 1)]
    assert last[0] == last[1] and int(last[0]) < 100
    assert f"saved after step {last[0]}" in told(whole, "term") and "Run the same command again" in told(whole, "term")
    with Checkpoints(whole / "term" / "checkpoints", writing=False) as kept:
        assert kept.latest() == int(last[0])


@pytest.mark.slow
def test_signals_outside_the_steps(whole):
    """While compiling, one of two; while evaluating, one of two; while sampling, both. The end is that of a run by two, bit for bit.

    Fails if a signal is left to jax there, which keeps it to itself: drop the handler of SIGTERM from Stop."""
    strike = lambda module, name, who, then="pass": STRIKE_AT.format(module=module, name=name, nth=1, signal=15, who=who, then=then)
    second, go_on = "os.environ['ROWS'].endswith('1.rows')", "Run the same command again"
    codes = finish(start(whole, "signals", 2, code=strike("jaxlm.training.step", "compile_step", second), extra=("--heartbeat_seconds=5",)))
    time.sleep(0.5)  # the witness of the other speaks after it is gone
    assert codes[1] == 143 and codes[0] not in (0, None)
    assert "there is no checkpoint yet" in told(whole, "signals", 1) and go_on in told(whole, "signals", 1)
    assert "with the same command: the run goes on from the newest checkpoint" in told(whole, "signals")
    # The notice takes a moment to the other process.
    codes = finish(start(whole, "signals", 2, code=strike("jaxlm.training.evaluate", "_add", second, "__import__('time').sleep(4)")))
    assert codes == [143, 143] and re.search(r"saved after step [45] of 6", told(whole, "signals")), told(whole, "signals")
    codes = finish(start(whole, "signals", 2, code=strike("jaxlm.generate.text", "generate", "True")))
    assert codes == [143, 143]
    assert all("the newest checkpoint is of step 6" in told(whole, "signals", i) and go_on in told(whole, "signals", i) for i in (0, 1))
    run(whole, "signals", 2)
    assert losses(whole, "signals") == losses(whole, "two") and figures(whole, "signals") == figures(whole, "two")
    expected, found = state(whole, "two"), state(whole, "signals")
    assert all(np.array_equal(found[path], x) for path, x in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_peer_is_noticed(whole, victim):
    """Fails if a process hangs or aborts without a word: drop the _Witness of the run from processes.initialise."""
    name = f"kill{victim}"
    started = start(whole, name, 2, steps=400, code=SLOW, extra=("--heartbeat_seconds=5",))
    wait_for(whole / f"{name}.1.err", "at step 4\n")
    started[victim].kill()
    # The heartbeat that nobody asked for is 20 s.
    assert started[1 - victim].wait(60) != 0
    time.sleep(0.5)  # the witness speaks after the process is gone
    survivor = told(whole, name, 1 - victim)
    assert "with the same command: the run goes on from the newest checkpoint" in survivor, survivor[-3000:]
    finish(started)


@pytest.mark.slow
def test_an_error_of_one_process_ends_all(whole):
    """Fails if the one that failed waits at its exit for the others: `sys.exit(code)` in processes.leave."""
    code = SLOW + "def fail(self, step, values):\n    if step == 3 and int(os.environ['ROWS'].split('.')[-2]): raise ValueError('no reason')\n" \
                  "    return slow(self, step, values)\nmetrics.Metrics.write = fail\n"
    codes = finish(start(whole, "fails", 2, steps=400, code=code, extra=("--heartbeat_seconds=5",)))
    assert all(codes), codes
    assert "no reason" in told(whole, "fails", 1) and "the run goes on from the newest checkpoint" in told(whole, "fails", 0)


def test_evaluation_by_two(whole):
    """Fails if each counts its own rows only, or standard output holds more than the result: drop os.dup2 from initialise."""
    (whole / "evaluated").symlink_to(whole / "two")
    run(whole, "evaluated", 2, command="evaluate")
    result = json.loads((whole / "evaluated.0.out").read_text())
    last = [row for row in metrics.read(whole / "one" / "metrics.jsonl") if "eval/loss" in row][-1]
    assert abs(result["eval/loss"] - last["eval/loss"]) <= 1e-6 * last["eval/loss"]


def test_other_settings_are_refused(whole):
    """Fails if processes with other settings train on, or hang: drop processes.agree("the config", ...) from cli/train.py."""
    differ = "import os, sys\nif os.environ['ROWS'].endswith('1.rows'): sys.argv.append('--config.seed=5')\n"
    codes = finish(start(whole, "differ", 2, code=differ, extra=("--heartbeat_seconds=5",)))
    assert all(codes) and "the config is not the same on process 1" in told(whole, "differ", 1)

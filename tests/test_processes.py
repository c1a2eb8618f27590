# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Several real processes on loopback = one process: the same batches, losses and checkpoints; they stop together or say why."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from jaxlm.checkpoints.manager import Checkpoints
from jaxlm.core.errors import UserError
from jaxlm.parallel import processes
from jaxlm.training import metrics
from tests import tiny

STEPS = 4
# Notes every row that goes to the devices under its number in the global batch.
RECORD = """
import hashlib, json, os, time
from jaxlm.parallel import place
put = place.put
def record(batch, layout, rows):
    first = place.local_rows(layout, rows).start
    digests = {first + i: hashlib.sha256(b''.join(batch[k][i].tobytes() for k in sorted(batch))).hexdigest()
               for i in range(len(batch['tokens']))}
    with open(os.environ['ROWS'], 'a') as file:
        file.write(json.dumps(digests) + chr(10))
    return put(batch, layout, rows)
place.put = record
"""
# Slow steps, so that a signal from outside falls between two of them; each is noted when it has been dispatched.
SLOW = """
import time
from jaxlm.training import loop
after = loop.Stop.after
def slow(self, step):
    print('at step', step, file=__import__('sys').stderr, flush=True)
    time.sleep(0.2)
    return after(self, step)
loop.Stop.after = slow
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def arguments(folder, name: str, steps: int) -> list[str]:
    return ["--config=configs/gpt_tiny.py:tokenizer=byte", f"--workdir={folder / name}", f"--config.source.path={folder / 'text'}",
            "--config.source.include=('*.txt',)", "--config.data.seq_len=32", "--config.data.holdout=0.2", "--config.model.layers=1",
            "--config.model.embed=32", "--config.model.residual_dropout=0.1", f"--config.train.steps={steps}", "--config.train.batch_size=16",
            "--config.train.log_every=1", f"--config.train.sample_tokens={4 if name == 'two' else 0}", "--config.train.baseline=", "--config.train.picture=false", "--config.train.tensorboard=false",
            "--config.schedule.warmup=1", "--config.schedule.total=4", "--config.eval.every=0", "--config.eval.batches=2",
            "--config.checkpoints.every=2", "--config.rules=fsdp", "--config.mesh.fsdp=4"]


def start(folder, name: str, count: int, steps: int = STEPS, code: str = "", command: str = "train", extra: tuple = ()) -> list[subprocess.Popen]:
    """`count` processes of one run, of 8 devices together."""
    program = f"{RECORD}{code}\nimport runpy; runpy.run_module('jaxlm.cli.{command}', run_name='__main__')"
    words = arguments(folder, name, steps) if command == "train" else [f"--workdir={folder / name}"]
    port, out = free_port(), []
    for index in range(count):
        several = [f"--coordinator=127.0.0.1:{port}", f"--process_count={count}", f"--process_id={index}", "--join_seconds=90"]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(8 // count),
                       "ROWS": str(folder / f"{name}.{count}.{index}.rows")}
        # To files: a full pipe that nobody reads would stop a process, and with it all others.
        with open(folder / f"{name}.{index}.out", "w") as stdout, open(folder / f"{name}.{index}.err", "w") as stderr:
            out.append(subprocess.Popen([sys.executable, "-c", program, *words, *(several if count > 1 else []), *extra],
                                        stdout=stdout, stderr=stderr, env=environment, cwd=tiny.ROOT))
    return out


def finish(started: list[subprocess.Popen], timeout: float = 150) -> list[int]:
    end = time.monotonic() + timeout
    try:
        return [p.wait(max(end - time.monotonic(), 0.1)) for p in started]
    finally:
        for p in started:
            if p.poll() is None:
                p.kill()
                p.wait()


def told(folder, name: str, index: int = 0) -> str:
    return (folder / f"{name}.{index}.out").read_text() + (folder / f"{name}.{index}.err").read_text()


def run(folder, name: str, count: int, steps: int = STEPS, **more) -> None:
    codes = finish(start(folder, name, count, steps, **more))
    assert codes == [0] * count, "\n".join(told(folder, name, i)[-3000:] for i in range(count))


def losses(folder, name: str) -> dict[int, float]:
    rows = [row for row in metrics.read(folder / name / "metrics.jsonl") if "train/loss" in row]
    assert len(rows) == len({row["step"] for row in rows}), "a step was recorded twice"
    return {row["step"]: row["train/loss"] for row in rows}


def rows(folder, name: str, count: int) -> list[dict[str, str]]:
    """{row: digest} of every batch, joined over the processes."""
    each = [[json.loads(line) for line in (folder / f"{name}.{count}.{i}.rows").read_text().splitlines()] for i in range(count)]
    assert len({len(batches) for batches in each}) == 1
    return [{row: digest for part in parts for row, digest in part.items()} for parts in zip(*each)]


def wait_for(path, text: str, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while text not in path.read_text():
        assert time.monotonic() < end, path.read_text()[-3000:]
        time.sleep(0.1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run by one process, and the same by two."""
    folder = tmp_path_factory.mktemp("processes")
    tiny.write_text(folder / "text")
    run(folder, "one", 1)
    run(folder, "two", 2)
    return folder


def test_two_processes_are_one(whole):
    """Fails if processes draw other rows (`slice(0, 8)` for every process in place.local_rows)."""
    one, two = losses(whole, "one"), losses(whole, "two")
    assert set(one) == set(two) == set(range(1, STEPS + 1))
    assert all(abs(one[s] - two[s]) <= 1e-6 * one[s] for s in one), (one, two)
    assert rows(whole, "one", 1) == rows(whole, "two", 2)
    # The work was split: no process made ready the whole batch.
    assert all(len(json.loads(line)) == 8 for line in (whole / "two.2.1.rows").read_text().splitlines())


def test_only_the_first_speaks(whole):
    """Fails if the others print or write too: drop log.silence() or the redirection from processes.initialise."""
    assert "held out" in told(whole, "two") and "a continuation" in told(whole, "two")
    assert (whole / "two.1.out").read_text() == ""
    assert not re.search(r"parameters,|start: |step \d", (whole / "two.1.err").read_text()), told(whole, "two", 1)


@pytest.mark.parametrize("before,after", [(2, 1), (1, 2)])
def test_resume_with_another_number_of_processes(whole, before, after):
    """Fails if anything a checkpoint holds depends on the number of processes: save `rng + jax.process_count()` in its state."""
    name = f"{before}to{after}"
    # The run of `before` processes as it was at step 2.
    shutil.copytree(whole / {1: "one", 2: "two"}[before], whole / name, ignore=shutil.ignore_patterns("4"))
    run(whole, name, after)
    assert "resumed from step 2" in told(whole, name)
    expected, found = losses(whole, "one"), losses(whole, name)
    assert expected.keys() == found.keys()
    assert all(abs(expected[s] - found[s]) <= 1e-6 * expected[s] for s in expected), (expected, found)


def test_sigterm_to_one_stops_all_at_the_same_step(whole):
    """Fails if the others do not hear of it: `return bool(self.signal)` without asking the others in loop.Stop.after."""
    started = start(whole, "term", 2, steps=400, code=SLOW)
    wait_for(whole / "term.1.err", "at step 3\n")
    started[1].send_signal(signal.SIGTERM)
    codes = finish(started, 60)
    assert codes == [143, 143], told(whole, "term") + told(whole, "term", 1)
    last = [re.findall(r"at step (\d+)", told(whole, "term", i))[-1] for i in (0, 1)]
    assert last[0] == last[1] and int(last[0]) < 100
    assert f"saved after step {last[0]}" in told(whole, "term") and "Run the same command again" in told(whole, "term")
    with Checkpoints(whole / "term" / "checkpoints", writing=False) as kept:
        assert kept.latest() == int(last[0])


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_peer_is_noticed(whole, victim):
    """Fails if a process hangs or aborts without a word: drop the _Witness of the run from processes.initialise."""
    name = f"kill{victim}"
    started = start(whole, name, 2, steps=400, code=SLOW, extra=("--heartbeat_seconds=5",))
    wait_for(whole / f"{name}.1.err", "at step 4\n")
    began = time.monotonic()
    started[victim].kill()
    code = started[1 - victim].wait(20)
    assert code != 0 and time.monotonic() - began < 15
    time.sleep(0.5)  # the witness speaks after the process is gone
    survivor = told(whole, name, 1 - victim)
    assert "with the same command: the run goes on from the newest checkpoint" in survivor, survivor[-3000:]
    finish(started)


@pytest.mark.slow
def test_an_error_of_one_process_ends_all(whole):
    """Fails if the one that failed waits at its exit for the others: `sys.exit(code)` in processes.leave."""
    code = SLOW + "def fail(self, step):\n    if step == 3 and int(os.environ['ROWS'].split('.')[-2]): raise OSError('disk full')\n" \
                  "    return slow(self, step)\nloop.Stop.after = fail\n"
    codes = finish(start(whole, "fails", 2, steps=400, code=code, extra=("--heartbeat_seconds=5",)), 60)
    assert all(codes), codes
    assert "disk full" in told(whole, "fails", 1) and "the run goes on from the newest checkpoint" in told(whole, "fails", 0)


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
    codes = finish(start(whole, "differ", 2, code=differ, extra=("--heartbeat_seconds=5",)), 60)
    assert all(codes) and "the config is not the same on process 1" in told(whole, "differ", 1)


JOIN = """
import sys
from jaxlm.core.errors import UserError
from jaxlm.parallel import processes
try:
    processes.initialise(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), join_seconds=int(sys.argv[4]))
except UserError as error:
    print('error:', error, file=sys.stderr)
    processes.leave(2)
"""


def join(*each: tuple) -> list[tuple[int, str]]:
    started = [subprocess.Popen([sys.executable, "-c", JOIN, *map(str, one)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                                cwd=tiny.ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}) for one in each]
    return [(p.returncode, text) for p in started for text in [p.communicate(timeout=60)[1]]]


def test_nobody_there():
    """Fails if a wrong address ends in an abort or a long wait: drop _reach from processes.initialise."""
    [(code, text)] = join((f"127.0.0.1:{free_port()}", 2, 1, 3))
    assert code == 2 and "no process answers at --coordinator" in text and "Traceback" not in text


def test_others_do_not_come():
    """Fails if process 0 waits for ever or aborts wordlessly: drop alarm.start() from processes.initialise."""
    [(code, text)] = join((f"127.0.0.1:{free_port()}", 2, 0, 4))
    assert code == 2 and "not all had come" in text and "Check failure" not in text


@pytest.mark.parametrize("counts", [((2, 0), (3, 1)), ((2, 0), (3, 2))], ids=["same-number", "one-too-many"])
def test_counts_disagree(counts):
    """Fails if processes with other counts go on, to hang later: drop _check_count, or the first _Witness."""
    address = f"127.0.0.1:{free_port()}"
    done = join(*((address, count, index, 8) for count, index in counts))
    assert all(code for code, _ in done)
    assert all("--process_count" in text for _, text in done), done


@pytest.mark.parametrize("given,environment,expected", [
    (("", 0, -1), {}, ("", 0, -1)),
    (("", 0, -1), {"JAXLM_COORDINATOR": "a:1", "JAXLM_PROCESS_COUNT": "4", "JAXLM_PROCESS_ID": "3"}, ("a:1", 4, 3)),
    (("b:2", 0, 0), {"JAXLM_PROCESS_COUNT": "4", "JAXLM_PROCESS_ID": "3"}, ("b:2", 4, 0)),
    (("", 0, -1), {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, ("auto", 0, -1)),
    (("", 0, -1), {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2"}, ("", 0, -1)),  # inside an allocation, without srun
    (("", 0, -1), {"TPU_WORKER_HOSTNAMES": "a,b"}, ("auto", 0, -1)),
    (("", 0, -1), {"TPU_WORKER_HOSTNAMES": "localhost"}, ("", 0, -1)),
])
def test_where_the_others_are(given, environment, expected):
    """Fails if flags do not come before the environment: swap the operands of `or` in processes._address."""
    assert processes._address(*given, environment) == expected


@pytest.mark.parametrize("given,word", [(("a:1", 2, -1), "process_id missing"), (("a:1", 2, 2), "from 0 to 1"), (("a", 2, 0), "host:port")])
def test_incomplete_addresses(given, word):
    with pytest.raises(UserError, match=word):
        processes._address(*given, {})


@pytest.mark.parametrize("environment,cards,expected", [
    ({}, 8, None),
    ({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_NODEID": "1", "SLURM_LOCALID": "0"}, 8, list(range(8))),
    ({"SLURM_STEP_NODELIST": "n1", "SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_LOCALID": "3"}, 8, [3]),
    ({"SLURM_STEP_NODELIST": "n1", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_LOCALID": "1"}, 8, [4, 5, 6, 7]),
    ({"SLURM_STEP_NODELIST": "n1", "SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_LOCALID": "3", "CUDA_VISIBLE_DEVICES": "3", "SLURM_GPUS_ON_NODE": "8"}, 8, [0]),
    ({"SLURM_STEP_NODELIST": "n1", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_LOCALID": "1"}, 0, None),
])
def test_all_gpus_of_a_slurm_task(environment, cards, expected):
    """Fails if one task for a node takes one GPU of eight: `return [local]` where tasks == 1 in processes.slurm_devices."""
    assert processes.slurm_devices(environment, cards) == expected

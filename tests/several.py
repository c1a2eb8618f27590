# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Runs of several real processes on loopback, and what they leave behind.

Limits of time are there to end what hangs: many times what an idle machine takes, for the tests of a busy one.
"""
import json
import os
import random
import socket
import subprocess
import sys
import time

from jaxlm.training import metrics
from tests import tiny

STEPS = 6
SAMPLED = ("one", "two", "chain", "signals")  # runs that generate at their end
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
# Slow steps, so that a signal from outside falls between two of them; each is noted when its figures are written.
SLOW = """
import sys, time
from jaxlm.training import metrics
write = metrics.Metrics.write
def slow(self, step, values):
    if 'train/loss' in values:
        print('at step', step, file=sys.stderr, flush=True)
        time.sleep(0.2)
    write(self, step, values)
metrics.Metrics.write = slow
"""


_claims: list[socket.socket] = []


def free_port() -> int:
    """A port that nobody listens on, and that no other process of tests is given while this one lives.

    It is below those that a system hands out by itself, and claimed by the socket of another protocol under the same number.
    """
    for port in random.sample(range(20000, 32000), 1000):
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", port))
            with socket.socket() as s:
                s.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port
    raise RuntimeError("no free port among a thousand")


def arguments(folder, name: str, steps: int) -> list[str]:
    return ["--config=configs/gpt_tiny.py:tokenizer=byte", f"--workdir={folder / name}", f"--config.source.path={folder / 'text'}",
            "--config.source.include=('*.txt',)", "--config.data.seq_len=32", "--config.data.holdout=0.2", "--config.model.layers=1",
            "--config.model.embed=32", "--config.model.residual_dropout=0.1", f"--config.train.steps={steps}", "--config.train.batch_size=16",
            "--config.train.log_every=1", f"--config.train.sample_tokens={4 if name in SAMPLED else 0}", "--config.train.baseline=", "--config.train.picture=false",
            "--config.train.tensorboard=false", "--config.schedule.warmup=1", "--config.schedule.total=4", "--config.eval.every=4", "--config.eval.batches=2",
            "--config.checkpoints.every=2", "--config.checkpoints.latest=3", "--config.rules=fsdp", "--config.mesh.fsdp=4"]


def start(folder, name: str, count: int, steps: int = STEPS, code: str = "", command: str = "train", extra: tuple = (),
          devices: int = 8, words: tuple = ()) -> list[subprocess.Popen]:
    """`count` processes of one run, of so many devices together; words: another command line than that of the small GPT."""
    program = f"{RECORD}{code}\nimport runpy; runpy.run_module('jaxlm.cli.{command}', run_name='__main__')"
    words = words or (arguments(folder, name, steps) if command == "train" else [f"--workdir={folder / name}"])
    port, out = free_port(), []
    for index in range(count):
        several = [f"--coordinator=127.0.0.1:{port}", f"--process_count={count}", f"--process_id={index}", "--join_seconds=300"]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices // count),
                       "ROWS": str(folder / f"{name}.{count}.{index}.rows")}
        # To files: a full pipe that nobody reads would stop a process, and with it all others.
        with open(folder / f"{name}.{index}.out", "w") as stdout, open(folder / f"{name}.{index}.err", "w") as stderr:
            out.append(subprocess.Popen([sys.executable, "-c", program, *words, *(several if count > 1 else []), *extra],
                                        stdout=stdout, stderr=stderr, env=environment, cwd=tiny.ROOT))
    return out


def finish(started: list[subprocess.Popen], timeout: float = 900) -> list[int]:
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


def held_out(folder, name: str) -> dict[int, dict[str, float]]:
    """Held-out figures by step."""
    return {row["step"]: row for row in metrics.read(folder / name / "metrics.jsonl") if "eval/loss" in row}


def rows(folder, name: str, count: int) -> list[dict[str, str]]:
    """{row: digest} of every batch, joined over the processes."""
    each = [[json.loads(line) for line in (folder / f"{name}.{count}.{i}.rows").read_text().splitlines()] for i in range(count)]
    assert len({len(batches) for batches in each}) == 1
    return [{row: digest for part in parts for row, digest in part.items()} for parts in zip(*each)]


def wait_for(path, text: str, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while text not in path.read_text():
        assert time.monotonic() < end, path.read_text()[-3000:]
        time.sleep(0.1)

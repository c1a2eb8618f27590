# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Real runs that are killed at chosen moments, watched from outside by what they say and what lies on the disk."""
import os
import pathlib
import subprocess
import sys
import time

from jaxlm.training import metrics
from tests import tiny


class Run:
    """One start of the command, watched from outside: by what it says and by what lies on the disk."""

    def __init__(self, workdir: pathlib.Path, steps: int, words: list[str], number: int = 0, **env: str):
        self.workdir, self.log, self.steps = workdir, workdir.parent / f"{workdir.name}.{number}.log", steps
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "jaxlm.cli.train", *words], stdout=log, stderr=log, cwd=tiny.ROOT,
                                            env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", **env})
        self.began = time.monotonic()

    def rows(self) -> list[dict]:
        path = self.workdir / "metrics.jsonl"
        return metrics.read(path) if path.exists() else []

    def checkpoints(self) -> list[int]:
        return sorted(int(p.name) for p in (self.workdir / "checkpoints").glob("*") if p.name.isdigit())

    def saving(self) -> bool:
        return any((self.workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))

    def resumed(self) -> int:
        """The step that this start went on from; -1 while it has not said so."""
        line = next((line for line in self.log.read_text().splitlines() if line.startswith("start: ")), "")
        return -1 if not line else int(line.split("resumed from step ")[1].split()[0]) if "resumed" in line else 0

    def phase(self) -> str:
        """What it was doing when it was killed."""
        resumed, done = self.resumed(), max((row["step"] for row in self.rows() if "train/loss" in row), default=0)
        if resumed < 0:
            return "restoring" if "parameters," in self.log.read_text() else "starting"
        if self.steps in self.checkpoints():
            return "ending"
        if done <= resumed:
            return "compiling"
        return "saving" if self.saving() else "training"

    def until(self, what: str, seconds: float) -> None:
        """So many seconds after `what` has come about, or when the process is gone."""
        met = {"start": lambda: True, "begun": lambda: self.resumed() >= 0, "save": lambda: self.resumed() >= 0 and self.saving(),
               "step": lambda: 0 <= self.resumed() < max(self.checkpoints(), default=0),
               "last": lambda: self.resumed() >= 0 and self.steps in self.checkpoints()}[what]
        while self.process.poll() is None and not met() and time.monotonic() < self.began + 200:
            time.sleep(0.002)
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.002)


def kill_until_done(workdir: pathlib.Path, steps: int, words: list[str], moments: list[tuple[str, float]], **env: str) -> list[str]:
    """Kills a start of `train WORDS` at each moment (what to wait for, seconds after it), then lets one end.

    Each must go on from the newest checkpoint that the one before has left. Returns a line for each kill.
    """
    table, newest = [], 0
    for number, (what, seconds) in enumerate(moments):
        run = Run(workdir, steps, words, number, **env)
        run.until(what, seconds)
        moment, code = time.monotonic() - run.began, run.process.poll()
        assert code in (None, 0), run.log.read_text()[-3000:]
        run.process.kill()
        run.process.wait()
        assert run.resumed() in (-1, newest), (newest, run.log.read_text()[-3000:])
        went_on, newest = run.resumed(), max(run.checkpoints(), default=0)
        table.append(f"{number + 1:3} {moment:7.2f} s  {run.phase() if code is None else 'over':10} resumed {went_on:3}, left {newest:3}")
    run = Run(workdir, steps, words, len(moments), **env)
    assert run.process.wait(300) == 0 and run.resumed() == newest, run.log.read_text()[-3000:]
    return table

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The clock that every contender's own loop ticks after each step: it times, notes who else used the machine, and lets others run.

Between rounds `tick` does not return until the runner says so; that is how contenders interleave while each keeps its
compiled program. The runner reads one JSON line a phase from a pipe of its own, so that nothing printed disturbs it.
"""
import json
import os
import pathlib
import resource
import time
from collections.abc import Callable
from typing import Any, TextIO

# Steps are judged in stretches at least so long: the system counts its time in hundredths of a second.
STRETCH = 0.5
# A stretch in which other processes used more than this share of a core is not counted.
NOISE = 0.10


class Done(BaseException):
    """The runner has seen enough. Not an Exception, so that no framework catches it on the way."""


class Absent(Exception):
    """This contender cannot run here: what is missing."""


class Clock:
    """phases: for each (steps that are not timed, steps that are, seconds); without a number of steps they go on until the
    seconds are over, 3 at least. The first phase is the one whose losses are compared."""

    def __init__(self, phases: list[tuple[int, int, float]], began: float, report: TextIO, commands: TextIO):
        self.phases, self.began, self._report, self._commands = phases, began, report, commands
        self.notes: dict[str, Any] = {}
        self.device_peak: Callable[[], int | None] = lambda: None
        self._phase, self._marks, self._losses = 0, [_mark()], []
        self._first: float | None = None

    def note(self, **values: Any) -> None:
        """Figures that are not a step's; they are sent at the end."""
        self.notes.update(values)

    def tick(self, loss: float = float("nan")) -> None:
        """A step is complete, and this was its loss."""
        self._marks.append(_mark())
        self._losses.append(float(loss))
        if self._first is None:
            self._first = time.time() - self.began
        warm, timed, limit = self.phases[self._phase]
        done = len(self._losses) - warm
        if done < (timed or 3) or not timed and self._marks[-1][0] - self._marks[warm][0] < limit:
            return
        seconds, quiet, own = judge(self._marks[warm:])
        rest()
        self.send({"phase": self._phase, "first": self._first, "losses": self._losses if not self._phase else [],
                   "seconds": [float(f"{s:.5g}") for s in seconds], "quiet": quiet, "cpu_seconds": round(own, 4),
                   "peak_bytes": peak_bytes(), "device_peak_bytes": self.device_peak()})
        self._phase += 1
        if self._phase == len(self.phases) or not self.wait():
            raise Done
        if self._phase == 1:
            forget_peak()
        self._marks, self._losses = [_mark()], []

    def wait(self) -> bool:
        """Until the runner lets this contender go on; False when it is to end."""
        return self._commands.readline().strip() == "go"

    def send(self, message: dict[str, Any]) -> None:
        self._report.write(json.dumps(message) + "\n")
        self._report.flush()


def judge(marks: list[tuple[float, float, float]]) -> tuple[list[float], list[bool], float]:
    """Seconds of each step between marks, whether each lay in a quiet stretch, and the process's own CPU seconds."""
    seconds = [b[0] - a[0] for a, b in zip(marks, marks[1:])]
    quiet, begin = [], 0
    for end in range(1, len(marks)):
        length = marks[end][0] - marks[begin][0]
        if length >= STRETCH or end == len(marks) - 1:
            others = (marks[end][1] - marks[begin][1]) - (marks[end][2] - marks[begin][2])
            # Two ticks of the system's clock are what its count may be off by.
            quiet += [others <= NOISE * length + 0.02] * (end - begin)
            begin = end
    return seconds, quiet, marks[-1][2] - marks[0][2]


def rest(most: float = 60.0) -> None:
    """Until this process uses no CPU: a step that has been dispatched already would run into the next contender's time."""
    end = time.monotonic() + most
    while time.monotonic() < end:
        before = _mark()[2]
        time.sleep(0.05)
        if _mark()[2] - before < 0.005:
            return


def _mark() -> tuple[float, float, float]:
    """(now, seconds that all cores have been busy, seconds that this process has used)."""
    own = sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
    return time.perf_counter(), _busy(), own


def _busy() -> float:
    try:
        with open("/proc/stat") as file:
            user, nice, system, _idle, _wait, irq, soft, steal = (int(x) for x in file.readline().split()[1:9])
    except OSError:  # no such file on this system: nothing is judged noisy
        return 0.0
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def peak_bytes(field: str = "VmHWM") -> int:
    """Most memory this process has had resident since `forget_peak`; with "VmRSS" what it has now."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith(field))


def forget_peak() -> None:
    """Reading weights may have taken more than training does: the peak counts from here."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # not allowed here: the peak is then that of the whole process

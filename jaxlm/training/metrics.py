# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Where numbers go: WORKDIR/metrics.jsonl always, TensorBoard event files beside it, and a picture of the loss."""
import contextlib
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from jaxlm.core import files
from jaxlm.core.errors import UserError
from jaxlm.core.types import Mean
from jaxlm.training import events

_COMPARED = ("train/loss", "train/grad_norm")


class Metrics:
    """Appends {"step": n, name: number, ...}; opened at step n it first drops what an interrupted run wrote after n.

    held_out: the evaluation of step n that is recorded already, {} when there is none. UserError when the files cannot be
    written; what was written before stays.
    """

    def __init__(self, workdir: pathlib.Path, step: int = 0, tensorboard: bool = True, writing: bool = True):
        """With writing=False (all processes but the first) nothing is read or written."""
        self._writing, self._board = writing, None
        self.held_out: dict[str, float] = {}
        self.path = workdir / "metrics.jsonl"
        if not writing:
            return
        with self._told():
            if self.path.exists():
                kept = [row for row in read(self.path) if row["step"] <= step]
                files.write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in kept))
                last = next((row for row in reversed(kept) if row["step"] == step and "eval/loss" in row), {"step": step})
                self.held_out = {name: float(x) for name, x in last.items() if name != "step"}
            self._file = open(self.path, "a", buffering=1)
            self._board = events.Events(workdir / "tensorboard", step + 1) if tensorboard else None

    def write(self, step: int, values: dict[str, Any]) -> None:
        if not self._writing:
            return
        values = {name: float(x) for name, x in values.items()}
        with self._told():
            self._file.write(json.dumps({"step": step, **named(values)}) + "\n")
            if self._board is not None:
                self._board.write(step, values)

    def sync(self) -> None:
        """Until the rows are on the disk: a checkpoint must not survive a power cut that they do not."""
        if self._writing:
            with self._told():
                os.fsync(self._file.fileno())

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"the figures of this run could not be written to {self.path.parent}: {error.strerror or error}. "
                            "Checkpoints before this are intact") from error

    def close(self) -> None:
        if self._writing:
            with contextlib.suppress(OSError):  # every line has been written, or been told of
                self._file.close()
            if self._board is not None:
                self._board.close()

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


def figures(means: dict[str, Mean], last: dict[str, Any]) -> dict[str, float]:
    """Means and a step's gradient norm and learning rate (on the host) as numbers: what rows and flight records hold."""
    out = {name: float(mean.total) / max(float(mean.weight), 1e-9) for name, mean in means.items()}
    return {**out, "grad_norm": float(last["grad_norm"]), "lr": float(last["lr"])}


def named(value: Any) -> Any:
    """JSON has no NaN: a number that is not finite is written as its name, and stays readable everywhere."""
    if isinstance(value, dict):
        return {k: named(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [named(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """All rows; a last line cut short by a crash is left out, any other bad line is an error."""
    rows = []
    lines = path.read_text().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise UserError(f"{path}:{number} is not JSON ({error}): mend or remove that line") from error
        if not (isinstance(row, dict) and isinstance(row.get("step"), int)):
            raise UserError(f"{path}:{number} is no row with a step: mend or remove that line")
        rows.append(row)
    return rows


def compare(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> tuple[str, bool]:
    """Rows of two runs, step by step: (what to say, whether all losses and gradient norms are the same bits)."""
    lines, largest = [], (0.0, 0)
    for a, b in zip(first, second):
        different = [name for name in _COMPARED if str(a[name]) != str(b[name])]  # a NaN is its name, and equals itself
        if different and not lines:
            lines = [f"step {a['step']} is the first that differs:", *(f"  {n:15} {a[n]!r} and {b[n]!r}" for n in different)]
        x, y = float(a["train/loss"]), float(b["train/loss"])
        largest = max(largest, (abs(x - y) / max(abs(x), abs(y), 1e-30), a["step"]))
    steps = min(len(first), len(second))
    if not lines:
        if len(first) != len(second):
            return f"the losses of {steps} steps are equal, but one run made {len(first)} and the other {len(second)}", False
        return f"the losses and gradient norms of {steps} steps are equal, bit for bit", True
    return "\n".join([*lines, f"largest relative difference of the loss in {steps} steps: {largest[0]:.3g} (step {largest[1]})"]), False

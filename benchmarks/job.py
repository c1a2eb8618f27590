# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What a contender is asked to do, as the JSON that its process is started with; and that process."""
import dataclasses
import importlib
import json
import os
import pathlib
import sys
import time
import traceback
from typing import Any

from benchmarks import contenders, machine
from benchmarks.clock import Absent, Clock, Done, peak_bytes
from benchmarks.shapes import Shape
from jaxlm.core import allocator


@dataclasses.dataclass(frozen=True)
class Job:
    """kind names the function of the contender's module that does it."""

    kind: str  # train, decode, limits, checkpoint, input, ...
    contender: str
    shape: Shape
    dtype: str  # of products: float32 or bfloat16; weights and optimizer state are float32
    platform: str  # cpu or gpu
    phases: list[tuple[int, int, float]]
    folder: str  # of weights.safetensors and tokens.npy; weights may be absent, and are then drawn by the contender
    scratch: str  # a folder of its own
    began: float  # time.time() when the process was started
    lr: float = 1e-3
    weight_decay: float = 0.1
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    clip: float = 1.0
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the suite

    @property
    def path(self) -> pathlib.Path:
        return pathlib.Path(self.folder)

    @property
    def option(self) -> dict[str, Any]:
        """The contender's own settings and, over them, the suite's."""
        return {**contenders.find(self.contender).options, **self.options}

    @property
    def has_weights(self) -> bool:
        return (self.path / "weights.safetensors").exists()


def read(path: str) -> Job:
    fields = json.loads(pathlib.Path(path).read_text())
    return Job(**{**fields, "shape": Shape(**fields["shape"])})


def main(path: str, report: int) -> None:
    """The contender's process: does the job of that file and reports to the file descriptor."""
    job = read(path)
    with os.fdopen(report, "w") as pipe:
        clock = Clock(job.phases, job.began, pipe, sys.stdin)
        if job.kind == "train" and job.platform == "cpu" and job.contender in ("bare", "jaxlm", "jaxlm_step"):
            clock.note(keeps_memory=allocator.keep_memory())  # as `jaxlm train` does; the limit has what it has
        try:
            module = importlib.import_module(contenders.find(job.contender).module)
            clock.note(import_seconds=round(time.time() - job.began, 3), import_bytes=peak_bytes("VmRSS"))
            # How it asks its devices for their peak, where they have memory of their own.
            clock.device_peak = getattr(module, "device_peak", clock.device_peak)
            if not hasattr(module, job.kind):
                raise Absent(f"has no '{job.kind}'")
            getattr(module, job.kind)(job, clock)
        except Done:
            pass
        except (Absent, ImportError) as error:
            clock.send({"absent": str(error)})
        except Exception as error:  # noqa: BLE001 - one contender's failure is a row, and the suite goes on
            traceback.print_exc()
            clock.send({"failed": f"{type(error).__name__}: {error}"[:600]})
        clock.send({"end": True, "notes": clock.notes, "versions": machine.versions()})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

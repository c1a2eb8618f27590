# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""torch.save and torch.load of a model and its optimizer's state: the whole save stands in the way of training."""
import pathlib
import time

import torch

from benchmarks.clock import Clock
from benchmarks.contenders import torch_minimal
from benchmarks.job import Job


def checkpoint(job: Job, clock: Clock) -> None:
    device = torch_minimal.device_of(job)
    model = torch_minimal.build(job)
    adamw = torch_minimal.optimizer(model, job)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    adamw.step()  # makes the moments
    adamw.zero_grad(set_to_none=True)
    path = pathlib.Path(job.scratch) / "state.pt"
    figures: dict[str, list[float]] = {"blocking": [], "complete": [], "restore": []}
    while True:
        begin = time.perf_counter()
        torch.save({"model": model.state_dict(), "optimizer": adamw.state_dict()}, path)
        figures["blocking"].append(round(time.perf_counter() - begin, 4))
        figures["complete"].append(figures["blocking"][-1])
        begin = time.perf_counter()
        found = torch.load(path, map_location=device)
        model.load_state_dict(found["model"])
        adamw.load_state_dict(found["optimizer"])
        figures["restore"].append(round(time.perf_counter() - begin, 4))
        clock.note(bytes=path.stat().st_size, **figures)
        clock.tick(0.0)

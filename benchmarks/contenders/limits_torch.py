# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What the machine can do, through torch: matrix products, a copy and a read."""
import time

import torch

from benchmarks.clock import Clock
from benchmarks.contenders import torch_minimal
from benchmarks.job import Job

SIDE, BYTES = {"cpu": 2048, "gpu": 8192}, {"cpu": 1 << 29, "gpu": 1 << 33}


def limits(job: Job, clock: Clock) -> None:
    device = torch_minimal.device_of(job)
    side, count = job.option.get("side") or SIDE[job.platform], (job.option.get("bytes") or BYTES[job.platform]) // 4
    repeat = 1 if device == "cpu" else 20
    for name in ("float32", "bfloat16"):
        x, y = (torch.randn(side, side, device=device, dtype=getattr(torch, name)) for _ in range(2))
        clock.note(**{f"matmul_{name}": 2 * side**3 * repeat / best(lambda: x @ y, repeat, device)})
    flat = torch.randn(count, device=device)
    into = torch.empty_like(flat)
    clock.note(copy_bytes_per_second=8 * count * repeat / best(lambda: into.copy_(flat), repeat, device),
               read_bytes_per_second=4 * count * repeat / best(lambda: flat.sum(), repeat, device))
    clock.tick(0.0)


def best(run, repeat: int, device: str, times: int = 8, enough: float = 8.0) -> float:
    """Seconds of the fastest of `times` runs of `repeat` calls; no further one after `enough` seconds (torch's bfloat16 takes a minute
    where the CPU has none)."""
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        for _ in range(repeat):
            run()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begin)
        if sum(found) > enough:
            break
    return min(found)

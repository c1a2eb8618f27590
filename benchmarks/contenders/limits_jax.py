# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What the machine can do, through jax: matrix products, a copy and a read. Random data, as zeros are faster on some devices."""
import time

import jax
import jax.numpy as jnp

from benchmarks.clock import Clock
from benchmarks.job import Job

# Side of the square product; bytes of the array that is copied and read.
SIDE, BYTES = {"cpu": 2048, "gpu": 8192}, {"cpu": 1 << 29, "gpu": 1 << 33}


def limits(job: Job, clock: Clock) -> None:
    side, count = job.option.get("side") or SIDE[job.platform], (job.option.get("bytes") or BYTES[job.platform]) // 4
    repeat = 1 if job.platform == "cpu" else 20
    for name in ("float32", "bfloat16"):
        x, y = (jax.random.normal(jax.random.key(i), (side, side), jnp.dtype(name)) for i in (0, 1))
        # The product by whatever library is faster: the compiler's default, or oneDNN where it is built in.
        rates = []
        for options in ({}, {"xla_cpu_experimental_onednn_custom_call": True, "xla_cpu_experimental_ynn_fusion_type": ""}):
            try:
                product = jax.jit(jnp.matmul).lower(x, y).compile(options if job.platform == "cpu" else {})
            except jax.errors.JaxRuntimeError:
                continue
            rates.append(2 * side**3 * repeat / best(lambda: product(x, y), repeat))
        clock.note(**{f"matmul_{name}": max(rates)})
    flat = jax.random.normal(jax.random.key(2), (count,), jnp.float32)
    # Adding makes it a copy that the compiler cannot leave out.
    copy, read = jax.jit(lambda x: x + 1.0), jax.jit(jnp.sum)
    clock.note(copy_bytes_per_second=8 * count * repeat / best(lambda: copy(flat), repeat),
               read_bytes_per_second=4 * count * repeat / best(lambda: read(flat), repeat))
    clock.tick(0.0)


def best(run, repeat: int, times: int = 8, enough: float = 8.0) -> float:
    """Seconds of the fastest of `times` runs of `repeat` dispatches; no further one after `enough` seconds."""
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        for _ in range(repeat):
            out = run()
        out.block_until_ready()
        found.append(time.perf_counter() - begin)
        if sum(found) > enough:
            break
    return min(found)

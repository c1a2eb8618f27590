# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""jaxlm's checkpoints of a training state: how long training stands still for a save, until it is whole, and a restore."""
import time

import jax

from benchmarks import drawn
from benchmarks.clock import Clock
from benchmarks.contenders import jaxlm_page
from benchmarks.job import Job
from jaxlm.checkpoints.manager import Checkpoints
from jaxlm.cli import experiment as experiments
from jaxlm.parallel import place


def checkpoint(job: Job, clock: Clock) -> None:
    run = experiments.experiment(jaxlm_page.config(job), drawn.vocabulary(job.shape))
    with place.use(run.layout), Checkpoints(jaxlm_page.scratch(job) / "checkpoints", run.section("checkpoints")) as checkpoints:
        state = jax.block_until_ready(jaxlm_page.state(job, run))
        figures: dict[str, list[float]] = {"blocking": [], "complete": [], "restore": []}
        clock.note(bytes=sum(x.nbytes for x in jax.tree.leaves(state)), **figures)
        number = 0
        while True:
            number += 1
            begin = time.perf_counter()
            checkpoints.save(number, state, {"number": number}, force=True)
            figures["blocking"].append(round(time.perf_counter() - begin, 4))
            checkpoints.wait()
            figures["complete"].append(round(time.perf_counter() - begin, 4))
            begin = time.perf_counter()
            jax.block_until_ready(checkpoints.restore(number, run.target))
            figures["restore"].append(round(time.perf_counter() - begin, 4))
            clock.note(**figures)
            clock.tick(0.0)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""jaxlm's input pipeline alone: rows of a token store, drawn at random and made ready, ahead on a thread, onto the device."""
import numpy as np

from benchmarks import drawn
from benchmarks.clock import Clock
from benchmarks.contenders import jaxlm_page
from benchmarks.job import Job
from jaxlm.cli import experiment as experiments
from jaxlm.data import pack, sampler, store
from jaxlm.parallel import place


def input(job: Job, clock: Clock) -> None:  # noqa: A001 - the kind's name
    run = experiments.experiment(jaxlm_page.config(job), drawn.vocabulary(job.shape))
    offsets = np.load(job.path / "offsets.npy")
    tokens = np.memmap(job.path / "stream.bin", np.uint16, "r")
    held = store.Store(tokens, offsets, np.diff(offsets), 0)
    plan = {"windows": pack.Windows, "pack": pack.Packed}[job.option["plan"]](held, job.shape.length)
    numbers = sampler.Sampler(plan, job.shape.batch, 0)
    with place.use(run.layout), run.batches(numbers, 0, 10**9) as source:
        for number, batch in enumerate(run.put(source, job.shape.batch), start=1):
            if number % job.option["batches"] == 0:
                clock.tick(float(batch["tokens"].shape[0]))

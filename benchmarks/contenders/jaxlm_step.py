# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""jaxlm's compiled step and nothing of its loop: what the loop, prefetch and records cost is the difference to jaxlm_loop."""
import itertools

import jax
import numpy as np

from benchmarks import data, drawn
from benchmarks.clock import Clock
from benchmarks.contenders import jaxlm_page
from benchmarks.contenders.jax_memory import device_peak  # noqa: F401 - asked for by the job
from benchmarks.job import Job
from jaxlm.cli import experiment as experiments
from jaxlm.data import sampler
from jaxlm.parallel import place
from jaxlm.training import step as steps


def train(job: Job, clock: Clock) -> None:
    config = jaxlm_page.config(job)
    experiments.settle(config)  # as the command's main does, so that the difference is the loop's
    run = experiments.experiment(config, drawn.vocabulary(job.shape))
    with place.use(run.layout):
        state = jaxlm_page.state(job, run)
        numbers = sampler.Sampler(jaxlm_page.text(job).train, job.shape.batch, 0, shuffle=False)
        with run.batches(numbers, 0, len(data.batches(job.path, job.shape))) as source:
            batches = list(run.put(source, job.shape.batch))
        step = steps.make_step(run.learner, run.objective, run.tx, run.schedule, run.trainable, job.shape.accumulate)
        program = steps.compile_step(step, state, batches[0], run.layout.replicated, run.compiler_options)
        memory = program.memory_analysis()
        if memory is not None:
            clock.note(temporary_bytes=memory.temp_size_in_bytes, argument_bytes=memory.argument_size_in_bytes)
        last = None
        for batch in itertools.cycle(batches):
            state, values = program(state, batch)
            if last is not None:
                loss = jax.device_get(last["means"]["loss"])
                clock.tick(np.asarray(loss.total) / np.asarray(loss.weight))
            last = values

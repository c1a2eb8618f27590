# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""jaxlm as `jaxlm train` runs it: the command's own loop, prefetch, records and metrics; only the text and weights are given."""
import jax
from absl import flags

from benchmarks import drawn
from benchmarks.clock import Clock, Done
from benchmarks.contenders import jaxlm_page
from benchmarks.contenders.jax_memory import device_peak  # noqa: F401 - asked for by the job
from benchmarks.job import Job
from jaxlm import build
from jaxlm.checkpoints.manager import Checkpoints
from jaxlm.cli import experiment as experiments
from jaxlm.cli import record as records
from jaxlm.cli import train as command
from jaxlm.parallel import place
from jaxlm.training import flops, metrics
from jaxlm.training.stop import Stop


def train(job: Job, clock: Clock) -> None:
    workdir = jaxlm_page.scratch(job)
    workdir.mkdir(parents=True)
    flags.FLAGS(["jaxlm train", f"--workdir={workdir}"])
    config = jaxlm_page.config(job)
    experiments.settle(config)  # as the command's main does
    run = experiments.experiment(config, drawn.vocabulary(job.shape))
    peak, _ = flops.peak(jax.local_devices()[0])
    _tick_after_each_step(clock)
    try:
        with place.use(run.layout), Stop() as stop, Checkpoints(workdir / "checkpoints", run.section("checkpoints")) as checkpoints:
            command.fit(run, jaxlm_page.state(job, run), build.build(config, "tokenizer", None), jaxlm_page.text(job), checkpoints,
                        workdir, peak, stop)
    except Done:
        rows = metrics.read(workdir / "metrics.jsonl")
        clock.note(data_wait=[round(row["train/data_wait"], 5) for row in rows][1:])  # the first row holds the start
        raise


def _tick_after_each_step(clock: Clock) -> None:
    """The loop shows every step's metrics to the flight recorder; the clock looks over its shoulder."""
    real = records.recorder

    def recorder(*args):
        found = real(*args)
        watch = found.watch

        def seen(number, values, state):
            watch(number, values, state)
            clock.tick(values["means"]["loss"].total / values["means"]["loss"].weight)

        found.watch = seen
        return found

    records.recorder = recorder

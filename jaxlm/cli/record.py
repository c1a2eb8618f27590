# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What a run's flight recorder is made of: the batch of a step, its documents, the look at it and the checkpoint before it."""
import json
import pathlib
from typing import Any

import jax

from jaxlm import __version__, build
from jaxlm.checkpoints.manager import Checkpoints
from jaxlm.cli.experiment import Experiment
from jaxlm.core.types import Batch, TrainState
from jaxlm.training import flight

FOLDER = "flight"


def batch(run: Experiment, drawn: Any, number: int) -> Batch:
    """The batch of step `number` (1 is the first), on the devices."""
    with run.batches(drawn, number - 1, number) as source:
        return next(run.put(source, drawn.batch_size))


def look(run: Experiment) -> flight.Look:
    return flight.Look(run.learner, run.objective, run.trainable, run.config.train.accumulate)


def describe(run: Experiment, drawn: Any, fingerprint: Any, workdir: pathlib.Path, number: int) -> dict[str, Any]:
    """What a record says of a step beside its figures. Documents are numbers in the store of the training text."""
    return {"documents": [drawn.document_ids(number - 1, row).tolist() for row in range(drawn.batch_size)],
            "data": fingerprint, "config": json.loads(build.to_json(run.config)),
            "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "versions": {"jaxlm": __version__, "jax": jax.__version__},
            "replay": f"jaxlm replay --workdir={workdir} --at={number}"}


def recorder(run: Experiment, drawn: Any, fingerprint: Any, checkpoints: Checkpoints, workdir: pathlib.Path) -> flight.Recorder:
    """The recorder of a run. Checkpoints that a recorded step is replayed from are kept."""
    train, closely = run.section("train"), look(run)

    def pin(number: int) -> int:
        found = max((s for s in checkpoints.steps() if s < number), default=0)
        checkpoints.pinned.add(found)
        return found

    def describing(number: int) -> dict[str, Any]:
        return {**describe(run, drawn, fingerprint, workdir, number), "checkpoint": pin(number)}

    def looking(state: TrainState, number: int) -> dict[str, Any]:
        return closely(state, number, batch(run, drawn, number))

    before = [] if checkpoints.restored is None else checkpoints.meta(checkpoints.restored).get("norms", [])
    made = flight.Recorder(workdir / FOLDER, train.flights, train.explode, describing, looking, before)
    for number in made.recorded:
        pin(number)
    return made

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Frameworks that did not import beside jax 0.10 to 0.12 when this was written: each says why here, and is a row of the table."""
import importlib

from benchmarks.clock import Absent, Clock
from benchmarks.job import Job


def train(job: Job, clock: Clock) -> None:
    try:
        importlib.import_module(job.contender)
    except Exception as error:  # noqa: BLE001 - whatever stops it is what the row says
        raise Absent(f"does not import: {type(error).__name__}: {error}") from error
    raise Absent("imports here, but no step of it has been written for this comparison yet")

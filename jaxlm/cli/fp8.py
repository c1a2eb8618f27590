# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""train.fp8: whether a run's products are float8. Decided when it begins, and then part of the run, as its config says it."""
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax

from jaxlm import build
from jaxlm.checkpoints.manager import Checkpoints
from jaxlm.cli import experiment as experiments
from jaxlm.cli import record as records
from jaxlm.core.errors import UserError
from jaxlm.core.log import say
from jaxlm.data import corpus, sampler
from jaxlm.ops import float8
from jaxlm.parallel import processes
from jaxlm.training import gate

FILE = "fp8.json"  # in the run's folder: what was measured and decided


def decide(run: experiments.Experiment, text: corpus.Corpus, checkpoints: Checkpoints, workdir: pathlib.Path,
           clock: Callable[[], float] = time.perf_counter) -> None:
    """Puts "on" or "off" in the place of the config's "auto"; UserError where float8 is asked for and cannot be."""
    train = run.config.train
    if train.fp8 == "auto":
        kept = _kept(checkpoints)
        found = {"fp8": kept, "why": "this run began with it"} if kept else _measured(run, text, workdir, clock)
        train.fp8 = found["fp8"]
        say(f"train.fp8=auto is {train.fp8}: {found['why']}")
    elif train.fp8 == "on" and not _products(run, text):
        raise UserError(f"train.fp8 is 'on' and {_none(run)}: set it to 'off'")
    if train.fp8 == "on":
        float8.qwix()


def _kept(checkpoints: Checkpoints) -> str:
    """What the run that goes on was begun with; "" for one that begins, with imported weights or none."""
    stored = experiments.newest_meta(checkpoints) if checkpoints.steps() else {"data": None}
    return "" if stored["data"] is None else build.from_json(stored["config"], "the checkpoint's config").train.fp8


def _products(run: experiments.Experiment, text: corpus.Corpus) -> list[tuple[int, int, int, int]]:
    train = run.section("train")
    batch = records.batch(run, sampler.Sampler(text.train, train.batch_size, run.config.seed, run.config.data.shuffle), 1)
    return gate.products(run.model, run.objective, run.target.params, batch, train.accumulate)


def _none(run: experiments.Experiment) -> str:
    return f"model '{run.config.model.name}' has no dense products in attention or feed-forward, which are what float8 is for"


def _measured(run: experiments.Experiment, text: corpus.Corpus, workdir: pathlib.Path, clock: Callable[[], float]) -> dict[str, Any]:
    """The record of the decision, which is process 0's: taken from the folder where the same start has left one, else made now."""
    device = run.layout.mesh.local_devices[0]
    why = float8.refusal(device)
    if (dtype := run.config.model.get("dtype")) != "bfloat16":
        why = f"model.dtype is '{dtype}', and products in float8 are those of a bfloat16 model"
    # Looked for only where they may be timed: without qwix they cannot even be.
    found = [] if why else _products(run, text)
    why = why or ("" if found else _none(run))
    asked = {"device": device.device_kind, "jax": jax.__version__, "sizes": [list(sizes) for sizes in found]}
    if why:
        made = {"fp8": "off", "why": why}
    else:
        # A run that was stopped before its first checkpoint begins anew, and is the same run.
        path = workdir / FILE
        before = json.loads(path.read_text()) if path.is_file() else {}
        if processes.of_first("products" in before and {name: before.get(name) for name in asked} == asked):
            made = before
        else:
            made = gate.measure(found, device, run.compiler_options, clock)
        if processes.several():  # another may have measured otherwise, or not have the file
            made = {"why": "process 0 says so", **made, "fp8": "on" if processes.of_first(made.get("fp8") == "on") else "off"}
    experiments.write_once(workdir / FILE, json.dumps({**asked, **made}, indent=1) + "\n")
    return made

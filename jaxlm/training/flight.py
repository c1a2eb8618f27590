# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The flight recorder: what a run keeps of a step that was skipped or exploded, in WORKDIR/flight/STEP/record.json.

The step's own metrics say that it happened. The detailed look (norms by layer, who was not finite first) is another
program, compiled only when it is needed and run on the state that the step started from.
"""
import collections
import json
import pathlib
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core import files, tree
from jaxlm.core.log import say
from jaxlm.core.types import Array, Batch, Mean, Objective, TrainState
from jaxlm.training import metrics as metrics_file
from jaxlm.training import nonfinite, step

WINDOW, ENOUGH = 50, 10  # gradient norms that a median is taken of, and the fewest that make one
SHOWN = 20  # culprits kept


class Look:
    """A step looked at closely: look(state before it, its number, its batch) -> what goes into the record."""

    def __init__(self, model: Any, objective: Objective, trainable: Any, micro_batches: int = 1):
        loss = step.Loss(model, objective)
        self.trainable = trainable
        self.stacked = {path for path, axes in tree.flatten_axes(model.axes()).items() if axes and axes[0] == "layers"}
        self._traced: nonfinite.Traced | None = None

        def gradients(train: Any, frozen: Any, rng: Array, number: Array, batch: Batch, carry: Any) -> tuple[Any, dict[str, Mean]]:
            return step.backward(loss, train, frozen, rng, number - 1, batch, carry, micro_batches)[0]

        self._gradients = gradients

    def __call__(self, state: TrainState, number: int, batch: Batch) -> dict[str, Any]:
        """Norms of gradients and parameters by path (a list over layers where they are stacked), and what is not finite."""
        train, frozen = tree.partition(state.params, self.trainable)
        args = (train, frozen, state.rng, np.int32(number), batch, state.carry)
        if self._traced is None:
            names = [*tree.paths(train), *tree.paths(frozen)]
            names += [""] * (len(jax.tree.leaves(args)) - len(names))
            self._traced = nonfinite.Traced(self._gradients, args, names, [name in self.stacked for name in names])
            self._run = jax.jit(self._measure)
        measured, marks = jax.device_get(self._run(*args))
        bad = lambda levels: [f"{path}[{layer}]" if path in self.stacked else path for path, x in levels.items()
                              for layer in np.flatnonzero(np.atleast_1d(x))]
        return {"non_finite_parameters": bad(measured["bad_parameters"]), "non_finite_gradients": bad(measured["bad_gradients"]),
                "first_non_finite": self._traced.culprits(marks)[:SHOWN],
                "gradient_norms": {path: x.tolist() for path, x in measured["gradients"].items()},
                "parameter_norms": {path: x.tolist() for path, x in measured["parameters"].items()}}

    def _measure(self, train: Any, frozen: Any, *data: Any) -> tuple[dict[str, Any], Any]:
        (grads, means), marks = self._traced(train, frozen, *data)
        weight = jnp.maximum(means["loss"].weight, 1e-9)
        grads = {path: g / weight for path, g in tree.flatten(grads).items()}
        params = tree.flatten(tree.combine(train, frozen))
        rest = lambda path, x: tuple(range(path in self.stacked, x.ndim))
        norms = lambda arrays: {p: jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)), rest(p, x))) for p, x in arrays.items()}
        bad = lambda arrays: {p: (~jnp.isfinite(x)).any(rest(p, x)) for p, x in arrays.items()}
        return {"gradients": norms(grads), "parameters": norms(params), "bad_gradients": bad(grads), "bad_parameters": bad(params)}, marks


class Recorder:
    """Watches the metrics of every step; see `watch`. At most `most` records are kept in `folder`; 0 keeps none.

    explode: a gradient norm above so many times the median of the last 50 is recorded too; 0.0 = none is.
    describe(step): what the record says of it beside its figures. look(state before, step): the detailed look.
    norms: the last gradient norms of the run that goes on; kept up to date, to be kept with its checkpoints.
    """

    def __init__(self, folder: pathlib.Path, most: int, explode: float, describe: Callable[[int], dict[str, Any]],
                 look: Callable[[TrainState, int], dict[str, Any]], norms: Iterable[float] = ()):
        self.folder, self.most, self.explode, self.describe, self.look = folder, most, explode, describe, look
        self.recorded = {int(path.parent.name) for path in folder.glob("*/record.json")}
        self.norms: collections.deque[float] = collections.deque(norms, maxlen=WINDOW)

    def watch(self, number: int, metrics: dict[str, Any], state: TrainState) -> None:
        """Take in the metrics of a step (on the host). `state` is that after the newest dispatched step, which may be
        later; nothing waits for it unless this step is recorded."""
        skipped = bool(int(metrics["skipped"][1]))
        why = "the loss or gradient was not finite: the update was skipped" if skipped else self._exploded(float(metrics["grad_norm"]))
        if not skipped:
            self.norms.append(float(metrics["grad_norm"]))
        if not why or (number not in self.recorded and len(self.recorded) >= self.most):
            return
        self.recorded.add(number)
        record = {"step": number, "why": why, **metrics_file.figures(metrics["means"], metrics), **self.describe(number)}
        # While every step since then was skipped too, the parameters are still those it started from.
        now, row = int(jax.device_get(state.step)), int(jax.device_get(state.skipped)[1])
        if skipped and row >= now - number + 1:
            say(f"step {number}: looking closely at it")
            try:
                record["look"] = self.look(state, number)
            except jax.errors.JaxRuntimeError as error:  # memory, most likely: no reason to end the run
                record["look_failed"] = str(error).splitlines()[0]
        path = write(self.folder, number, record)
        say(f"step {number}: {why}. Recorded in {path}" + ("" if "look" in record else f"; for a closer look: {record['replay']}"))
        for line in summary(record.get("look", {})):
            say(f"  {line}")

    def _exploded(self, norm: float) -> str:
        if not self.explode or len(self.norms) < ENOUGH:
            return ""
        usual = statistics.median(self.norms)
        if norm <= self.explode * usual:
            return ""
        return f"the gradient norm {norm:.4g} was more than {self.explode:g} times the median {usual:.4g} of the last {len(self.norms)}"


def summary(look: dict[str, Any]) -> list[str]:
    """The look in a few lines: parameters that were not finite before the step, then who was not finite first in it."""
    out = [f"not finite before the step: {', '.join(look['non_finite_parameters'][:8])}"] if look.get("non_finite_parameters") else []
    return out + [f"first not finite: {nonfinite.sentence(culprit)}" for culprit in look.get("first_non_finite", [])[:1]]


def read(folder: pathlib.Path, number: int) -> dict[str, Any] | None:
    """The record of a step, or None; numbers that are not finite are strings ("nan")."""
    path = folder / str(number) / "record.json"
    return json.loads(path.read_text()) if path.is_file() else None


def write(folder: pathlib.Path, number: int, record: dict[str, Any]) -> pathlib.Path:
    """Write a record, whole or not at all; the first process does."""
    path = folder / str(number) / "record.json"
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, json.dumps(metrics_file.named(record), indent=1) + "\n")
    return path

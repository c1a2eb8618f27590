# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Evaluation over held-out documents: sums over all of them, divided once."""
import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from jaxlm.core.log import Progress
from jaxlm.core.types import Array, Batch, Mean, Params
from jaxlm.parallel import compiler, place
from jaxlm.training import state


@dataclasses.dataclass(frozen=True)
class Config:
    """When and on how much to evaluate."""

    every: int = 500  # steps; 0 = only at the end
    batches: int = 0  # of the held-out text; 0 = all of it
    batch_size: int = 0  # rows at a time; 0 = as many as in training

    def problems(self) -> list[str]:
        return [f"eval.{f.name} is {getattr(self, f.name)}: it must be 0 or more"
                for f in dataclasses.fields(self) if getattr(self, f.name) < 0]


Measure = Callable[[Params, Batch, Any], tuple[dict[str, Mean], Any]]


def make_evaluate(loss: Callable[[Params, Batch, Array | None, Any], tuple[Array, tuple[dict[str, Mean], Any]]],
                  layout: place.Layout, options: dict[str, Any] | None = None) -> Measure:
    """The jitted (params, batch, carry) -> (Means, the next carry), without dropout; options: the compiler's."""
    def measure(params: Params, batch: Batch, carry: Any) -> tuple[dict[str, Mean], Any]:
        with compiler.tracing_for(options or {}):
            return loss(params, batch, None, carry)[1]

    return jax.jit(measure, donate_argnums=2, out_shardings=(layout.replicated, state.carried(layout)), compiler_options=options)


def evaluate(run: Measure, params: Params, source: Iterable[Batch], count: int, carry: Any = None,
             what: str = "evaluate", stop: Callable[[], int] = lambda: 0) -> dict[str, Mean] | None:
    """Sums of every mean over `count` batches, on the host in float64 (a float32 sum of millions of tokens drifts).

    carry: what a recurrent model begins with, where each batch goes on from the one before; None where none does.
    stop() is asked before every batch; once it says so, the result is None.
    """
    sums: dict[str, Mean] = {}
    with Progress(count, what, "batches") as bar:
        previous = None
        for batch in source:
            if stop():
                return None
            current, carry = run(params, batch, carry)  # dispatched before the one before it is read
            if previous is not None:
                _add(sums, previous)
            previous = current
            bar.update()
        if previous is not None:
            _add(sums, previous)
    return sums


def _add(sums: dict[str, Mean], means: dict[str, Mean]) -> None:
    for name, mean in jax.device_get(means).items():
        mean = Mean(np.float64(mean.total), np.float64(mean.weight))
        sums[name] = sums[name] + mean if name in sums else mean


def summary(sums: dict[str, Mean], bytes_per_token: float, terms: tuple[str, ...] = ()) -> dict[str, float]:
    """Reported figures; bits per byte where the held-out text's UTF-8 bytes per predicted token are known (> 0).

    terms: an objective's, whose averages the loss adds: over several batches these are added, not the batches' losses.
    """
    out = {name: float(mean.total / mean.weight) if mean.weight else 0.0 for name, mean in sums.items()}
    if terms:
        out["loss"] = sum(out[name] for name in terms)
    if "nll" in out:
        out["perplexity"] = math.exp(min(out["nll"], 700.0))
        if bytes_per_token:
            out["bits_per_byte"] = out["nll"] / math.log(2) / bytes_per_token
    return out

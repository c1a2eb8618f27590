# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The training loop. It never waits for the device: it dispatches the next step, then reads the metrics of the one before."""
import dataclasses
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jaxlm.core import allocator
from jaxlm.core.errors import UserError
from jaxlm.core.log import Progress, count, say
from jaxlm.core.types import Batch, Mean, TrainState
from jaxlm.parallel import compiler
from jaxlm.training import metrics as metrics_file
from jaxlm.training import packed
from jaxlm.training.stop import Interrupted, Stop


@dataclasses.dataclass(frozen=True)
class Config:
    """Length and rhythm of a run."""

    steps: int = 1000
    batch_size: int = 32  # rows of one update, over all devices and hosts
    accumulate: int = 1  # micro-batches that one update is computed in
    log_every: int = 10  # steps
    max_skipped: int = 10  # non-finite steps in a row before the run saves and stops
    flights: int = 10  # records of skipped or exploding steps kept in WORKDIR/flight; 0 = none
    explode: float = 0.0  # a gradient norm above so many times the median of the last 50 is recorded; 0.0 = none is
    profile_at: int = 0  # step at which a profile is taken; 0 = never
    profile_steps: int = 3
    # Dense products of attention and feed-forward in float8 (ops/float8.py), in training steps alone: evaluation and generation are
    # without. "auto": where the device is measurably faster so when the run begins. One scale a tensor, the largest number in a
    # micro-batch: how rows are packed and how many make one is then part of what is computed. Needs bfloat16 and jaxlm[fp8].
    fp8: str = "off"  # off | auto | on
    compiler_options: tuple = ()  # "name=value" over the platform's own (parallel/compiler.py); "name=default", "default" take out
    allow_changes: bool = False  # go on with a run although its text, tokenizer or settings have changed
    tensorboard: bool = True
    picture: bool = True  # draw loss.png at the end
    baseline: str = ""  # "trigram": print a byte-trigram model's bits per byte beside the model's
    sample: str = ""  # a text to continue when training ends; "" = from nothing
    sample_tokens: int = 0  # tokens of that continuation; 0 = none

    def problems(self) -> list[str]:
        out = [f"train.{name} is {getattr(self, name)}: it must be at least 1"
               for name in ("batch_size", "accumulate", "log_every", "max_skipped", "profile_steps")
               if getattr(self, name) < 1]
        out += [f"train.{name} is {getattr(self, name)}: it must be 0 or more"
                for name in ("steps", "flights", "explode", "profile_at", "sample_tokens") if getattr(self, name) < 0]
        if self.accumulate >= 1 and self.batch_size % self.accumulate:
            out.append(f"train.batch_size {self.batch_size} is not a multiple of train.accumulate {self.accumulate}")
        for change in self.compiler_options:
            try:
                compiler.parse(change)
            except ValueError as error:
                out.append(f"train.compiler_options: {error}")
        if self.fp8 not in ("off", "auto", "on"):
            out.append(f"train.fp8 is '{self.fp8}': it is 'off', 'auto' or 'on'")
        if self.baseline not in ("", "trigram"):
            out.append(f"train.baseline is '{self.baseline}': it is 'trigram' or ''")
        return out


@dataclasses.dataclass(frozen=True)
class Rates:
    """What turns seconds into rates."""

    tokens_per_step: int
    flops_per_step: float  # of the model's forward and backward matrix products, recomputation left out
    peak_flops: float  # of all devices together


@dataclasses.dataclass(frozen=True)
class Event:
    """Something due every so many steps, and after the last one; 0 = only after the last."""

    every: int
    action: Callable[[int, TrainState], None]

    def due(self, step: int, last: int) -> bool:
        return step == last or (self.every > 0 and step % self.every == 0)


def train(
    state: TrainState,
    step: Callable[[TrainState, Batch], tuple[TrainState, packed.Packed]],
    batches: Iterator[Batch],
    config: Config,
    rates: Rates,
    *,
    start: int,
    write: Callable[[int, dict[str, float]], None],
    events: tuple[Event, ...],
    save: Callable[[int, TrainState], None],
    profile_dir: str,
    stop: Stop,
    watch: Callable[[int, dict[str, Any], TrainState], None] = lambda number, metrics, state: None,
) -> TrainState:
    """Runs updates start + 1 to config.steps and returns the last state.

    step(state, batch) gives its metrics packed; write(step, values) records; save(step, state) writes a checkpoint and waits until
    it is whole; stop is asked after every step and event; watch(step, metrics, state) sees every step's metrics on the host, with
    the state after the newest dispatched step, which it must not keep. Raises UserError after max_skipped non-finite steps in a row
    and Interrupted after a signal, both once the state is saved.
    """
    pending: tuple[int, packed.Packed] | None = None
    fed = Fed(batches, busy=lambda: pending is not None and not pending[1].words.is_ready())
    window = Window(rates, lambda: fed.waited)
    allocator.give_back()  # what reading weights and compiling took
    with Progress(config.steps, "train", "steps", start=start) as bar:

        def flush(log: bool) -> str:
            """Takes in the metrics of the last dispatched step; returns why the run must stop, or ''."""
            if pending is None:
                return ""
            number, metrics = pending[0], packed.read(pending[1])
            window.add(metrics)
            began = time.monotonic()
            watch(number, metrics, state)
            window.exclude(time.monotonic() - began)
            bar.update()
            total, row = (int(x) for x in metrics["skipped"])
            if row:
                say(f"step {number}: the loss or gradient is not finite, update skipped ({row} in a row, {total} in all)")
            if log or row or number % config.log_every == 0:
                values = window.read()
                write(number, {f"train/{name}": x for name, x in values.items()})
                bar.note(f"loss {values['loss']:.3f}, {count(values['tokens_per_second'])} tokens/s")
            if row < config.max_skipped:
                return ""
            return (f"{row} steps in a row were not finite, the last is step {number}: lower optimizer.lr, raise "
                    "schedule.warmup or set optimizer.clip_norm. ")

        profiled = range(config.profile_at, config.profile_at + config.profile_steps if config.profile_at else 0)
        for number, batch in enumerate(fed, start + 1):
            if profiled and number == profiled[0]:
                jax.profiler.start_trace(profile_dir)
            with jax.profiler.StepTraceAnnotation("train", step_num=number), jax.transfer_guard("disallow"):
                state, metrics = step(state, batch)
            if number == start + 1:
                allocator.give_back()  # the first step leaves things behind that its working memory then does not fit between
            failed = flush(log=False)
            pending = (number, metrics)
            if profiled and number == min(profiled[-1], config.steps):
                jax.block_until_ready(state)
                jax.profiler.stop_trace()
                say(f"profile of steps {profiled[0]} to {number} written to {profile_dir}")
            due = [event for event in events if event.due(number, config.steps)]
            asked = stop.asked()
            if due or failed or asked:
                # Rows end where checkpoints are, so that a resumed run writes the rows of an uninterrupted one.
                later = flush(log=True)
                failed = failed or later
                pending = None
            if failed:
                save(number, state)
                raise UserError(failed + f"The state after step {number} is saved, without the skipped updates.")
            began = time.monotonic()
            for event in due:
                event.action(number, state)
                asked = stop.asked()
            if due:
                allocator.give_back()
            window.exclude(time.monotonic() - began)
            if asked:
                save(number, state)
                name = signal.Signals(asked).name
                say(f"{name}: saved after step {number} of {config.steps}. Run the same command again to go on.")
                raise Interrupted(128 + asked)
    return state


class Fed:
    """The batches, and `waited`: the seconds in which nothing was computed because the next was not there, at most: a batch that
    comes while a step is `busy` costs nothing, one that comes later may have been late by all of the time that it took."""

    def __init__(self, batches: Iterator[Batch], busy: Callable[[], bool]):
        self._batches, self._busy, self.waited = batches, busy, 0.0

    def __iter__(self) -> "Fed":
        return self

    def __next__(self) -> Batch:
        began = time.monotonic()
        batch = next(self._batches)
        if not self._busy():
            self.waited += time.monotonic() - began
        return batch


class Window:
    """Sums between two rows of metrics."""

    def __init__(self, rates: Rates, waited: Callable[[], float]):
        self.rates, self.waited = rates, waited
        self._reset()

    def _reset(self) -> None:
        self.means: dict[str, Mean] = {}
        self.last: dict[str, Any] = {}
        self.steps, self.began, self.excluded, self.waited_before = 0, time.monotonic(), 0.0, self.waited()

    def exclude(self, seconds: float) -> None:
        """Time spent on evaluation and checkpoints is not the step's."""
        self.excluded += seconds

    def add(self, metrics: dict[str, Any]) -> None:
        # A skipped step's loss would make the row's mean NaN; it shows in the count of skipped steps instead.
        if not int(metrics["skipped"][1]):
            means = metrics["means"]
            self.means = {k: self.means[k] + m for k, m in means.items()} if self.means else means
        self.last = metrics
        self.steps += 1

    def read(self) -> dict[str, float]:
        """The row's values; the window starts anew."""
        seconds = max(time.monotonic() - self.began - self.excluded, 1e-9)
        means = self.means or self.last["means"]  # only skipped steps: show the number that was not finite
        out = metrics_file.figures(means, self.last)
        out["skipped"] = float(self.last["skipped"][0])
        out["tokens_per_second"] = self.steps * self.rates.tokens_per_step / seconds
        out["mfu"] = self.steps * self.rates.flops_per_step / seconds / self.rates.peak_flops
        out["data_wait"] = min((self.waited() - self.waited_before) / seconds, 1.0)
        self._reset()
        return out

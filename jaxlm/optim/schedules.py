# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Learning rates over steps: a linear warm-up, then cosine, linear, rsqrt, wsd or constant.

The first step already moves: with a warm-up of w steps, step i < w has (i + 1) / w of the peak.
"""
import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from jaxlm.core.errors import UserError, nearest
from jaxlm.core.types import Array

Schedule = Callable[[Array | int], Array]


@dataclasses.dataclass(frozen=True)
class Config:
    """The shape of the learning rate; its peak is the optimizer's."""

    name: str = "cosine"  # cosine, linear, rsqrt, wsd (warm-up, stable, decay) or constant
    warmup: int = 0  # steps from 0 to the peak
    total: int = 0  # the step at which the final rate is reached; 0 = the length of the run
    final: float = 0.1  # the rate at the end as a fraction of the peak (cosine, linear, wsd)
    decay: float = 0.2  # the last part of the run in which wsd falls, as a fraction of total
    timescale: int = 10_000  # rsqrt: steps behind the warm-up until the rate has fallen to 1/sqrt(2)

    def problems(self) -> list[str]:
        out = []
        if self.name not in SHAPES:
            out.append(f"schedule.name is '{self.name}'{nearest(self.name, SHAPES)} There are: {', '.join(SHAPES)}")
        if self.warmup < 0:
            out.append(f"schedule.warmup is {self.warmup}: steps are 0 or more")
        if self.total < 0:
            out.append(f"schedule.total is {self.total}: steps are 1 or more, or 0 for the length of the run")
        if not 0 <= self.final <= 1:
            out.append(f"schedule.final is {self.final}: it is a fraction of the peak, from 0 to 1")
        if not 0 < self.decay <= 1:
            out.append(f"schedule.decay is {self.decay}: it is a fraction of the run, above 0 and at most 1")
        if self.timescale < 1:
            out.append(f"schedule.timescale is {self.timescale}: steps are 1 or more")
        return out


def _falling(config: Config, begin: float, total: int, curve: Callable[[Array], Array]) -> Schedule:
    """1 until `begin`, then along `curve` (1 at 0, 0 at 1) to config.final at `total`, and there for ever."""
    def shape(step: Array) -> Array:
        done = jnp.clip((step - begin) / (total - begin), 0.0, 1.0)
        return config.final + (1 - config.final) * curve(done)

    return shape


def _cosine(config: Config, total: int) -> Schedule:
    return _falling(config, config.warmup, total, lambda t: 0.5 * (1 + jnp.cos(jnp.pi * t)))


def _linear(config: Config, total: int) -> Schedule:
    return _falling(config, config.warmup, total, lambda t: 1 - t)


def _wsd(config: Config, total: int) -> Schedule:
    return _falling(config, total * (1 - config.decay), total, lambda t: 1 - t)


def _rsqrt(config: Config, total: int) -> Schedule:
    return lambda step: jnp.sqrt(config.timescale / (config.timescale + jnp.maximum(step - config.warmup, 0.0)))


def _constant(config: Config, total: int) -> Schedule:
    return lambda step: jnp.ones_like(step)


SHAPES = {"cosine": _cosine, "linear": _linear, "rsqrt": _rsqrt, "wsd": _wsd, "constant": _constant}
ENDING = ("cosine", "linear", "wsd")  # which have a step at which the final rate is reached


def end(name: str, total: int, steps: int) -> int:
    """The step at which the final rate is reached, in a run of so many steps; 0 where the rate has no end."""
    return (total or steps) if name in ENDING else 0


def build(config: Config, peak: float, steps: int) -> Schedule:
    """step (int or int32 array) -> float32 learning rate; `steps` is the run's length, used where config.total is 0."""
    if problems := config.problems():
        raise UserError("; ".join(problems))
    total = end(config.name, config.total, steps)
    if config.name in ENDING:
        begin = total * (1 - config.decay) if config.name == "wsd" else config.warmup
        if total <= begin or begin < config.warmup:
            raise UserError(
                f"schedule {config.name} has a warm-up of {config.warmup} steps and {total} steps in all"
                + (f", of which the last {config.decay:g} decay" if config.name == "wsd" else "")
                + ": there is nothing between them; shorten schedule.warmup or lengthen the run"
            )
    shape = SHAPES[config.name](config, total)

    def schedule(step: Array | int) -> Array:
        step = jnp.asarray(step).astype(jnp.float32)
        rate = shape(step)
        if config.warmup:
            rate = jnp.where(step < config.warmup, (step + 1) / config.warmup, rate)
        return peak * rate

    return schedule

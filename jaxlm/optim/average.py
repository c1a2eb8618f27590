# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A running average of the parameters, kept in the optimizer's state: it is saved, split and restored with it."""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxlm.core.types import Params


class State(NamedTuple):
    """The average, float32, in the shape of the trainable parameters."""

    average: Params


def build(decay: float) -> optax.GradientTransformation:
    """average <- decay * average + (1 - decay) * new parameters, starting at the first parameters.

    It reads the finished updates, so it comes last in a chain; updates pass through unchanged.
    """
    def init(params: Params) -> State:
        return State(jax.tree.map(lambda x: x.astype(jnp.float32), params))

    def update(updates: Params, state: State, params: Params | None = None) -> tuple[Params, State]:
        new = optax.apply_updates(params, updates)
        step = lambda old, x: decay * old + (1 - decay) * x.astype(jnp.float32)
        return updates, State(jax.tree.map(step, state.average, new))

    return optax.GradientTransformation(init, update)


def averaged(opt_state: Any) -> Params | None:
    """The average (float32, None where frozen) out of the state of optimizers.build; None when it keeps none."""
    return opt_state["ema"].average if "ema" in opt_state else None

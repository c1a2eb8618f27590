# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The training state: made sharded where it will live, never whole on the host."""
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlm.checkpoints import start
from jaxlm.core import tree
from jaxlm.core.types import Array, TrainState
from jaxlm.parallel import place


def create(model: Any, tx: optax.GradientTransformation, trainable: Any, seed: int,
           loaded: dict[str, Array] | None = None) -> TrainState:
    """A fresh state, a pure function of the seed and of `loaded`: {path: array}, parameters that replace drawn ones."""
    params_key, dropout_key = jax.random.split(jax.random.key(seed))
    params = start.overlay(model.init(params_key), loaded or {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(tree.partition(params, trainable)[0]),
        rng=jax.random.key_data(dropout_key),
        skipped=jnp.zeros((2,), jnp.int32),
    )


def abstract(model: Any, tx: optax.GradientTransformation, trainable: Any, layout: place.Layout) -> TrainState:
    """Shapes, types and shardings of the state; UserError where the rules cannot lay the parameters on the mesh."""
    shapes = jax.eval_shape(lambda: create(model, tx, trainable, 0))
    params = place.shardings(model.axes(), layout, shapes.params)
    where = place.like(shapes, shapes.params, params, layout)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, where)


def initialise(model: Any, tx: optax.GradientTransformation, trainable: Any, seed: int, target: TrainState,
               loaded: dict[str, Array] | None = None) -> TrainState:
    """Run `create` with every array born on the devices that `target` (from `abstract`) names."""
    shardings = jax.tree.map(lambda x: x.sharding, target)
    make = lambda given: create(model, tx, trainable, seed, given)
    return jax.jit(make, out_shardings=shardings, donate_argnums=0)(loaded or {})


def bytes_per_device(target: Any) -> int:
    """Bytes that one device holds of a tree of sharded shapes."""
    return sum(int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize for x in jax.tree.leaves(target))

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The training state: made sharded where it will live, never whole on the host."""
import dataclasses
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
           loaded: dict[str, Array] | None = None, rows: int = 0) -> TrainState:
    """A fresh state, a pure function of the seed and of `loaded`: {path: array}, parameters that replace drawn ones.

    rows: of a batch, where a recurrent model's own state is carried from step to step; 0 where it is not.
    """
    params_key, dropout_key = jax.random.split(jax.random.key(seed))
    params = start.overlay(model.init(params_key), loaded or {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(tree.partition(params, trainable)[0]),
        rng=jax.random.key_data(dropout_key),
        skipped=jnp.zeros((2,), jnp.int32),
        carry=model.cache(rows, 0) if rows else None,
    )


def abstract(model: Any, tx: optax.GradientTransformation, trainable: Any, layout: place.Layout, rows: int = 0) -> TrainState:
    """Shapes, types and shardings of the state; UserError where the rules cannot lay the parameters on the mesh."""
    shapes = jax.eval_shape(lambda: create(model, tx, trainable, 0, rows=rows))
    params = place.shardings(model.axes(), layout, shapes.params)
    where = place.like(shapes, shapes.params, params, layout)
    where = dataclasses.replace(where, carry=jax.tree.map(lambda _: carried(layout), shapes.carry))
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, where)


def initialise(model: Any, tx: optax.GradientTransformation, trainable: Any, seed: int, target: TrainState,
               loaded: dict[str, Array] | None = None) -> TrainState:
    """Run `create` with every array born on the devices that `target` (from `abstract`) names."""
    shardings = jax.tree.map(lambda x: x.sharding, target)
    rows = jax.tree.leaves(target.carry)[0].shape[0] if target.carry is not None else 0
    make = lambda given: create(model, tx, trainable, seed, given, rows)
    return jax.jit(make, out_shardings=shardings, donate_argnums=0)(loaded or {})


def empty(model: Any, rows: int, layout: place.Layout) -> Any:
    """The carry of rows that have read nothing."""
    return jax.jit(lambda: model.cache(rows, 0), out_shardings=carried(layout))()


def carried(layout: place.Layout) -> jax.sharding.Sharding:
    """Where a carry lives: its rows are those of a batch."""
    return layout.sharding("batch")


def bytes_per_device(target: Any) -> int:
    """Bytes that one device holds of a tree of sharded shapes."""
    return sum(int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize for x in jax.tree.leaves(target))

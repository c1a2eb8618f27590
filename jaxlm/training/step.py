# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The training step, one page without branches: what varies (model, objective, optimizer, trainable leaves) enters as values."""
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxlm.core import tree
from jaxlm.core.types import Array, Batch, Mean, Objective, Params, TrainState
from jaxlm.optim import clip
from jaxlm.parallel import compiler, place

Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Loss:
    """loss(params, batch, dropout key, carry) -> the summed loss, and (Means of everything worth reporting, the next carry).

    A carry is TrainState.carry: a number like the batch, through which no gradient goes back into steps before (truncated
    backpropagation through time: Williams and Peng 1990; Mikolov et al. 2010).
    frozen: parameters that are not differentiated, None where `params` has them; None = there are no such.
    """

    model: Any
    objective: Objective
    frozen: Any = None

    def __call__(self, params: Params, batch: Batch, key: Array | None, carry: Any = None) -> tuple[Array, tuple[dict[str, Mean], Any]]:
        params = params if self.frozen is None else tree.combine(params, self.frozen)
        outputs = self.model.apply(params, batch, key=key, cache=carry)
        with jax.named_scope("loss"):
            means = self.objective.loss(outputs, batch)
        # A model's own terms (load balance, say) join as averages, so that they weigh the same in every micro-batch.
        extra = sum((mean.value for mean in outputs.aux.values()), jnp.zeros((), jnp.float32))
        return means["loss"].total + means["loss"].weight * extra, ({**means, **outputs.aux}, None if carry is None else outputs.cache)


def gradients(loss: Loss, params: Params, batch: Batch, carry: Any, key: Array,
              micro_batches: int) -> tuple[tuple[Params, dict[str, Mean]], Any]:
    """((sums over all micro-batches of d(summed loss)/d(params), in float32, and of the Means), the next carry).

    Nothing is divided yet. Devices that share nothing but the batch add their sums up once, whatever the number of micro-batches.
    """
    # Micro-batch m takes rows m, m + M, ...: each device splits its own rows, none move.
    split = lambda x: jnp.swapaxes(x.reshape(-1, micro_batches, *x.shape[1:]), 0, 1)
    join = lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])

    def one(whole: tuple, index: Array, part: Batch, carry: Any) -> tuple[tuple[Params, dict[str, Mean]], Any]:
        params, frozen, key = whole
        own = dataclasses.replace(loss, frozen=frozen)
        (_, (means, carry)), grads = jax.value_and_grad(own, has_aux=True)(params, part, jax.random.fold_in(key, index), carry)
        return (jax.tree.map(lambda g: g.astype(jnp.float32), grads), means), carry

    def add_up(whole: tuple, rows: tuple) -> tuple[tuple[Params, dict[str, Mean]], Any]:
        parts = jax.tree.map(split, rows)
        sums, _ = jax.eval_shape(one, whole, jnp.int32(0), *jax.tree.map(lambda x: x[0], parts))

        def add(total: Any, x: tuple) -> tuple[Any, Any]:
            part, carry = one(whole, *x)
            return jax.tree.map(jnp.add, total, part), carry

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sums)
        total, carry = jax.lax.scan(add, zeros, (jnp.arange(micro_batches), *parts))
        return total, jax.tree.map(join, carry)

    whole = (params, loss.frozen, key)
    if micro_batches == 1:
        return one(whole, jnp.zeros((), jnp.int32), batch, carry)
    return place.sum_of_parts(add_up, whole, (loss.objective.balance(batch), carry))


def backward(loss: Loss, train: Params, frozen: Params, rng: Array, done: Array, batch: Batch, carry: Any,
             micro_batches: int) -> tuple[tuple[Params, dict[str, Mean]], Any]:
    """`gradients` of the trained leaves, with the dropout key of the step that comes after `done` steps."""
    key = jax.random.fold_in(jax.random.wrap_key_data(rng), done)
    return gradients(dataclasses.replace(loss, frozen=frozen), train, batch, carry, key, micro_batches)


def make_step(model: Any, objective: Objective, tx: optax.GradientTransformation, schedule: Callable, trainable: Any,
              micro_batches: int = 1) -> Step:
    """One update as a pure function of (state, batch); metrics are Means and scalars, still on the device."""
    loss = Loss(model, objective)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        train, frozen = tree.partition(state.params, trainable)
        (grads, means), carry = backward(loss, train, frozen, state.rng, state.step, batch, state.carry, micro_batches)
        share = 1 / jnp.maximum(means["loss"].weight, 1e-9)  # once, by the weight of the whole batch
        grads = jax.tree.map(lambda g, p: (g * share).astype(p.dtype), grads, train)
        norm = clip.norm(grads)
        with jax.named_scope("optimizer"):
            updates, opt_state = tx.update(grads, state.opt_state, train)
            updated = optax.apply_updates(train, updates)

        # A step whose loss or gradient is not finite changes nothing but the counters.
        fine = jnp.isfinite(norm) & jnp.isfinite(means["loss"].total)
        keep = lambda new, old: jnp.where(fine, new, old)
        total, row = state.skipped
        skipped = jnp.where(fine, jnp.stack([total, 0]), jnp.stack([total + 1, row + 1]))
        new = TrainState(
            step=state.step + 1,
            params=tree.combine(jax.tree.map(keep, updated, train), frozen),
            opt_state=jax.tree.map(keep, opt_state, state.opt_state),
            rng=state.rng,
            skipped=skipped,
            carry=jax.tree.map(keep, carry, state.carry),
        )
        lr = jnp.asarray(schedule(state.step - total), jnp.float32)
        return new, {"means": means, "grad_norm": norm, "lr": lr, "skipped": skipped}

    return step


def compile_step(step: Step, state: TrainState, batch: Batch, replicated: jax.sharding.Sharding,
                 options: dict[str, Any] | None = None) -> Any:
    """The step compiled once, ahead of its first use, for these (abstract or real) arguments; the state is donated.

    options: the compiler's; None takes those of the platform in parallel/compiler.py.
    """
    shardings = jax.tree.map(lambda x: x.sharding, state)
    inputs = jax.tree.map(lambda x: x.sharding, batch)
    jitted = jax.jit(step, in_shardings=(shardings, inputs), out_shardings=(shardings, replicated), donate_argnums=0)
    options = compiler.options() if options is None else options
    with compiler.tracing_for(options):
        lowered = jitted.lower(state, batch)
    return lowered.compile(compiler_options=options)

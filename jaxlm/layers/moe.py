# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A feed-forward of many experts, of which each token uses a few: every token is computed, none is dropped.

Under a layout each device computes the experts that it holds for its own tokens and those of the devices that hold the
other experts, gathered, and adds what comes back. Sending every token only where it is wanted would need arrays whose
sizes change from step to step; gathered, the sizes are fixed, and for up to k devices of experts no more is sent.

Letters: B rows, L positions, D embed, T tokens of a device, E experts (of a device, where split), k of them a token, H hidden.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from jaxlm.core.errors import UserError
from jaxlm.core.types import Array
from jaxlm.layers.linear import COMPUTE, KINDS, Init, Linear, normal, param
from jaxlm.ops import activations, ragged, route
from jaxlm.parallel import place
from jaxlm.parallel.place import constrain
from jaxlm.parallel.rules import Rules, entries


class Experts(nnx.Module):
    """One matrix an expert: kernel [E, inputs, outputs]."""

    def __init__(self, rngs: nnx.Rngs, count: int, inputs: tuple[int, str], outputs: tuple[int, str], *, init: Init, dtype: str):
        self.axes = ("expert", inputs[1], outputs[1])
        self.kernel = param(rngs, (count, inputs[0], outputs[0]), *self.axes, init=init, dtype=dtype)


class Moe(nnx.Module):
    """sum over a token's k experts of weight * down(activation(gate(x)) * up(x)); the router works in float32."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        size: int,
        hidden: int,
        experts: int,
        chosen: int,
        *,
        activation: str = "silu",
        init: Init = normal(),
        out_init: Init = normal(),
        dtype: str = "float32",
    ):
        """chosen: experts a token uses."""
        self.activation, self.chosen = activation, chosen
        self.router = Linear(rngs, (size,), (experts,), ("embed", None), bias=False, init=init, dtype=dtype)
        wide, narrow = (hidden, "mlp"), (size, "embed")
        self.gate = Experts(rngs, experts, narrow, wide, init=init, dtype=dtype)
        self.up = Experts(rngs, experts, narrow, wide, init=init, dtype=dtype)
        self.down = Experts(rngs, experts, wide, narrow, init=out_init, dtype=dtype)

    def __call__(self, x: Array, segments: Array | None = None) -> tuple[Array, route.Load]:
        """[B, L, D] and what the router did. Tokens of segment 0 go to no expert: 0 comes back for them."""
        with jax.named_scope("moe"):
            logits = constrain(self.router(x.astype(jnp.float32)), "batch", "seq", None)
            weights, experts = route.choose(logits, self.chosen)
            real = jnp.ones(x.shape[:2], bool) if segments is None else segments > 0
            load = route.load(logits, experts, real)
            experts = jnp.where(real[..., None], experts, logits.shape[-1])
            stored = [m.kernel.get_value() for m in (self.gate, self.up, self.down)]
            if any(type(w) in KINDS for w in stored):
                raise UserError("the matrices of experts can only be plain arrays: leave mlp/(gate|up|down) of this model as it is")
            layout = place.active()
            if layout is None:
                compute = functools.partial(_compute, self.activation, ragged.backend(jax.default_backend()), Split())
                y = compute(x, weights, experts, *stored)
            else:
                y = _on_devices(layout, self.activation, x, weights, experts, stored, [m.axes for m in (self.gate, self.up, self.down)])
            return constrain(y, "batch", "seq", "act_embed"), load


@dataclasses.dataclass(frozen=True)
class Split:
    """Over which mesh axes the parts of one computation lie, as seen from a device."""

    tokens: tuple[str, ...] = ()  # both tokens and experts: tokens are gathered, results added and handed back
    experts: tuple[str, ...] = ()  # experts at all
    sums: tuple[str, ...] = ()  # experts or hidden features, of the same tokens: results are added
    gathers: tuple[tuple[tuple[str, ...], ...], ...] = ((),) * 3  # each matrix, by dimension: what only storage splits


def _compute(activation: str, backend: str, split: Split, x: Array, weights: Array, experts: Array, *stored: Array) -> Array:
    """One device's part: x [B, L, D], weights and experts [B, L, k] (E of all devices = none), matrices as stored."""
    shape, k = x.shape, experts.shape[-1]
    # What several devices share is said to vary while it is smallest: there its gradients are added.
    x, weights = (ragged.vary(a, frozenset(split.sums)) for a in (x, weights))
    x, weights, experts = (_gather(a.reshape(-1, a.shape[-1]), split.tokens, 0) for a in (x, weights, experts))
    gate, up, down = (_whole(ragged.vary(w.astype(x.dtype), ragged.varies(x)), axes) for w, axes in zip(stored, split.gathers, strict=True))
    with jax.named_scope("dispatch"):
        first = lax.axis_index(split.experts) * up.shape[0] if split.experts else 0
        order, inverse, sizes = ragged.sort(experts.reshape(-1) - first, up.shape[0])
        rows = ragged.permute(jnp.repeat(x, k, 0), order, inverse)
    with jax.named_scope("experts"):
        act: Callable[[Array], Array] = activations.find(activation)
        hidden = act(ragged.ragged_dot(rows, gate, sizes, backend)) * ragged.ragged_dot(rows, up, sizes, backend)
        out = ragged.ragged_dot(checkpoint_name(hidden, "mlp_hidden"), down, sizes, backend)
    with jax.named_scope("combine"):
        out = ragged.permute(out, inverse, order).reshape(-1, k, shape[-1])
        out = jnp.sum(out.astype(jnp.float32) * weights[..., None], 1).astype(x.dtype)
        if split.tokens:
            out = lax.psum_scatter(out, split.tokens, scatter_dimension=0, tiled=True)
        return (lax.psum(out, split.sums) if split.sums else out).reshape(shape)


def _gather(x: Array, axes: tuple[str, ...], dimension: int) -> Array:
    return lax.all_gather(x, axes, axis=dimension, tiled=True) if axes else x


def _whole(w: Array, axes: tuple[tuple[str, ...], ...]) -> Array:
    for dimension, names in enumerate(axes):
        w = _gather(w, names, dimension)
    return w


def _on_devices(layout: place.Layout, activation: str, x: Array, weights: Array, experts: Array, stored: list[Array],
                axes: list[tuple[str, ...]]) -> Array:
    """`_compute` on every device; matrices arrive as they are stored, and are gathered again for the gradient."""
    real = lambda table: {axis: tuple(a for a in names if layout.mesh.shape[a] > 1) for axis, names in table.items()}
    rules = dataclasses.replace(layout.rules, params=real(layout.rules.params), acts=real(layout.rules.acts))
    tokens = rules.spec(("batch", "seq", None))
    rules.spec(("batch", "seq", "act_mlp"))  # UserError where hidden features are split over what tokens are
    used = lambda *names: tuple(a for name in names for a in rules.acts.get(name, ()))
    of_experts, of_tokens = used("act_expert"), used("batch", "seq")
    parts = rules.parts("act_expert", layout.mesh.shape)
    if stored[0].shape[0] % parts:
        raise UserError(f"{stored[0].shape[0]} experts do not divide over {parts} devices ({'*'.join(of_experts)}): change one of them")
    specs, gathers = zip(*(_storage(rules, of_tokens, names) for names in axes))
    split = Split(
        tokens=tuple(a for a in of_experts if a in of_tokens),
        experts=of_experts,
        sums=tuple(a for a in (*of_experts, *used("act_mlp")) if a not in of_tokens),
        gathers=gathers,
    )
    compute = functools.partial(_compute, activation, ragged.backend(layout.platform), split)
    if not layout.cut:
        compute = jax.shard_map(compute, mesh=layout.mesh, in_specs=(tokens, tokens, tokens, *specs), out_specs=tokens)
    # Kept for the backward pass, the gathered matrices of all layers would be the whole model on every device.
    kept = lambda primitive, *_, **__: primitive.name not in ("all_gather", "convert_element_type", "pvary")
    return jax.checkpoint(compute, policy=kept)(x, weights, experts, *stored)


def _storage(rules: Rules, of_tokens: tuple[str, ...], axes: tuple[str, ...]) -> tuple[PartitionSpec, tuple[tuple[str, ...], ...]]:
    """How a matrix of experts enters the computation, and over what each of its dimensions is gathered there.

    A dimension is split as it is computed with, and within that as it is stored, over axes that split tokens too. (What
    only storage splits over others has been gathered before: those devices compute the same.)
    """
    compute = entries(rules.spec(tuple(COMPUTE.get(axis) for axis in axes)))
    taken = {name for entry in compute for name in entry}
    gathers = tuple(tuple(a for a in entry if a in of_tokens and a not in taken) for entry in entries(rules.spec(axes)))
    spec = PartitionSpec(*((*first, *more) or None for first, more in zip(compute, gathers, strict=True)))
    return spec, gathers

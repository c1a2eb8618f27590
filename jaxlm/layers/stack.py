# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A stack of equal layers over one tree of stacked parameters: scanned or unrolled, rematerialised by a named policy.

Scan compiles in time independent of depth; unrolled runs faster on CPU and on one GPU. The numbers are the same.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxlm.core import apart
from jaxlm.core.types import Array

LAYER = "layer"  # the mark on what goes into the first layer and comes out of each
_POLICIES = jax.checkpoint_policies

# What the backward pass finds saved, from all to nothing; all else of a layer is computed again.
REMAT: dict[str, Any] = {
    "none": None,  # everything
    "dots": _POLICIES.checkpoint_dots,  # every matmul's result, attention scores included
    "dots_no_batch": _POLICIES.checkpoint_dots_with_no_batch_dims,  # the matmuls with weights
    "names": _POLICIES.save_only_these_names("qkv", "context"),  # what attention reads and gives
    "context": _POLICIES.save_only_these_names("context"),
    "full": _POLICIES.nothing_saveable,  # only each layer's input
}


def make(rngs: nnx.Rngs, layers: int, layer: Callable[[nnx.Rngs], nnx.Module], shared: bool = False) -> nnx.Module:
    """One module whose parameters are those of all layers, stacked; `shared`: one layer's, not stacked (ALBERT)."""
    if shared:
        return layer(rngs)
    return jax.vmap(lambda key: layer(nnx.Rngs(params=key)))(jax.random.split(rngs.params(), layers))


def run(
    blocks: nnx.Module,
    carry: Any,
    call: Callable[[nnx.Module, Any, Any, Array | None, dict[str, Any]], tuple[Any, Any]],
    *,
    layers: int,
    scan: bool,
    remat: str = "none",
    shared: bool = False,
    key: Array | None = None,
    inputs: dict[str, list] | None = None,
) -> tuple[Any, Any]:
    """Fold call(block, carry, layer, key, inputs) -> (carry, out) over the layers; outs come back stacked.

    layer    the number of the layer: an int when unrolled, traced when scanned
    key      a layer's is fold_in(key, layer); None stays None
    inputs   what differs between layers, one list entry a layer; the layer sees its own (traced when scanned)
    """
    if remat not in REMAT:
        raise ValueError(f"remat '{remat}' is none of {', '.join(REMAT)}")
    graphdef, weights = nnx.split(blocks)
    inputs = inputs or {}

    def body(carry: Any, w: Any, layer: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
        with jax.named_scope("block"):
            layer_key = None if key is None else jax.random.fold_in(key, layer)
            carry, out = call(nnx.merge(graphdef, w), carry, layer, layer_key, inputs)
            return _marked(carry), out

    carry = _marked(carry)

    if scan and not apart.any_apart(weights):
        if remat != "none":
            # Inside a loop nothing can be merged with the forward pass, so the barriers would only cost.
            body = jax.checkpoint(body, policy=REMAT[remat], prevent_cse=False)
        each = {name: jnp.asarray(values) for name, values in inputs.items()}
        numbers = lax.iota(jnp.int32, layers)
        if shared:
            return lax.scan(lambda c, xs: body(c, weights, *xs), carry, (numbers, each))
        return lax.scan(lambda c, xs: body(c, *xs), carry, (weights, numbers, each))

    # One split and not one index a layer: its gradient is a concatenation, where that of an index adds whole stacks.
    part = [weights] * layers if shared else _unstack(weights, layers)
    outs = []
    for layer in range(layers):
        own = {name: values[layer] for name, values in inputs.items()}
        step = lambda carry, w, layer=layer, own=own: body(carry, w, layer, own)
        if remat != "none":
            step = jax.checkpoint(step, policy=REMAT[remat])
        carry, out = step(carry, part[layer])
        outs.append(out)
    return carry, jax.tree.map(lambda *x: jnp.stack(x), *outs)


def _marked(carry: Any) -> Any:
    """The carry with a mark on its first array, the stream itself."""
    (stream, *rest), structure = jax.tree.flatten(carry)
    return jax.tree.unflatten(structure, [checkpoint_name(stream, LAYER), *rest])


def _unstack(tree: Any, layers: int) -> list:
    leaves, structure = jax.tree.flatten(tree, is_leaf=apart.is_apart)
    parts = (x.layers if apart.is_apart(x) else apart.split(x, layers) for x in leaves)
    return [jax.tree.unflatten(structure, part) for part in zip(*parts, strict=True)]

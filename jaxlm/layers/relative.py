# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A learned number for each distance and head, added to the scores of attention (Raffel et al. 2020)."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.types import Array
from jaxlm.layers.linear import Init, gathered, normal, param
from jaxlm.ops import masks, relative
from jaxlm.parallel.place import constrain, copies


class RelativeBias(nnx.Module):
    """relative/table [buckets, N]; N heads."""

    def __init__(self, rngs: nnx.Rngs, heads: int, buckets: int, furthest: int, *, both_ways: bool, init: Init = normal(),
                 dtype: str = "float32"):
        self.form = (buckets, furthest, both_ways)
        self.table = param(rngs, (buckets, heads), None, "heads", init=init, dtype=dtype)

    def __call__(self, mask: masks.Mask, queries: int, keys: int) -> Array:
        """float32 [P, N, T, S], by the slots that the mask compares: T queries, S keys.

        P is B where rows have slots of their own, else 1 for each part that rows are split into: one for all would have its
        gradient summed over devices in every layer, and not once.
        """
        with jax.named_scope("relative"):
            q, k = masks.index(mask.q_index, queries), masks.index(mask.k_index, keys)
            found = relative.buckets(k[:, None, :] - q[:, :, None], *self.form)
            rows = gathered(self.table.get_value(), (None, "heads")).astype(jnp.float32)
            if found.shape[0] == 1:
                bias = jnp.take(copies(rows, ("batch",), (None, "act_heads"), (None, "heads")), found[0], axis=1)
            else:
                bias = jnp.take(rows, found, axis=0)
            return constrain(bias.transpose(0, 3, 1, 2), "batch", "act_heads", "seq", None)

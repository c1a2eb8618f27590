# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Flash attention of NVIDIA's cuDNN: scores never reach memory; causal order and windows cost nothing, other masks B x T x S."""
import dataclasses

import jax
import jax.numpy as jnp

from jaxlm.ops import masks

Array = jax.Array

# The head sizes that every supported generation takes (Ampere on); Hopper takes up to 256.
_LARGEST_HEAD = 128


def refusal(q: Array, k: Array, mask: masks.Mask, soft_cap: float, bias: Array | None, dropped: bool) -> str:
    """What the kernel cannot do of this, with the way out; "" when it can all."""
    del k, mask, bias  # it takes any: what it has no word for becomes a mask in memory
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it computes in bfloat16 or float16 and not in {q.dtype}: set model.dtype='bfloat16'"
    if q.shape[-1] % 8 or q.shape[-1] > _LARGEST_HEAD:
        return f"it takes heads of a multiple of 8 up to {_LARGEST_HEAD}, this one has {q.shape[-1]}"
    if soft_cap:
        return f"it has no soft cap ({soft_cap})"
    if dropped:
        return "it drops no attention weights: set model.attention_dropout=0"
    return ""


def attend(q, k, v, mask, scale, soft_cap, bias, rate, key):
    """As ops.attention.attend; arguments that `refusal` names are not looked at."""
    del soft_cap, rate, key
    T, S = q.shape[1], k.shape[1]
    # Causal order and a constant window to the left are the kernel's own words: it skips the blocks that nobody sees.
    own = (mask.causal and isinstance(mask.window, int) and mask.prefix is None and mask.q_index is None
           and mask.k_index is None and T == S)
    rest = dataclasses.replace(mask, causal=False, window=0) if own else mask
    nothing = not rest.causal and isinstance(rest.window, int) and not rest.window and rest.q_segments is None
    return jax.nn.dot_product_attention(
        q, k, v, None if bias is None else bias.astype(q.dtype), None if nothing else masks.dense(rest, T, S),
        scale=scale, is_causal=own, local_window_size=(mask.window - 1, 0) if own and mask.window else None,
        implementation="cudnn",
    )

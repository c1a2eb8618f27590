# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Splash attention, JAX's Pallas kernel for TPU: packed segments, causal order, fixed windows and soft caps, no scores in memory."""
import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as shapes

from jaxlm.ops import masks

Array = jax.Array

_LANES = 128  # a block's least size, and so the unit of lengths
_LARGEST_BLOCK = 512


def refusal(q: Array, k: Array, mask: masks.Mask, soft_cap: float, bias: Array | None, dropped: bool) -> str:
    """What the kernel cannot do of this, with the way out; "" when it can all."""
    del soft_cap
    if q.shape[1] % _LANES or k.shape[1] % _LANES:
        return f"it takes multiples of {_LANES} positions and not {q.shape[1]} over {k.shape[1]}: change data.seq_len"
    if not isinstance(mask.window, int):
        return "it takes a window that is a constant, and that of a scanned layer is not: set model.scan=false"
    if mask.prefix is not None:
        return "it has no mask with a prefix that all see"
    if mask.q_index is not None or mask.k_index is not None:
        return "it has no mask of queries and keys in another order, as with a cache"
    if mask.causal and q.shape[1] != k.shape[1]:
        return f"its causal order needs as many keys as queries and not {k.shape[1]} for {q.shape[1]}"
    if bias is not None:
        return "it adds no bias to scores"
    if dropped:
        return "it drops no attention weights: set model.attention_dropout=0"
    return ""


def attend(q, k, v, mask, scale, soft_cap, bias, rate, key, interpret: bool = False):
    """As ops.attention.attend, on one device's arrays; arguments that `refusal` names are not looked at.

    No gradient may arrive at a query that sees nothing (a padded target, which has no weight): the kernel's is not that of a mean.
    interpret: run the kernel's program step by step on any platform, for tests.
    """
    del bias, rate, key
    T, N, S = q.shape[1], q.shape[2], k.shape[1]
    one = _shape(mask, T, S)
    run = kernels.make_splash_mha(
        shapes.MultiHeadMask([one] * N), block_sizes=_blocks(T, S), head_shards=1, q_seq_shards=1,
        attn_logits_soft_cap=soft_cap or None, interpret=interpret,
    )
    heads_first = lambda x: x.transpose(0, 2, 1, 3)
    # The kernel leaves scaling to its caller.
    q, k, v = heads_first(q * jnp.asarray(scale, q.dtype)), heads_first(k), heads_first(v)
    if mask.q_segments is None:
        out = jax.vmap(lambda q, k, v: run(q, k, v))(q, k, v)
    else:
        ids = kernels.SegmentIds(mask.q_segments, mask.k_segments)
        out = jax.vmap(lambda q, k, v, ids: run(q, k, v, segment_ids=ids))(q, k, v, ids)
    return heads_first(out).astype(v.dtype)


def _shape(mask: masks.Mask, queries: int, keys: int) -> shapes.Mask:
    size, near = (queries, keys), mask.window - 1
    if mask.window:
        return shapes.LocalMask(size, (near, 0 if mask.causal else near), 0)
    return shapes.CausalMask(size) if mask.causal else shapes.FullMask(size)


def _blocks(queries: int, keys: int) -> kernels.BlockSizes:
    """The largest blocks up to 512 that divide the lengths, for the forward and both backward kernels."""
    q, kv = (next(b for b in range(_LARGEST_BLOCK, 0, -_LANES) if n % b == 0) for n in (queries, keys))
    return kernels.BlockSizes(block_q=q, block_kv=kv, block_kv_compute=kv, block_q_dkv=q, block_kv_dkv=kv,
                              block_kv_dkv_compute=kv, block_q_dq=q, block_kv_dq=kv)

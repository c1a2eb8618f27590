# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What the hand-written models have in common."""
import jax
import jax.numpy as jnp
from jax import lax

# Dimensions of products of [B, H, T, d] with [B, H, S, d], and of [B, H, T, S] with [B, H, S, d].
NT, NN = (((3,), (3,)), ((0, 1), (0, 1))), (((3,), (2,)), ((0, 1), (0, 1)))


def norm(x, p, name, rms, eps=1e-5):
    wide = x.astype(jnp.float32)
    if rms:
        return (wide * lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + eps) * p[name + ".weight"]).astype(x.dtype)
    wide = wide - jnp.mean(wide, -1, keepdims=True)
    wide = wide * lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + eps)
    return (wide * p[name + ".weight"] + p[name + ".bias"]).astype(x.dtype)


def gelu(x, approximate=True):
    return jax.nn.gelu(x.astype(jnp.float32), approximate=approximate).astype(x.dtype)

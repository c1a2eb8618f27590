# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Normalisation of features, computed in float32 and returned in the input's type."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxlm.core.types import Array
from jaxlm.layers.linear import flat, ones, param, row, zeros
from jaxlm.ops import rows


class LayerNorm(nnx.Module):
    """Mean 0 and variance 1, then scale and (optionally) bias (Ba et al. 2016)."""

    def __init__(self, rngs: nnx.Rngs, size: int, *, eps: float = 1e-5, bias: bool = True, dtype: str = "float32"):
        self.eps = eps
        self.scale = param(rngs, (size,), "norm", init=ones, dtype=dtype)
        self.bias = param(rngs, (size,), "norm", init=zeros, dtype=dtype) if bias else None

    def __call__(self, x: Array) -> Array:
        with jax.named_scope("layer_norm"):
            if flat() and x.ndim == 3:
                bias = None if self.bias is None else self.bias.get_value()
                return rows.layer_norm(self.eps, x.reshape(-1, x.shape[-1]), self.scale.get_value(), bias).reshape(x.shape)
            wide = x.astype(jnp.float32)
            wide = wide - jnp.mean(wide, -1, keepdims=True)
            wide = wide * lax.rsqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + self.eps)
            wide = wide * row(self.scale.get_value().astype(jnp.float32), x.ndim)
            if self.bias is not None:
                wide = wide + row(self.bias.get_value().astype(jnp.float32), x.ndim)
            return wide.astype(x.dtype)


class RMSNorm(nnx.Module):
    """Root mean square 1, then (offset + scale) (Zhang and Sennrich 2019); Gemma stores the scale with offset 1."""

    def __init__(self, rngs: nnx.Rngs, size: int, *, eps: float = 1e-6, offset: float = 0.0, dtype: str = "float32"):
        self.eps, self.offset = eps, offset
        # The factor starts at 1, whatever the offset.
        self.scale = param(rngs, (size,), "norm", init=nnx.initializers.constant(1.0 - offset), dtype=dtype)

    def __call__(self, x: Array) -> Array:
        with jax.named_scope("rms_norm"):
            if flat() and x.ndim == 3:
                return rows.rms_norm(self.eps, self.offset, x.reshape(-1, x.shape[-1]), self.scale.get_value()).reshape(x.shape)
            wide = x.astype(jnp.float32)
            wide = wide * lax.rsqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + self.eps)
            return (wide * row(self.offset + self.scale.get_value().astype(jnp.float32), x.ndim)).astype(x.dtype)

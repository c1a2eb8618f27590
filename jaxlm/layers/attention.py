# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Multi-head attention as a layer: projections, rotary positions, a cache, and the backend that suits the platform."""

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jaxlm.core.types import Array
from jaxlm.layers.cache import View
from jaxlm.layers.linear import Init, Linear, normal
from jaxlm.layers.norm import RMSNorm
from jaxlm.ops import rope
from jaxlm.ops.attention import attend
from jaxlm.ops.masks import Mask
from jaxlm.parallel import place
from jaxlm.parallel.place import constrain


class Attention(nnx.Module):
    """Grouped-query attention of x over itself (and its cache), or over `source`."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        size: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        *,
        qkv_bias: bool = True,
        out_bias: bool = True,
        qk_norm: bool = False,
        norm_eps: float = 1e-6,
        norm_offset: float = 0.0,
        scale: float = 0.0,
        soft_cap: float = 0.0,
        rate: float = 0.0,
        backend: str = "auto",
        init: Init = normal(),
        out_init: Init = normal(),
        dtype: str = "float32",
    ):
        """scale: on the scores, 0 = head_dim ** -0.5. qk_norm: RMSNorm of each head's query and key before rotation."""
        self.scale = scale or head_dim**-0.5
        self.soft_cap, self.rate, self.backend = soft_cap, rate, backend
        linear = lambda n, axis: Linear(
            rngs, (size,), (n, head_dim), ("embed", axis, "head_dim"), bias=qkv_bias, init=init, dtype=dtype
        )
        self.q, self.k, self.v = linear(heads, "heads"), linear(kv_heads, "kv_heads"), linear(kv_heads, "kv_heads")
        self.o = Linear(
            rngs, (heads, head_dim), (size,), ("heads", "head_dim", "embed"), bias=out_bias, init=out_init, dtype=dtype
        )
        norm = lambda: RMSNorm(rngs, head_dim, eps=norm_eps, offset=norm_offset, dtype=dtype) if qk_norm else None
        self.q_norm, self.k_norm = norm(), norm()

    def __call__(
        self,
        x: Array,
        mask: Mask,
        *,
        rotary: tuple[Array, Array] | None = None,
        source: Array | None = None,
        bias: Array | None = None,
        cache: View | None = None,
        key: Array | None = None,
    ) -> tuple[Array, dict[str, Array] | None]:
        """The mixed values [B, T, D], and the cache's new store (None without one). rotary: sine and cosine of x."""
        with jax.named_scope("attention"):
            source = x if source is None else source
            q, k, v = self.q(x), self.k(source), self.v(source)
            if self.q_norm is not None:
                q, k = self.q_norm(q), self.k_norm(k)
            if rotary is not None:
                q, k = rope.rotate(q, *rotary), rope.rotate(k, *rotary)
            q = constrain(checkpoint_name(q, "qkv"), "batch", "seq", "act_heads", None)
            k, v = _everywhere(checkpoint_name(k, "qkv")), _everywhere(checkpoint_name(v, "qkv"))
            store = None
            if cache is not None:
                k, v, store = cache.extend(k, v)
            out = attend(
                q,
                k,
                v,
                mask,
                scale=self.scale,
                soft_cap=self.soft_cap,
                bias=bias,
                rate=self.rate,
                key=key,
                backend=backend(self.backend),
            )
            out = constrain(checkpoint_name(out, "context"), "batch", "seq", "act_heads", None)
            return constrain(self.o(out), "batch", "seq", "act_embed"), store


def _everywhere(x: Array) -> Array:
    """Keys or values [B, S, K, H], which every query needs: where positions are split, computed split and then gathered."""
    return place.move(x, ("batch", "seq", "act_kv_heads", None), ("batch", None, "act_kv_heads", None))


def backend(name: str) -> str:
    """The backend behind a config's word: "auto" is what is exact and fastest on the platform that the layout is on."""
    if name != "auto":
        return name
    layout = place.active()
    platform = jax.default_backend() if layout is None else layout.platform
    return "xla_cpu" if platform == "cpu" and not place.splits("seq") else "xla"

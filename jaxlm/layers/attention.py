# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Multi-head attention as a layer: projections, rotary positions, a cache, and the backend that suits the platform."""

import dataclasses

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jaxlm.core.errors import UserError
from jaxlm.core.types import Array
from jaxlm.layers.cache import View
from jaxlm.layers.linear import Init, Linear, beside, normal
from jaxlm.layers.norm import RMSNorm
from jaxlm.ops import rope
from jaxlm.ops.attention import KERNELS, attend, refusal
from jaxlm.ops.masks import Mask
from jaxlm.parallel import compiler, place
from jaxlm.parallel.place import constrain


class Attention(nnx.Module):
    """Grouped-query attention of x over itself (and its cache), or over a source whose `keys` were made before."""

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
        query_init: Init | None = None,
        out_init: Init = normal(),
        dtype: str = "float32",
    ):
        """scale: on the scores, 0 = head_dim ** -0.5. qk_norm: RMSNorm of each head's query and key before rotation.

        init: of all but the output, and of the query where it has none of its own.
        """
        self.scale = scale or head_dim**-0.5
        self.soft_cap, self.rate, self.backend = soft_cap, rate, backend
        common = dict(dtype=dtype, float8=True)
        linear = lambda n, axis, init=init: Linear(
            rngs, (size,), (n, head_dim), ("embed", axis, "head_dim"), bias=qkv_bias, init=init, **common
        )
        self.q = linear(heads, "heads", query_init or init)
        self.k, self.v = linear(kv_heads, "kv_heads"), linear(kv_heads, "kv_heads")
        self.o = Linear(
            rngs, (heads, head_dim), (size,), ("heads", "head_dim", "embed"), bias=out_bias, init=out_init, **common
        )
        norm = lambda: RMSNorm(rngs, head_dim, eps=norm_eps, offset=norm_offset, dtype=dtype) if qk_norm else None
        self.q_norm, self.k_norm = norm(), norm()

    def __call__(
        self,
        x: Array,
        mask: Mask,
        *,
        rotary: tuple[Array, Array] | None = None,
        source: tuple[Array, Array] | None = None,
        bias: Array | None = None,
        cache: View | None = None,
        key: Array | None = None,
    ) -> tuple[Array, dict[str, Array] | None]:
        """The mixed values [B, T, D], and the cache's new store (None without one). rotary: sine and cosine of x.

        source: keys and values [B, S, K, H] to look at in the place of x's own.
        """
        with jax.named_scope("attention"):
            wanted = [self.q, self.k, self.v] if source is None else [self.q]
            # With a cache each alone: to lie side by side, weights would be copied by each program, for a few tokens.
            q, *made = beside(x, wanted) if cache is None else [layer(x) for layer in wanted]
            q = q if self.q_norm is None else self.q_norm(q)
            q = q if rotary is None else rope.rotate(q, *rotary)
            q = constrain(checkpoint_name(q, "qkv"), "batch", "seq", "act_heads", None)
            k, v = source or self._placed(*made, rotary)
            store = None
            if cache is not None:
                k, v, store = cache.extend(k, v)
            options = dict(scale=self.scale, soft_cap=self.soft_cap, rate=self.rate, key=key)
            out = _attend(self.backend, q, k, v, mask, bias, options)
            out = constrain(checkpoint_name(out, "context"), "batch", "seq", "act_heads", None)
            return constrain(self.o(out), "batch", "seq", "act_embed"), store

    def keys(self, source: Array, rotary: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
        """Keys and values [B, S, K, H] of source [B, S, D], where every query finds them."""
        return self._placed(*beside(source, [self.k, self.v]), rotary)

    def _placed(self, k: Array, v: Array, rotary: tuple[Array, Array] | None) -> tuple[Array, Array]:
        k = k if self.k_norm is None else self.k_norm(k)
        k = k if rotary is None else rope.rotate(k, *rotary)
        return _everywhere(checkpoint_name(k, "qkv")), _everywhere(checkpoint_name(v, "qkv"))


def _everywhere(x: Array) -> Array:
    """Keys or values [B, S, K, H], which every query needs: where positions are split, computed split and then gathered."""
    return place.move(x, ("batch", "seq", "act_kv_heads", None), ("batch", None, "act_kv_heads", None))


# The kernel that is written for a platform.
_KERNEL = {"gpu": "cudnn", "tpu": "splash"}


def backend(name: str, q: Array, k: Array, mask: Mask, bias: Array | None = None, *, soft_cap: float = 0.0, rate: float = 0.0,
            key: Array | None = None) -> str:
    """The backend behind a config's word: "auto" is the platform's kernel where that can do what is asked for, else XLA.

    UserError when a kernel is named that is not for the platform that the layout is on, or for positions that are split.
    """
    layout, platform, split = place.active(), place.platform(), place.splits("seq")
    if name == "auto":
        if platform == "cpu":
            return "xla" if split else "xla_cpu"
        kernel = _KERNEL.get(platform, "xla")
        return "xla" if split or refusal(kernel, q, k, mask, soft_cap, bias, rate, key) else kernel
    if name in KERNELS and _KERNEL.get(platform) != name:
        raise UserError(f"attention_backend '{name}' is not for {platform}: set it to 'auto'")
    if name in KERNELS and split:
        raise UserError(f"attention_backend '{name}' takes whole rows, and rules '{layout.rules.name}' split them: set it to 'auto'")
    return name


def _attend(name: str, q: Array, k: Array, v: Array, mask: Mask, bias: Array | None, options: dict) -> Array:
    """`attend` by the backend of that name; a kernel, which the compiler cannot split, on each device's own rows and heads."""
    asked = {field: value for field, value in options.items() if field != "scale"}
    name, layout = backend(name, q, k, mask, bias, **asked), place.active()
    if name not in KERNELS or layout is None or layout.cut:
        return attend(q, k, v, mask, bias=bias, backend=name, library=compiler.library(), **options)
    if why := refusal(name, q, k, mask, bias=bias, **asked):  # said of the whole, before it is cut
        raise UserError(f"attention_backend '{name}': {why}. Or set it to 'auto'.")
    arrays = {f.name: x for f in dataclasses.fields(mask) if isinstance(x := getattr(mask, f.name), jax.Array)}
    # Slot numbers [T] are all rows' own; everything else of a mask begins with rows, but for a window's single number.
    split = lambda f, x: () if x.ndim == 0 else (None,) if f.endswith("index") and x.ndim == 1 else ("batch", None)[: x.ndim]
    spec = layout.rules.spec
    if spec(("act_heads",)) != spec(("act_kv_heads",)):
        raise UserError(f"attention_backend '{name}' needs heads and their keys on the same device: rules "
                        f"'{layout.rules.name}' must split act_heads and act_kv_heads alike")
    heads = {axis: spec(("batch", None, axis, None)) for axis in ("act_heads", "act_kv_heads")}
    run = jax.shard_map(
        lambda q, k, v, arrays, bias: attend(
            q, k, v, dataclasses.replace(mask, **arrays), bias=bias, backend=name, **{**options, "key": None}),
        mesh=layout.mesh,
        in_specs=(heads["act_heads"], heads["act_kv_heads"], heads["act_kv_heads"],
                  {f: spec(split(f, x)) for f, x in arrays.items()},
                  None if bias is None else spec(("batch" if bias.shape[0] > 1 else None, "act_heads", None, None))),
        out_specs=heads["act_heads"],
        check_vma=False,  # a Pallas call does not say over which axes its result varies
    )
    return run(q, k, v, arrays, bias)

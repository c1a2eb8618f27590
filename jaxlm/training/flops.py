# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Matrix-product FLOPs of a function, counted from its jaxpr: the compiler's own count takes a loop's body once."""
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import time

from jaxlm.core import tree
from jaxlm.ops import ragged


def count(function: Callable, *args: Any) -> int:
    """Multiply-adds times two of every matrix product that `function(*args)` runs; loops by their length.

    Attention counts whole (causal masking saves nothing in this count); a `cond` counts its dearest branch; of experts
    those that a token uses count.
    """
    # In a context of its own no layout is in force, whose devices would be counted by what each does.
    return _count(contextvars.Context().run(jax.make_jaxpr(function), *args).jaxpr)


def active(params: Any, axes: Any, experts_per_token: int) -> int:
    """How many of the parameters (arrays or shapes) a token is computed with: of experts so many, of the rest all."""
    names = tree.flatten_axes(axes)
    share = lambda path, x: experts_per_token / x.shape[names[path].index("expert")] if "expert" in names[path] else 1
    return round(sum(x.size * share(path, x) for path, x in tree.flatten(params).items()))


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contract, _), _ = params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * int(np.prod(equation.outvars[0].aval.shape, dtype=np.int64)) * int(np.prod([left[i] for i in contract]))
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            out_features = kernel[params["dimension_numbers"].rhs_spec[0]]
            total += 2 * int(np.prod(equation.outvars[0].aval.shape)) * int(np.prod(kernel)) // out_features
        inner = list(_subjaxprs(params))
        if inner and inner[0].debug_info.func_name == ragged.NAME:  # how a platform walks over the groups is no work of the model's
            total += ragged.flops(*(x.aval for x in equation.invars[:2]))
            continue
        inner = [_count(sub) for sub in inner]
        if inner:
            total += max(inner) if name == "cond" else sum(inner) * (params["length"] if name == "scan" else 1)
    return total


def _subjaxprs(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for x in value if isinstance(value, (tuple, list)) else (value,):
            x = getattr(x, "jaxpr", x)
            if hasattr(x, "eqns"):
                yield x


# Dense bf16 peak of one device in FLOP/s, from the vendors' data sheets.
PEAK = {
    "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5e": 197e12, "TPU v5": 459e12, "TPU v5p": 459e12,
    "TPU v6 lite": 918e12, "TPU v6e": 918e12, "NVIDIA A100": 312e12, "NVIDIA H100": 989e12, "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12, "NVIDIA B200": 2250e12,
}


def peak(device: jax.Device) -> tuple[float, str]:
    """(FLOP/s of one device, where the figure is from): a data sheet, else a matrix product measured now."""
    # The longest name that fits: "TPU v5 lite" before "TPU v5".
    for name in sorted(PEAK, key=len, reverse=True):
        if device.device_kind.startswith(name):
            return PEAK[name], "data sheet"
    n = 2048
    x = jax.device_put(np.random.default_rng(0).standard_normal((n, n), np.float32), device)
    product = jax.jit(jnp.matmul).lower(x, x).compile()
    product(x, x).block_until_ready()
    best = min(_seconds(lambda: product(x, x).block_until_ready()) for _ in range(3))
    # Virtual devices share one host: each has its share of what was measured.
    share = jax.local_device_count() if device.platform == "cpu" else 1
    return 2 * n**3 / best / share, f"measured, {n} x {n} float32 product"


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began

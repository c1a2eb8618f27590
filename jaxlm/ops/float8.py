# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A product of float8 numbers and its gradients, on qwix: weights and activations in e4m3, what comes back in e5m2.

The formats are those of Micikevicius et al. 2022 ("FP8 formats for deep learning"). Each tensor has one scale, the largest
number of this very product, so that nothing is carried from step to step. qwix's own function for training is not part of
its interface, and rounds the gradient once for each of the two products that it is in; here it is rounded once.
"""
import functools
import re
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.core import cut
from jaxlm.core.errors import UserError

Array = jax.Array
FORWARD, BACKWARD = jnp.float8_e4m3fn, jnp.float8_e5m2


def qwix() -> ModuleType:
    """The library; UserError where it is not installed."""
    try:
        import qwix
    except ImportError as error:
        raise UserError(f'products in float8 are those of qwix, which cannot be imported ({error}): pip install "jaxlm[fp8]"') from error
    return qwix


def refusal(device: jax.Device) -> str:
    """Why a device surely has no units for float8; "" where only a measurement can tell."""
    if device.platform == "cpu":
        return "CPUs have no float8 units"
    capability = str(getattr(device, "compute_capability", ""))  # NVIDIA's are numbers
    if re.fullmatch(r"\d+\.\d+", capability) and tuple(map(int, capability.split("."))) < (8, 9):
        return f"{device.device_kind} has no float8 units (its compute capability is {capability}, 8.9 is the first that has)"
    return ""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def product(x: Array, w: Array, shared: int, sums: Any = jnp.float32) -> Array:
    """x [..., *K] times w [*K, ...], of one type, over the `shared` dimensions K, in that type; both gradients are float8 products too.

    sums: the type in which sums leave the unit that adds them. Those of accelerators add in float32 whatever it is, so that the
    type of x saves memory traffic there; XLA:CPU adds in this type. A tensor of zeros stays zeros; an infinity becomes NaN.
    """
    return _product(x, w, shared, sums)[0]


def _product(x: Array, w: Array, shared: int, sums: Any) -> tuple[Array, tuple[Any, Any]]:
    kept = _rounded(x, FORWARD, rows=True), _rounded(w, FORWARD)  # for the gradients too, in a byte a number
    return _dot(*kept, _last(x.ndim, shared), range(shared), sums).astype(x.dtype), kept


def _gradients(shared: int, sums: Any, kept: tuple[Any, Any], d_y: Array) -> tuple[Array, Array]:
    (x, w), dtype = kept, d_y.dtype
    free, outer = x.ndim - shared, w.ndim - shared
    d_y = _rounded(d_y, BACKWARD, rows=True)
    d_x = _dot(d_y, w, _last(d_y.ndim, outer), _last(w.ndim, outer), sums)
    return d_x.astype(dtype), _dot(x, d_y, range(free), range(free), sums).astype(dtype)


product.defvjp(_product, _gradients)


def _rounded(x: Array, kind: Any, rows: bool = False) -> Any:
    """x as float8 numbers and their scale. From float32: a quotient in bfloat16 would be rounded twice, and the scale too.

    rows: of a batch, whose scale is that of all its rows where a part of them is computed (core/cut.py).
    """
    x = x.astype(jnp.float32)
    if cut.whole() or not rows:
        return qwix().quantize(x, kind)
    scale = qwix().quantize(cut.largest(jnp.max(jnp.abs(x), keepdims=True)), kind).scale
    return qwix().QArray((x / scale).astype(kind), scale)


def _dot(a: Any, b: Any, of_a: range, of_b: range, sums: Any) -> Array:
    return qwix().dot_general(a, b, ((tuple(of_a), tuple(of_b)), ((), ())), preferred_element_type=sums)


def _last(rank: int, count: int) -> range:
    return range(rank - count, rank)

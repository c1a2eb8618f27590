# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Weights and the one way to multiply by them: parameters with axis names, and an einsum by the kind of leaf."""

import contextvars
import dataclasses
import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxlm.core.types import Array, Batch, Outputs, Params
from jaxlm.ops import dense, rows, vector
from jaxlm.ops import float8 as float8s
from jaxlm.parallel import place

Axes = tuple[str | None, ...]
Init = Callable[..., Array]


def normal(std: float = 0.02) -> Init:
    return nnx.initializers.normal(std)


def glorot(inputs: int, outputs: int) -> Init:
    """Uniform, with the variance 2 / (inputs + outputs) (Glorot and Bengio 2010)."""
    end = (6 / (inputs + outputs)) ** 0.5
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -end, end)


zeros, ones = nnx.initializers.zeros, nnx.initializers.ones


def param(
    rngs: nnx.Rngs, shape: tuple[int, ...], *axes: str | None, init: Init = normal(), dtype: str = "float32"
) -> nnx.Param:
    """A parameter with one logical axis name (or None) a dimension, by which rules place it."""
    if len(axes) != len(shape):
        raise ValueError(f"{len(axes)} axis names {axes} for a parameter of shape {shape}")
    return nnx.Param(init(rngs.params(), shape, jnp.dtype(dtype)), axes=axes)


# How a leaf that is not an array acts as a weight: type -> f(equation, x, leaf, axes) -> product.
KINDS: dict[type, Callable[[str, Array, Any, Axes | None], Array]] = {}


def einsum(equation: str, x: Array, w: Any, axes: Axes | None = None, float8: bool = False) -> Array:
    """x times a weight in x's type; the last dimensions of x meet the first of w ("btd,dnh->btnh").

    axes: the weight's logical axes, by which a split weight is gathered before use. A weight that is not an array
    (quantized, low-rank) is multiplied by what its type put into KINDS. float8: it may be, where `Float8` asks for it.
    """
    kind = KINDS.get(type(w))
    if kind is not None:
        return kind(equation, x, w, axes)
    # Asked here and handed on: a backward pass is traced when nobody asks any more.
    seen = _ASKED.get() if float8 else None
    if seen is not None:
        seen[_share(_contracted(equation), x, w, axes or ())] += 1
    if axes is None or place.alone():
        return product(equation, x, w.astype(x.dtype), float8=seen is not None)
    return _split_product(equation, axes, seen is not None, x, w)


def product(equation: str, x: Array, w: Array, axes: Axes = (), float8: bool = False) -> Array:
    """`einsum` with an array that is whole where it is met by x, in x's type; axes: its logical ones, where any is split."""
    shared = _contracted(equation)
    if float8 and place.platform() == "cpu":
        return lax.optimization_barrier(float8s.product(x, w, shared))  # as below
    if float8:
        return float8s.product(x, w, shared, x.dtype)
    if not flat(*axes[shared:]):
        return jnp.einsum(equation, x, w)
    free = x.ndim - shared
    lead, inner = x.shape[:free], x.shape[free:]
    outer = w.shape[len(inner) :]
    # Two-dimensional products: XLA:CPU runs the gradient of a three-dimensional one at half speed.
    x, w = x.reshape(-1, math.prod(inner)), w.reshape(math.prod(inner), -1)
    if not place.alone():
        out = x @ w
    elif x.shape[0] == 1 and vector.suits(*w.shape, x.dtype):
        out = vector.times(x[0], w)[None]
    else:
        out = dense.matmul(x, w)
    # Without the barrier XLA:CPU has oneDNN compute a product and its activation in one call, and then hands the activated
    # values to everybody who wants the product too, the gradient of the activation among them (jaxlib 0.12).
    out = lax.optimization_barrier(out)
    return out.reshape(*lead, *outer)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _split_product(equation: str, axes: Axes, float8: bool, x: Array, w: Array) -> Array:
    """The product with a stored weight, which is gathered for it, and for its gradient once more.

    Left to autodiff, the gathered weights of all layers would be kept for the backward pass: the whole model on
    every device.
    """
    return product(equation, x, _whole(w.astype(x.dtype), axes), axes, float8)


def _split_product_forward(equation, axes, float8, x, w):
    return _split_product(equation, axes, float8, x, w), (x, w)


def _split_product_backward(equation, axes, float8, saved, d_y):
    x, w = saved
    # Without the barrier the compiler would find that it has gathered this weight before, and keep it.
    stored, d_y = lax.optimization_barrier((w, d_y))
    _, back = jax.vjp(functools.partial(product, equation, axes=axes, float8=float8), x, _whole(stored.astype(x.dtype), axes))
    d_x, d_w = back(d_y)
    return d_x, place.constrain(d_w, *axes).astype(w.dtype)


_split_product.defvjp(_split_product_forward, _split_product_backward)


@functools.cache
def _contracted(equation: str) -> int:
    """How many dimensions x and w share; ValueError unless they are the last of x, the first of w and gone after."""
    inputs, out = equation.split("->")
    x, w = inputs.split(",")
    shared = "".join(letter for letter in x if letter in w)
    if not shared or not x.endswith(shared) or not w.startswith(shared) or out != x[: -len(shared)] + w[len(shared) :]:
        raise ValueError(
            f"einsum '{equation}': the last dimensions of x must be the first of the weight, and nothing else shared"
        )
    return len(shared)


# The axis of an activation that a weight's dimension meets; absent = whole while computing.
COMPUTE = {"vocab": "act_vocab", "heads": "act_heads", "kv_heads": "act_kv_heads", "mlp": "act_mlp", "expert": "act_expert"}


# Set while the model of a training step is applied: the products that were asked for in float8, as `_share` describes them.
_ASKED: contextvars.ContextVar[Counter | None] = contextvars.ContextVar("jaxlm_float8", default=None)


@dataclasses.dataclass(frozen=True)
class Float8:
    """A model applied with those products in float8 (ops/float8.py) that its layers allow to be: for training steps.

    seen: (rows, inputs, outputs) of the products that were traced, as one device computes them -> how many.
    """

    model: Any
    seen: Counter = dataclasses.field(default_factory=Counter)

    def axes(self) -> Params:
        return self.model.axes()

    def apply(self, params: Params, batch: Batch, *, key: Array | None = None, cache: Any = None) -> Outputs:
        token = _ASKED.set(self.seen)
        try:
            return self.model.apply(params, batch, key=key, cache=cache)
        finally:
            _ASKED.reset(token)


def _share(shared: int, x: Array, w: Array, axes: Axes) -> tuple[int, int, int]:
    """(rows, inputs, outputs) of the part of a product that one device computes."""
    parts = [place.parts(COMPUTE[axis]) if axis in COMPUTE else 1 for axis in axes or (None,) * w.ndim]
    mine = [size // part for size, part in zip(w.shape, parts, strict=True)]
    rows = math.prod(x.shape[: x.ndim - shared]) // place.parts("batch") // place.parts("seq")
    return rows, math.prod(mine[:shared]), math.prod(mine[shared:])


def flat(*outputs: str | None) -> bool:
    """Whether rows and positions are computed as one dimension, and so are a weight's of the axes `outputs`: on CPUs, unless one
    that is not the first is split."""
    # They merge without moving data only if what comes after the first is whole.
    return place.platform() == "cpu" and not place.splits("seq") and not any(place.splits(COMPUTE[a]) for a in outputs[1:] if a in COMPUTE)


def _whole(w: Array, axes: Axes) -> Array:
    """A weight as it is computed with: whole along the axes that only storage splits, split where activations are."""
    return place.constrain(w, *(COMPUTE.get(axis) for axis in axes))


def gathered(w: Array, axes: Axes) -> Array:
    """A small weight or a table, gathered for use; its gradient goes back to how it is stored, summed on the way."""
    return w if place.alone() else _gathered(w, axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gathered(w: Array, axes: Axes) -> Array:
    return _whole(w, axes)


_gathered.defvjp(lambda w, axes: (_whole(w, axes), None), lambda axes, _, d_w: (place.constrain(d_w, *axes),))


class Linear(nnx.Module):
    """y = x @ kernel + bias over the last len(inputs) dimensions of x, computed in x's type."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        axes: Axes,
        *,
        bias: bool = True,
        init: Init = normal(),
        dtype: str = "float32",
        float8: bool = False,
    ):
        """float8: a training step may be asked to compute the product in it."""
        self.inputs, self.axes, self.float8 = len(inputs), axes, float8
        self.kernel = param(rngs, (*inputs, *outputs), *axes, init=init, dtype=dtype)
        self.bias = param(rngs, outputs, *axes[self.inputs :], init=zeros, dtype=dtype) if bias else None

    def __call__(self, x: Array) -> Array:
        lead, inner, outer = "abc"[: x.ndim - self.inputs], "uv"[: self.inputs], "xyz"[: len(self.axes) - self.inputs]
        y = einsum(f"{lead}{inner},{inner}{outer}->{lead}{outer}", x, self.kernel.get_value(), self.axes, self.float8)
        return y if self.bias is None else add_row(y, self.bias.get_value(), self.axes[self.inputs :])


def beside(x: Array, layers: Sequence[Linear]) -> list[Array]:
    """layer(x) of each of `layers`, which take the last dimension of x.

    On one CPU their weights lie side by side in one product, which reads x once and is wide enough for all cores: a step of
    4 x 128, 6 x 384 and GPT-2 124M in bfloat16 in 0.93, 0.96 and 0.96 of the time. Elsewhere, in float8, and where a weight is
    of a kind of its own (KINDS), each is multiplied alone.
    """
    if not _plain(layers):
        return [layer(x) for layer in layers]
    weights = [layer.kernel.get_value() for layer in layers]
    outer = [w.shape[1:] for w in weights]
    flat = x.reshape(-1, x.shape[-1])
    y = product("ru,uv->rv", flat, jnp.concatenate([w.astype(x.dtype).reshape(len(w), -1) for w in weights], 1))
    parts = jnp.split(y, list(itertools.accumulate(map(math.prod, outer)))[:-1], 1)
    out = []
    for layer, part, shape in zip(layers, parts, outer, strict=True):
        part = part if layer.bias is None else rows.add(part, layer.bias.get_value().reshape(-1))
        # Without the barrier a part is cut out in the shape of its heads, number by number: at a fifth of the speed.
        out.append(lax.optimization_barrier(part).reshape(*x.shape[:-1], *shape))
    return out


def after(of: Callable[..., Array], parts: tuple[Array, ...], layer: Linear) -> Array:
    """layer(of(*parts)) of parts [B, L, D], of element by element, for a layer that takes D.

    On one CPU in float32 the backward pass finds `parts` saved and makes of(*parts) again: one array less of a layer's widest, for
    nothing (6 x 384: 113 MB of 740). Elsewhere of(*parts) is saved: a bfloat16 step would take 1.05 to 1.1 times as long.
    """
    *lead, inner = parts[0].shape
    if not _plain([layer]) or parts[0].dtype != jnp.float32 or math.prod(lead) == 1:
        return layer(place.constrain(of(*parts), "batch", "seq", COMPUTE.get(layer.axes[0])))
    w = layer.kernel.get_value().astype(parts[0].dtype)
    # The barrier is that of `product`.
    y = lax.optimization_barrier(dense.matmul_of(of, tuple(x.reshape(-1, inner) for x in parts), w.reshape(inner, -1)))
    y = y.reshape(*lead, *w.shape[1:])
    return y if layer.bias is None else add_row(y, layer.bias.get_value(), layer.axes[1:])


def _plain(layers: Sequence[Linear]) -> bool:
    """Whether each is an array times rows on one CPU, in its own type."""
    float8 = _ASKED.get() is not None and any(layer.float8 for layer in layers)
    return place.platform() == "cpu" and place.alone() and not float8 and not any(type(l.kernel.get_value()) in KINDS for l in layers)


def add_row(y: Array, b: Array, axes: Axes) -> Array:
    """y + b over the last dimensions, in y's type; axes: the logical ones of b, by which a split one is gathered before use."""
    b = gathered(b, axes)
    return rows.add(y, b) if flat(*axes) else y + row(b.astype(y.dtype), y.ndim)


def row(x: Array, rank: int) -> Array:
    """x with leading dimensions of 1 up to `rank`: broadcasting that is written down."""
    return x.reshape((1,) * (rank - x.ndim) + x.shape)

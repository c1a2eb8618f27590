# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Rows sorted into groups, and their product with one matrix a group; two formulations with the same numbers.

Letters: N rows, E groups, K inputs, M outputs, R rows of a block. Rows past the last group are nobody's: their product
is 0, and so is their gradient.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

BACKENDS = ("xla", "blocks")
NAME = "_ragged_dot"  # of the function in a jaxpr, whose first operands are the rows and the matrices

_INPUTS, _OUTPUTS = 1, 2  # the dimension of the matrices that meets the rows


def backend(platform: str) -> str:
    """The formulation for a platform: XLA:CPU multiplies every row with every matrix where it is asked for ragged_dot."""
    return "blocks" if platform == "cpu" else "xla"


def ragged_dot(x: Array, w: Array, sizes: Array, backend: str) -> Array:
    """[N, M] in x's type: x [N, K], whose first sizes[0] rows meet w[0], the next sizes[1] w[1], and so on.

    w [E, K, M]; sizes int32 [E] with a sum of at most N. backend: "xla" is lax.ragged_dot; "blocks" walks over blocks of
    rows of one group, whose number is known only when it runs.
    """
    if backend not in BACKENDS:
        raise ValueError(f"ragged_dot backend '{backend}' is none of {', '.join(BACKENDS)}")
    # Inside shard_map all three vary alike, so that the gradient of a matrix is summed where devices share it.
    over = varies(x) | varies(w) | varies(sizes)
    x, w, sizes = (vary(a, over) for a in (x, w, sizes))
    return _ragged_dot(x, w.astype(x.dtype), sizes, backend)


def flops(x: jax.core.ShapedArray, w: jax.core.ShapedArray) -> int:
    """Multiply-adds times two: each row with one matrix, whatever the formulation."""
    return 2 * x.shape[0] * w.shape[1] * w.shape[2]


def sort(groups: Array, count: int) -> tuple[Array, Array, Array]:
    """(order, inverse, sizes [count]) of int32 [N]: by `order` the rows of a group lie together, others than 0 .. count - 1 last."""
    own = jnp.where((groups >= 0) & (groups < count), groups, count)
    order = _argsort(own)
    sizes = jnp.sum(own[:, None] == lax.broadcasted_iota(jnp.int32, (1, count), 1), 0, dtype=jnp.int32)
    return order, _argsort(order), sizes


def _argsort(x: Array) -> Array:
    # jnp.argsort sorts a count that is the same on every device of a shard_map, and what it returns is taken to be so too.
    numbers = vary(lax.iota(jnp.int32, x.shape[0]), varies(x))
    return lax.sort((x, numbers), num_keys=1, is_stable=True)[1]


@jax.custom_vjp
def _permute(x: Array, order: Array, inverse: Array) -> Array:
    return jnp.take(x, order, 0)


def permute(x: Array, order: Array, inverse: Array) -> Array:
    """x[order], of rows; `inverse` undoes the order, and by it the gradient is a lookup too, where autodiff would scatter."""
    over = varies(x) | varies(order)
    return _permute(*(vary(a, over) for a in (x, order, inverse)))


_permute.defvjp(lambda x, order, inverse: (jnp.take(x, order, 0), (order, inverse)),
                lambda saved, d_y: (_permute(d_y, saved[1], saved[0]), None, None))


def varies(x: Array) -> frozenset[str]:
    """The mesh axes over which x is not the same, inside shard_map."""
    return jax.typeof(x).manual_axis_type.varying


def vary(x: Array, over: frozenset[str]) -> Array:
    """x, taken to vary over these mesh axes too: its gradient is summed over them, here and in this size."""
    rest = tuple(over - varies(x))
    return lax.pcast(x, rest, to="varying") if rest else x


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _ragged_dot(x: Array, w: Array, sizes: Array, backend: str) -> Array:
    return _product(x, w, sizes, backend, _INPUTS)


def _forward(x, w, sizes, backend):
    return _ragged_dot(x, w, sizes, backend), (x, w, sizes)


def _backward(backend, saved, d_y):
    x, w, sizes = saved
    return _product(d_y, w, sizes, backend, _OUTPUTS), _outer(x, d_y, sizes, backend), None


_ragged_dot.defvjp(_forward, _backward)


def _product(x: Array, w: Array, sizes: Array, backend: str, meets: int) -> Array:
    """Rows times their group's matrix by the dimension `meets` of w."""
    if backend == "xla":
        numbers = lax.RaggedDotDimensionNumbers((((1,), (meets,)), ((), ())), (0,), (0,))
        out = lax.ragged_dot_general(x, w, sizes, numbers)
        mine = lax.broadcasted_iota(jnp.int32, (x.shape[0], 1), 0) < jnp.sum(sizes)
        return jnp.where(mine, out, jnp.zeros_like(out))  # what an accelerator leaves there is not specified
    size = _block(x.shape[0], w.shape[0])

    def one(group: Array, start: Array, mine: Array, out: Array) -> Array:
        rows = lax.dynamic_slice_in_dim(padded, start, size)
        matrix = lax.dynamic_index_in_dim(w, group, keepdims=False)
        product = lax.dot_general(rows, matrix, (((1,), (meets - 1,)), ((), ())))
        # The rows past the group's end are the next group's, whose blocks come later and write over them.
        return lax.dynamic_update_slice_in_dim(out, jnp.where(mine, product, jnp.zeros_like(product)), start, 0)

    padded = jnp.pad(x, ((0, size), (0, 0)))
    out = _fill((x.shape[0] + size, w.shape[3 - meets]), x)
    return _walk(sizes, size, one, out)[: x.shape[0]]


def _outer(x: Array, y: Array, sizes: Array, backend: str) -> Array:
    """[E, K, M]: for each group the sum over its rows of x [N, K] times y [N, M]."""
    if backend == "xla":
        numbers = lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), (0,), ())
        return lax.ragged_dot_general(x, y, sizes, numbers)
    size = _block(x.shape[0], sizes.shape[0])

    def one(group: Array, start: Array, mine: Array, out: Array) -> Array:
        parts = (lax.dynamic_slice_in_dim(a, start, size) for a in padded)
        rows, others = (jnp.where(mine, a, jnp.zeros_like(a)) for a in parts)
        part = lax.dot_general(rows, others, (((0,), (0,)), ((), ())), preferred_element_type=out.dtype)
        here = lax.dynamic_index_in_dim(out, group)
        return lax.dynamic_update_slice_in_dim(out, here + part[None], group, 0)

    padded = [jnp.pad(a, ((0, size), (0, 0))) for a in (x, y)]
    out = _fill((sizes.shape[0], x.shape[1], y.shape[1]), x, jnp.float32)
    return _walk(sizes, size, one, out).astype(x.dtype)


def _fill(shape: tuple[int, ...], like: Array, dtype: jnp.dtype | None = None) -> Array:
    return vary(jnp.zeros(shape, dtype or like.dtype), varies(like))


def _block(rows: int, groups: int) -> int:
    """Rows of a block: large enough for a good product, small enough that a group's last block is mostly full."""
    even = max(rows // groups, 1)
    return min(max(8, 1 << (even // 2).bit_length()), 256, rows)


def _walk(sizes: Array, size: int, one, out: Array) -> Array:
    """Fold one(group, first row, which of its rows are the group's [R, 1], out) over the blocks, first rows ascending."""
    ends = jnp.cumsum(sizes)
    blocks = jnp.cumsum((sizes + size - 1) // size)

    def step(number: Array, out: Array) -> Array:
        group = jnp.sum(blocks <= number).astype(jnp.int32)  # groups that are through
        start = ends[group] - sizes[group] + (number - blocks[group] + (sizes[group] + size - 1) // size) * size
        mine = lax.broadcasted_iota(jnp.int32, (size, 1), 0) + start < ends[group]
        return one(group, start, mine, out)

    return lax.fori_loop(jnp.zeros_like(blocks[-1]), blocks[-1], step, out)

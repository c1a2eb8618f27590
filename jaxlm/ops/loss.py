# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Cross-entropy against an unembedding table: float32, chunked over positions, and safe with a split vocabulary.

Letters: B rows, L positions, D features, V vocabulary, N chunks of C positions each, P and Q parts of rows and positions.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from jaxlm.core import tree
from jaxlm.core.types import Array, Mean
from jaxlm.ops import dense, vocab

FORMS = ("flat", "apart", "cpu", "library")

# A table of more ids than two of these is made a multiple of them for oneDNN: rows of 50257 numbers begin at odd places in
# memory (1024 x 768 by a table of 50257, 50304 and 50688 on two cores with AMX: 104, 72 and 46 ms; of 30522 and 30720: 63, 26).
_COLUMNS = 512


def cross_entropy(
    hidden: Array,
    table: Array,
    targets: Array,
    weights: Array,
    *,
    bias: Array | None = None,
    soft_cap: float = 0.0,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    chunks: int = 1,
    form: str = "flat",
    own: Callable[[Array], Array] | None = None,
) -> dict[str, Mean]:
    """Sums over the positions of hidden [B, L, D] with weight, of what follows from logits = hidden @ table [V, D].T.

    targets [B, L] int32, weights [B, L]; a target of weight 0 may be anything. Returns float32 Means:
    loss      what is optimised: nll, smoothed, plus the z term
    nll       -log p(target)
    z_loss    z_loss * (log Z)^2 (PaLM, Chowdhery et al. 2022, section 5), which keeps the normaliser near 1
    accuracy  how often the target is the first of the largest logits
    With chunks > 1 the logits of only L / chunks positions live at a time. Gradients are made along with the loss, while a
    chunk's logits are there, so that nothing is computed twice; for that only loss has one (ValueError for another's).
    form, one of FORMS:
    flat      rows and positions are one dimension
    apart     they stay apart, and a chunk takes every chunks-th position: what a mesh that splits positions can compute
              without moving them
    cpu       flat, and logits are read as XLA:CPU is fast at, which needs all of them in one place (ops/vocab.py)
    library   the same in a program that is compiled with oneDNN's products (dense.wide)
    own, of an array [V, ...] (table, bias), makes [P, Q, V, ...]: a copy for each of the P parts that a mesh splits rows into
    and the Q of positions. With chunks a part then adds up the gradient of its own, and that of all is summed once; without,
    once a chunk.
    Raises ValueError for another form, when L is not a multiple of chunks, and when P does not divide B or Q not L / chunks.
    """
    if form not in FORMS:
        raise ValueError(f"form '{form}' is none of {', '.join(FORMS)}")
    length = hidden.shape[1]
    if chunks < 1 or length % chunks:
        raise ValueError(
            f"a length of {length} cannot be cut into {chunks} chunks: choose chunks that divide it, or pad the rows"
        )
    weights = weights.astype(jnp.float32)
    cut = {"hidden": hidden, "weights": weights, "targets": targets}
    whole = {"table": table} if bias is None else {"table": table, "bias": bias}
    terms = _Terms(form, soft_cap, z_loss, label_smoothing)
    if chunks == 1:
        sums = _chunk(terms, cut, whole)
    else:
        at, sizes = (2, (length // chunks, chunks)) if form == "apart" else (1, (chunks, length // chunks))
        cut = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(x.shape[0], *sizes, *x.shape[2:]), at, 0), cut)
        whole = jax.tree.map(own or (lambda x: x[None, None]), whole)
        p, q = whole["table"].shape[:2]
        if hidden.shape[0] % p or length // chunks % q:
            raise ValueError(f"{hidden.shape[0]} rows and {length // chunks} positions of a chunk cannot be computed in {p} x {q} parts")
        sums = _chunked(terms, jax.tree.map(functools.partial(_split, p, q), cut), whole)
    weight = jnp.sum(weights)
    return {name: Mean(total, weight) for name, total in sums.items()}


@dataclasses.dataclass(frozen=True)
class _Terms:
    """What a loss is made of, and how (arguments of `cross_entropy`)."""

    form: str
    soft_cap: float
    z_loss: float
    label_smoothing: float


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(terms: _Terms, cut: dict[str, Array], whole: dict[str, Array]) -> dict[str, Array]:
    """The sums over hidden [N, P, Q, B, C, D], weights and targets [N, P, Q, B, C]; whole are table and perhaps bias [P, Q, V, ...]."""
    add = lambda total, x: (jax.tree.map(jnp.add, total, _parts(terms, x, whole)), None)
    return _total(lax.scan(add, _zeros(whole), cut)[0])


def _split(p: int, q: int, x: Array) -> Array:
    """[N, P, Q, B / P, C / Q, ...] of [N, B, C, ...]."""
    n, b, c, *rest = x.shape
    return jnp.swapaxes(x.reshape(n, p, b // p, q, c // q, *rest), 2, 3)


def _parts(terms: _Terms, cut: dict[str, Array], whole: dict[str, Array]) -> dict[str, Array]:
    """The sums [P, Q] of a chunk."""
    one = functools.partial(_chunk, terms)
    if whole["table"].shape[:2] == (1, 1):
        return jax.tree.map(lambda x: x[None, None], one(*jax.tree.map(lambda x: x[0, 0], (cut, whole))))
    return jax.vmap(jax.vmap(one))(cut, whole)


def _total(sums: dict[str, Array]) -> dict[str, Array]:
    return jax.tree.map(jnp.sum, sums)


def _chunked_forward(terms, cut, whole):
    given = lambda x: isinstance(x, CustomVJPPrimal)
    wanted = jax.tree.map(lambda x: x.perturbed, (cut, whole), is_leaf=given)
    cut, whole = jax.tree.map(lambda x: x.value, (cut, whole), is_leaf=given)

    def add(total: Any, x: dict[str, Array]) -> tuple[Any, Any]:
        moving, fixed = tree.partition((x, whole), wanted)

        def loss(moving: Any) -> tuple[Array, dict[str, Array]]:
            sums = _parts(terms, *tree.combine(moving, fixed))
            return jnp.sum(sums["loss"]), sums

        (d_cut, d_whole), sums = jax.grad(loss, has_aux=True)(moving)
        return jax.tree.map(jnp.add, total, (sums, d_whole)), d_cut

    start = _zeros(whole), jax.tree.map(jnp.zeros_like, tree.partition(whole, wanted[1])[0])
    (sums, d_whole), d_cut = lax.scan(add, start, cut)
    return _total(sums), (d_cut, d_whole)


def _chunked_backward(terms, grads, cotangents):
    others = [name for name, x in cotangents.items() if name != "loss" and not isinstance(x, SymbolicZero)]
    if others:
        raise ValueError(f"with chunks > 1 only 'loss' has a gradient, and {', '.join(others)} was to have one: differentiate "
                         "the loss, or take chunks=1")
    scale = cotangents["loss"]
    if isinstance(scale, SymbolicZero):
        return None, None
    return jax.tree.map(lambda x: (x.astype(jnp.float32) * scale).astype(x.dtype), grads)


_chunked.defvjp(_chunked_forward, _chunked_backward, symbolic_zeros=True)


def _zeros(whole: dict[str, Array]) -> dict[str, Array]:
    return {name: jnp.zeros(whole["table"].shape[:2], jnp.float32) for name in ("loss", "nll", "z_loss", "accuracy")}


def _chunk(terms: _Terms, cut: dict[str, Array], whole: dict[str, Array]) -> dict[str, Array]:
    """The weighted sums over hidden [B, C, D], weights and targets [B, C]."""
    hidden, weights, targets = cut["hidden"], cut["weights"], cut["targets"]
    table, bias = whole["table"], whole.get("bias")
    form, soft_cap, z_loss, label_smoothing = dataclasses.astuple(terms)
    if form != "apart":
        # Two-dimensional products: XLA:CPU runs the gradient of a three-dimensional one at half speed.
        hidden, targets, weights = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1), weights.reshape(-1)
    with jax.named_scope("unembed"):
        # The table is cast here and not before the scan, so that its gradient is summed over chunks in its own type.
        logits = _project(form == "library", hidden, table.astype(hidden.dtype))
        if bias is not None:
            logits = logits + bias.astype(jnp.float32).reshape((1,) * (logits.ndim - 1) + (-1,))
        if soft_cap:
            logits = soft_cap * jnp.tanh(logits / soft_cap)
    with jax.named_scope("cross_entropy"):
        if form in ("cpu", "library"):
            log_z, target = vocab.statistics(logits, targets)
            right = vocab.leads(logits, targets, target)
        else:
            # A compare with an iota and not a gather: where the vocabulary is split, each device looks at its own part.
            column = lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
            hit = column == targets[..., None]
            target = jnp.sum(jnp.where(hit, logits, 0.0), -1)
            log_z = jax.nn.logsumexp(logits, -1)
            fixed, best = lax.stop_gradient(logits), lax.stop_gradient(target)[..., None]
            ahead = (fixed > best) | ((fixed == best) & (column < targets[..., None]))
            right = ~jnp.any(ahead, -1)
        nll = log_z - target
        z = z_loss * jnp.square(log_z)
        loss = nll + z
        if label_smoothing:
            loss = loss + label_smoothing * (target - jnp.mean(logits, -1))
    sums = {"loss": loss, "nll": nll, "z_loss": z, "accuracy": right.astype(jnp.float32)}
    return {name: jnp.sum(value * weights) for name, value in sums.items()}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _project(library: bool, x: Array, table: Array) -> Array:
    """Float32 [..., V] from x [..., D] and table [V, D]."""
    ids, numbers = table.shape[0], (((x.ndim - 1,), (1,)), ((), ()))
    if library and x.dtype == jnp.bfloat16 and ids > 2 * _COLUMNS:
        table = jnp.pad(table, ((0, -ids % _COLUMNS), (0, 0)))
    return dense.wide(x, table, numbers, library=library)[..., :ids]


def _project_forward(library, x, table):
    return _project(library, x, table), (x, table)


def _project_backward(library, saved, d_logits):
    # Autodiff would multiply the float32 cotangent with a bfloat16 operand: the two largest matmuls of the model at
    # half speed or less. Rounded to the operand's type it costs what every other layer's does.
    x, table = saved
    d_logits = d_logits.astype(x.dtype)
    lead = tuple(range(x.ndim - 1))
    # XLA:CPU converts bfloat16 operands where the result is to be float32, and multiplies at half the speed; asked for
    # bfloat16, its library sums in float32 and rounds once.
    result = x.dtype if jax.default_backend() == "cpu" else jnp.float32
    if library:
        # Rounded once for both products, which XLA:CPU else does for each.
        d_logits = lax.optimization_barrier(d_logits)
        d_table = dense.weight(d_logits, x)
    else:
        d_table = lax.dot_general(d_logits, x, ((lead, lead), ((), ())), preferred_element_type=result)
    d_x = lax.dot_general(d_logits, table, (((x.ndim - 1,), (0,)), ((), ())), preferred_element_type=result)
    return d_x.astype(x.dtype), d_table.astype(table.dtype)


_project.defvjp(_project_forward, _project_backward)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Cross-entropy against an unembedding table: float32, chunked over positions, and safe with a split vocabulary.

Letters: B rows, L positions, D features, V vocabulary, C positions of a chunk.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

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
) -> dict[str, Mean]:
    """Sums over the positions of hidden [B, L, D] with weight, of what follows from logits = hidden @ table [V, D].T.

    targets [B, L] int32, weights [B, L]; a target of weight 0 may be anything. Returns float32 Means:
    loss      what is optimised: nll, smoothed, plus the z term
    nll       -log p(target)
    z_loss    z_loss * (log Z)^2 (PaLM, Chowdhery et al. 2022, section 5), which keeps the normaliser near 1
    accuracy  how often the target is the first of the largest logits
    With chunks > 1 the logits of only L / chunks positions live at a time; they are made again in the backward pass.
    form, one of FORMS:
    flat      rows and positions are one dimension
    apart     they stay apart, and a chunk takes every chunks-th position: what a mesh that splits positions can compute
              without moving them
    cpu       flat, and logits are read as XLA:CPU is fast at, which needs all of them in one place (ops/vocab.py)
    library   the same in a program that is compiled with oneDNN's products (dense.wide)
    Raises ValueError for another form, and when L is not a multiple of chunks.
    """
    if form not in FORMS:
        raise ValueError(f"form '{form}' is none of {', '.join(FORMS)}")
    length = hidden.shape[1]
    if chunks < 1 or length % chunks:
        raise ValueError(
            f"a length of {length} cannot be cut into {chunks} chunks: choose chunks that divide it, or pad the rows"
        )
    weights = weights.astype(jnp.float32)
    flat = form != "apart"
    chunk = functools.partial(_chunk, form, table, bias, soft_cap, z_loss, label_smoothing)
    if chunks == 1:
        sums = chunk(hidden, targets, weights)
    else:
        parts = (chunks, length // chunks) if flat else (length // chunks, chunks)
        cut = lambda x: jnp.moveaxis(x.reshape(x.shape[0], *parts, *x.shape[2:]), 1 if flat else 2, 0)
        chunk = jax.checkpoint(chunk, prevent_cse=False)
        start = {name: jnp.zeros((), jnp.float32) for name in ("loss", "nll", "z_loss", "accuracy")}
        sums, _ = lax.scan(
            lambda total, xs: (jax.tree.map(jnp.add, total, chunk(*xs)), None),
            start,
            tuple(map(cut, (hidden, targets, weights))),
        )
    weight = jnp.sum(weights)
    return {name: Mean(total, weight) for name, total in sums.items()}


def _chunk(form, table, bias, soft_cap, z_loss, label_smoothing, hidden, targets, weights) -> dict[str, Array]:
    """The weighted sums over hidden [B, C, D]."""
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

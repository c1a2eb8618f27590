# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Softmax attention behind one signature; a backend is a name, and faster kernels join by theirs.

Letters: B rows, T queries, S keys, N heads, K key/value heads (N = K * G), H size of a head.
Scores and softmax are float32. Keys and values of grouped heads are never repeated in memory. A row that sees
nothing gives the mean of all values: finite, and so are its gradients.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxlm.core.errors import UserError, nearest
from jaxlm.ops import cudnn, masks, splash
from jaxlm.ops.dense import wide
from jaxlm.ops.dropout import dropout, kept, only

Array = jax.Array

# Far below any score and far above float32's end, so that differences of two masked scores stay finite.
_NEVER = -1e30


def attend(
    q: Array,
    k: Array,
    v: Array,
    mask: masks.Mask,
    *,
    scale: float | None = None,
    soft_cap: float = 0.0,
    bias: Array | None = None,
    rate: float = 0.0,
    key: Array | None = None,
    backend: str = "xla",
    library: bool = False,
) -> Array:
    """Attention of q [B, T, N, H] over k, v [B, S, K, H], giving [B, T, N, H] in q's type.

    scale       on the scores; H ** -0.5 unless given
    soft_cap    scores = c * tanh(scores / c); 0 = off
    bias        float [P, N, T, S], added to the scores after the cap; one for each of P equal parts of the rows, 1 or B of them
    rate, key   dropout of attention weights; no key, no dropout
    library     the program is compiled with oneDNN's products (see dense.wide); only "xla_cpu" makes use of it
    Raises UserError when the backend is a kernel that cannot do what is asked for: then `refusal` says why.
    """
    if backend not in BACKENDS:
        raise UserError(
            f"attention backend '{backend}' does not exist{nearest(backend, BACKENDS)} "
            f"There are: {', '.join(BACKENDS)}."
        )
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"{q.shape[2]} heads are not a multiple of {k.shape[2]} key/value heads")
    if why := refusal(backend, q, k, mask, soft_cap, bias, rate, key):
        raise UserError(f"attention backend '{backend}': {why}. Or choose 'auto' or 'xla', which can do it.")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    run = partial(_xla_cpu, library=library) if backend == "xla_cpu" else BACKENDS[backend]
    return run(q, k, v, mask, scale, soft_cap, bias, rate, key)


def refusal(backend: str, q: Array, k: Array, mask: masks.Mask, soft_cap: float = 0.0, bias: Array | None = None,
            rate: float = 0.0, key: Array | None = None) -> str:
    """Why a backend cannot compute this, as a clause that names the way out; "" when it can."""
    kernel = KERNELS.get(backend)
    return kernel.refusal(q, k, mask, soft_cap, bias, bool(rate) and key is not None) if kernel else ""


def _xla(q, k, v, mask, scale, soft_cap, bias, rate, key):
    """Five-dimensional einsums: no dimension is merged, so any of them may be split over devices."""
    B, T, N, H = q.shape
    K, S = k.shape[2], k.shape[1]
    q = q.reshape(B, T, K, N // K, H)
    s = jnp.einsum("btkgh,bskh->bkgts", q, k, preferred_element_type=jnp.float32) * scale
    p = _weights(s, masks.dense(mask, T, S)[:, :, None], soft_cap, None if bias is None else _of_rows(bias, B, K))
    p = dropout(p, rate, key).astype(v.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", p, v).reshape(B, T, N, H)


def _of_rows(bias: Array, rows: int, kv_heads: int) -> Array:
    """[rows or 1, K, G, T, S] of a bias [P, N, T, S]."""
    parts, heads, T, S = bias.shape
    if 1 < parts < rows:
        bias = jnp.broadcast_to(bias[:, None], (parts, rows // parts, heads, T, S))
    return bias.reshape(-1, kv_heads, heads // kv_heads, T, S)


def _weights(s: Array, seen: Array, soft_cap: float, bias: Array | None) -> Array:
    if soft_cap:
        s = soft_cap * jnp.tanh(s / soft_cap)
    if bias is not None:
        s = s + bias.astype(jnp.float32)
    return jax.nn.softmax(jnp.where(seen, s, _NEVER), axis=-1)


def _xla_cpu(q, k, v, mask, scale, soft_cap, bias, rate, key, library=False):
    """The same numbers with every product, also in the backward pass, in a form that XLA:CPU's matmul libraries take.

    They take NN and NT products only; what autodiff makes of P^T dO falls back to a slow loop (measured: 0.6 of the
    einsum form's CPU time, forward and backward, 12 x 256 x 6 x 64 in float32).
    """
    if soft_cap:
        return _xla(q, k, v, mask, scale, soft_cap, bias, rate, key)
    (B, T, N, _), S = q.shape, k.shape[1]
    # Drawn in the shape that `_xla` draws in: the same weights are dropped.
    keep = None if key is None or not rate else kept(key, rate, (B, k.shape[2], N // k.shape[2], T, S))
    form = _Form(scale, rate, _parts(mask, T, S, q.dtype.itemsize), library)
    return _core(form, q, _across(k), _across(v), masks.dense(mask, T, S), bias, keep)


# Queries that are computed together where each sees only what comes before it, at least, by the bytes of a number, and parts
# of them at most: fewer queries save more of the scores that nobody sees, and cost more operations (measured on one core with
# AMX, forward and backward, in 1 / 2 / 4 / 8 parts, ms: 1 x 1024 x 12 x 64 in bfloat16 59, 47, 43, 46 and in float32 120, 88,
# 82; 12 x 256 x 6 x 64 in bfloat16 20.7, 20.9, 24 and in float32 57, 44, 45).
_TOGETHER, _MOST = {2: 256, 4: 128}, 4


def _parts(mask: masks.Mask, queries: int, keys: int, width: int) -> tuple[tuple[int, int, int], ...]:
    """(first query, end of queries, end of the keys that any of them sees) of each part of the queries."""
    ordered = mask.causal and queries == keys and mask.prefix is None and mask.q_index is None and mask.k_index is None
    together = _TOGETHER.get(width, queries)
    if not ordered or queries < 2 * together:
        return ((0, queries, keys),)
    size = -(-queries // min(queries // together, _MOST))
    ends = [min(start + size, queries) for start in range(0, queries, size)]
    return tuple(zip([0, *ends], ends, ends))


# Scores are float32. The others are summed in float32 and rounded once, by the library.
_product = lax.dot_general
_NT = (((3,), (3,)), ((0, 1), (0, 1)))
_NN = (((3,), (2,)), ((0, 1), (0, 1)))


@dataclasses.dataclass(frozen=True)
class _Form:
    scale: float
    rate: float  # of weights that are dropped
    parts: tuple[tuple[int, int, int], ...]  # of `_parts`
    library: bool


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _core(form: _Form, q: Array, k: Array, v: Array, seen: Array, bias: Array | None, keep: Array | None) -> Array:
    """q [B, T, N, H]; k, v [B, K, S, H]; seen [B or 1, 1, T, S], False beyond the keys of each part; bias [P, N, T, S]; keep, of the
    weights [B, K, G, T, S]."""
    return _core_forward(form, q, k, v, seen, bias, keep)[0]


def _core_forward(form, q, k, v, seen, bias, keep):
    out, saved, (rows, kv_heads) = [], [], k.shape[:2]
    for start, stop, end in form.parts:
        mine = _queries(q[:, start:stop], kv_heads)
        # Scores are scaled and not q: a product whose result is scaled, as that of q's gradient would be, becomes float32.
        s = wide(mine, k[:, :, :end], _NT, form.scale, form.library)
        s = s.reshape(*s.shape[:2], -1, stop - start, end)
        added = None if bias is None else _of_rows(bias[:, :, start:stop, :end], rows, kv_heads)
        p = _weights(s, seen[:, :, None, start:stop, :end], 0.0, added).astype(v.dtype).reshape(*mine.shape[:3], end)
        p = lax.optimization_barrier(p)  # or XLA divides twice, for the product and for what is saved: as many numbers again
        made = _product(_dropped(form, p, _part(keep, start, stop, end)), v[:, :, :end], _NN)
        out.append(_rows(made, stop - start))
        saved.append((mine, p, made))
    return jnp.concatenate(out, 1), (k, v, bias, keep, saved)


def _core_backward(form, saved, d_out):
    k, v, bias, keep, saved = saved
    # Or the keys and values that each part sees, copied out for it, would be kept from the forward pass.
    (k, v), d_out = lax.optimization_barrier(((k, v), d_out))
    d_q, d_k, d_v, d_bias = [], [], [], []
    for (start, stop, end), (mine, p, made) in zip(form.parts, saved):
        other, stays = _queries(d_out[:, start:stop], k.shape[1]), _part(keep, start, stop, end)
        # The row sums of P * dP equal those of O * dO, which are H wide and not S.
        delta = jnp.sum(other.astype(jnp.float32) * made.astype(jnp.float32), -1, keepdims=True)
        # Rounded to the operands' type, as autodiff has it where the weights are.
        d_p = _dropped(form, _product(other, v[:, :, :end], _NT), stays).astype(jnp.float32)
        d_s = p.astype(jnp.float32) * (d_p - delta)
        if bias is not None:
            d_bias.append(_over_rows(d_s, bias, stop - start))
        d_s = (form.scale * d_s).astype(k.dtype)
        d_q.append(_rows(_product(d_s, k[:, :, :end], _NN), stop - start))
        d_k.append(_product(mine.swapaxes(2, 3), d_s, _NN))
        d_v.append(_product(other.swapaxes(2, 3), _dropped(form, p, stays), _NN))
    return jnp.concatenate(d_q, 1), _over_parts(d_k), _over_parts(d_v), None, None if bias is None else _beside(d_bias, bias), None


def _part(keep: Array | None, start: int, stop: int, end: int) -> Array | None:
    """[B, K, G * t, end] of keep [B, K, G, T, S]."""
    return None if keep is None else keep[:, :, :, start:stop, :end].reshape(*keep.shape[:2], -1, end)


def _dropped(form: _Form, p: Array, keep: Array | None) -> Array:
    return p if keep is None else only(p, keep, form.rate)


def _over_rows(d_s: Array, bias: Array, queries: int) -> Array:
    """[P, N, t, end], of the gradients [B, K, G * t, end] of scores those of a part's bias."""
    parts, heads = bias.shape[:2]
    d_s = d_s.reshape(parts, -1, heads, queries, d_s.shape[-1])
    # The barrier: XLA would sum all layers' at once, in the order in which the bias was looked up.
    return lax.optimization_barrier(jnp.sum(d_s, 1))


def _beside(grads: list[Array], bias: Array) -> Array:
    """A bias's gradient of those of its parts, which are 0 beyond their keys."""
    grow = lambda x: jnp.pad(x, (*((0, 0),) * 3, (0, bias.shape[3] - x.shape[3])))
    return jnp.concatenate([grow(x) for x in grads], 2).astype(bias.dtype)


def _across(x: Array) -> Array:
    """[B, N, T, H] of [B, T, N, H], and back."""
    return x.transpose(0, 2, 1, 3)


def _queries(x: Array, kv_heads: int) -> Array:
    """[B, K, G * t, H] of a part [B, t, N, H]."""
    B, t, N, H = x.shape
    return _across(x).reshape(B, kv_heads, N // kv_heads * t, H)


def _rows(x: Array, queries: int) -> Array:
    """[B, t, N, H] from [B, K, G * t, H]."""
    return _across(x.reshape(x.shape[0], -1, queries, x.shape[-1]))


def _over_parts(grads: list[Array]) -> Array:
    """[B, K, S, H] from the gradients [B, K, H, end] of each part, which are 0 beyond its keys: summed in float32."""
    last = grads[-1]
    if len(grads) > 1:
        grow = lambda x: jnp.pad(x.astype(jnp.float32), (*((0, 0),) * 3, (0, last.shape[3] - x.shape[3])))
        # Without the barrier it is summed in the order in which it is transposed, ten times as slowly.
        last = lax.optimization_barrier(sum(map(grow, grads)).astype(last.dtype))
    return last.swapaxes(2, 3)


_core.defvjp(_core_forward, _core_backward)

# Kernels of one platform, which can do less: each has `refusal` and `attend`.
KERNELS = {"cudnn": cudnn, "splash": splash}
# name -> f(q, k, v, mask, scale, soft_cap, bias, rate, key).
BACKENDS: dict[str, Callable[..., Array]] = {
    "xla": _xla, "xla_cpu": _xla_cpu, **{name: kernel.attend for name, kernel in KERNELS.items()}
}

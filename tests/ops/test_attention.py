# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Attention's formulations against a loop over heads in float64, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.ops import attention
from jaxlm.ops.attention import attend
from jaxlm.ops.masks import Mask, dense
from jaxlm.parallel import compiler

# The kernels of other platforms are in tests/ops/test_kernels.py.
BACKENDS = ("xla", "xla_cpu")
B, T, N, K, H = 2, 6, 4, 2, 8
RNG = np.random.default_rng(0)
Q, KEYS, VALUES, GRAD = (
    jnp.asarray(RNG.standard_normal(s), jnp.float32) for s in ((B, T, N, H), (B, T, K, H), (B, T, K, H), (B, T, N, H))
)
SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]])


def loop(q, k, v, seen, scale, soft_cap, bias):
    out = np.zeros(q.shape)
    for b in range(B):
        for n in range(N):
            s = np.float64(q[b, :, n]) @ np.float64(k[b, :, n // (N // K)]).T * scale
            s = soft_cap * np.tanh(s / soft_cap) if soft_cap else s
            s = np.where(seen[b % len(seen), 0], s + (0 if bias is None else bias[0, n]), -np.inf)
            p = np.exp(s - s.max(-1, keepdims=True))
            out[b, :, n] = p / p.sum(-1, keepdims=True) @ np.float64(v[b, :, n // (N // K)])
    return out


@pytest.mark.parametrize("case", ["causal", "segments", "window", "soft_cap", "bias", "scale", "both_ways"])
def test_against_loop(case):
    """Every backend agrees with the loop to 2e-6, and the backends' gradients to 1e-5.

    Fails if the hand-written gradient leaves out its row sums, or query heads are grouped the other way round.
    """
    mask = Mask(
        case != "both_ways",
        3 if case == "window" else 0,
        q_segments=SEGMENTS if case == "segments" else None,
        k_segments=SEGMENTS if case == "segments" else None,
    )
    options = dict(scale=0.7 if case == "scale" else None, soft_cap=1.5 if case == "soft_cap" else 0.0)
    if case == "bias":
        options["bias"] = jnp.asarray(RNG.standard_normal((1, N, T, T)), jnp.float32)
    want = loop(
        Q,
        KEYS,
        VALUES,
        np.asarray(dense(mask, T, T)),
        options["scale"] or H**-0.5,
        options["soft_cap"],
        options.get("bias"),
    )
    grads = {}
    for backend in BACKENDS:
        f = lambda q, k, v: attend(q, k, v, mask, backend=backend, **options)
        got, back = jax.vjp(f, Q, KEYS, VALUES)
        np.testing.assert_allclose(got, want, atol=2e-6)
        grads[backend] = back(GRAD)
    for other in grads.values():
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads["xla"], other)


@pytest.mark.parametrize("mask", ["causal", "packed", "both_ways"])
@pytest.mark.parametrize("parts", [0, 1, 2, 4])
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_a_bias_and_dropout(rate, parts, mask, monkeypatch):
    """Values and gradients, the bias's own among them, in `_xla_cpu`'s form and in the plain one, which drops the same weights; 4 rows, a
    bias for each of so many parts of them (0: none), 7 queries, of causal masks in parts of 4 and 3.

    Fails if the bias's gradient is scaled as the scores are, is not summed over a part's rows, or counts hidden keys; if what was
    dropped has a gradient; and if a part's keep is that of other queries.
    """
    B, T = 4, 7
    rng = np.random.default_rng(parts)
    q, grad, k, v = (jnp.asarray(rng.standard_normal((B, T, n, H)), jnp.float32) for n in (N, N, K, K))
    segments = jnp.array([[1, 1, 1, 2, 2, 0, 0], [1] * 7, [1, 2, 2, 2, 2, 2, 3], [1, 1, 1, 1, 1, 0, 0]])
    mask = {"packed": Mask(q_segments=segments, k_segments=segments), "both_ways": Mask(False)}.get(mask, Mask())
    monkeypatch.setattr(attention, "_TOGETHER", {4: 3})
    given = [q, k, v] + ([jnp.asarray(rng.standard_normal((parts, N, T, T)), jnp.float32)] if parts else [])
    drop = dict(rate=rate, key=jax.random.key(5)) if rate else {}
    call = lambda backend: lambda q, k, v, bias=None: attend(q, k, v, mask, scale=0.7, bias=bias, backend=backend, **drop)
    results = [jax.vjp(call(backend), *given) for backend in BACKENDS]
    for one, other in zip(*[(out, *back(grad)) for out, back in results], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("case", ["causal", "packed", "window", "prefix", "index", "both_ways", "few_keys"])
def test_parts_of_the_queries(case, monkeypatch):
    """Queries in parts, which see no key after their own, give what all together give: values and gradients, 7 queries in parts of 4 and 3.

    Fails if a part's keys end before its last query's, if gradients of keys are not summed over parts, or if a mask that
    lets queries look ahead (a prefix, slots of a cache) is cut.
    """
    T, S = 7, 5 if case == "few_keys" else 7
    rng = np.random.default_rng(len(case))
    q, k, v, grad = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((B, T, N, H), (B, S, K, H), (B, S, K, H), (B, T, N, H)))
    segments = jnp.array([[1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
    mask = {"packed": Mask(q_segments=segments, k_segments=segments), "window": Mask(window=2), "both_ways": Mask(False),
            "prefix": Mask(prefix=jnp.array([5, 0])), "index": Mask(q_index=jnp.arange(T)[::-1], k_index=jnp.arange(T))}.get(case, Mask())
    monkeypatch.setattr(attention, "_TOGETHER", {4: 3})
    assert len(attention._parts(mask, T, S, 4)) == (2 if case in ("causal", "packed", "window") else 1)
    results = [jax.vjp(lambda *x: attend(*x, mask, backend=backend), q, k, v) for backend in ("xla", "xla_cpu")]
    for one, other in zip(*[(out, *back(grad)) for out, back in results]):
        np.testing.assert_allclose(one, other, atol=5e-6)


def test_nothing_is_saved_twice():
    """The working memory of a gradient in float32, queries in four parts: 5.7 MB of jaxlib 0.12 and 7.3 of 0.10.

    Fails without the barrier after the weights (7.8 MB) and, with 0.12, without that before the gradients (5.9 MB).
    """
    x = jax.ShapeDtypeStruct((1, 512, 4, 16), jnp.float32)
    f = lambda q, k, v, w: jnp.sum(attend(q, k, v, Mask(), backend="xla_cpu") * w)
    options = compiler.options(bfloat16=False)
    program = jax.jit(jax.grad(f, (0, 1, 2))).lower(x, x, x, x).compile(compiler_options=options)
    assert program.memory_analysis().temp_size_in_bytes < (5.8e6 if jax.__version_info__ >= (0, 12) else 7.4e6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_seeing_nothing_is_finite(backend):
    mask = Mask(False, q_segments=jnp.full((B, T), 9), k_segments=SEGMENTS)
    got, back = jax.vjp(lambda *x: attend(*x, mask, backend=backend), Q, KEYS, VALUES)
    assert all(np.isfinite(x).all() for x in (got, *back(GRAD)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_is_unbiased(backend):
    """The mean over keys of the output nears that without dropout. Fails if what is kept is not scaled up."""
    keys = jax.random.split(jax.random.key(0), 2000)
    many = jax.vmap(lambda key: attend(Q, KEYS, VALUES, Mask(), rate=0.3, key=key, backend=backend))(keys)
    np.testing.assert_allclose(many.mean(0), attend(Q, KEYS, VALUES, Mask(), backend=backend), atol=0.12)
    assert not np.array_equal(many[0], many[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_sums_in_float32(backend):
    """Within two roundings of bfloat16 of the float32 result, in its type."""
    low = [x.astype(jnp.bfloat16) for x in (Q, KEYS, VALUES)]
    got = attend(*low, Mask(), backend=backend)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        got.astype(jnp.float32), attend(*(x.astype(jnp.float32) for x in low), Mask()), atol=0.03
    )


def test_errors():
    with pytest.raises(UserError, match="did you mean 'xla'.*xla_cpu"):
        attend(Q, KEYS, VALUES, Mask(), backend="xlaa")
    with pytest.raises(ValueError, match="multiple"):
        attend(Q[:, :, :3], KEYS, VALUES, Mask())

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Products in float8: values and both gradients are those of numpy on numbers that ml_dtypes has rounded."""
import re
import sys
import types

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.ops import float8

SHAPES = [((3, 5, 7), (7, 11), 1), ((2, 3, 5, 3), (5, 3, 6), 2), ((9, 4), (4, 3, 5), 1)]
RTOL = 2**-8  # the result is bfloat16


def rounded(x, kind):
    """The numbers that a tensor has in float8, scaled to fill the format; independent of jax and qwix."""
    x = np.asarray(x, np.float32)
    largest = np.abs(x).max()
    scale = np.float32(largest / np.float32(ml_dtypes.finfo(kind).max)) if largest else np.float32(1)
    return (x / scale).astype(kind).astype(np.float64) * scale


def reference(x, w, d_y, shared):
    """(y, d_x, d_w) in float64 of the rounded numbers."""
    x, w, d_y = rounded(x, ml_dtypes.float8_e4m3fn), rounded(w, ml_dtypes.float8_e4m3fn), rounded(d_y, ml_dtypes.float8_e5m2)
    free, outer = x.ndim - shared, w.ndim - shared
    y = np.tensordot(x, w, shared)
    d_x = np.tensordot(d_y, w, (range(free, d_y.ndim), range(shared, w.ndim)))
    assert outer == d_y.ndim - free
    return y, d_x, np.tensordot(x, d_y, (range(free), range(free)))


def draw(shape, seed):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.bfloat16)


@jax.jit
def run(x, w, d_y):
    shared = (x.ndim + w.ndim - d_y.ndim) // 2
    y, back = jax.vjp(lambda x, w: float8.product(x, w, shared), x, w)
    return y, *back(d_y)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("x,w,shared", SHAPES)
def test_values_and_gradients(x, w, shared, seed):
    """Fails if a gradient meets the wrong dimensions, is rounded in e4m3 (`BACKWARD = FORWARD`), or if what
    is rounded is bfloat16 (`x.astype(jnp.bfloat16)` in _rounded)."""
    x, w, d_y = draw(x, seed), draw(w, seed + 10), draw((*x[: len(x) - shared], *w[shared:]), seed + 20)
    for found, expected in zip(run(x, w, d_y), reference(x, w, d_y, shared), strict=True):
        assert found.dtype == jnp.bfloat16
        # Numbers that nearly cancel have the rounding of what was added up.
        np.testing.assert_allclose(found.astype(np.float32), expected, rtol=RTOL, atol=1e-4 * np.abs(expected).max())


def test_an_outlier_takes_the_scale():
    """One number of 1e4 among numbers of 1: they become multiples of its smallest step, and none becomes NaN or is cut off. Fails if
    scales are fixed: calibration_method="fixed,10" in _rounded."""
    x, w, d_y = draw((4, 8), 0).at[1, 2].set(1e4), draw((8, 3), 1), draw((4, 3), 2).at[0, 0].set(-1e4)
    for found, expected in zip(run(x, w, d_y), reference(x, w, d_y, 1), strict=True):
        np.testing.assert_allclose(found.astype(np.float32), expected, rtol=RTOL, atol=1e-4 * np.abs(expected).max())


def test_zeros_stay_zeros_and_what_is_not_finite_is_seen():
    """Fails if an infinity is cut down to a number, so that no step is skipped for it: `jnp.nan_to_num(x)` in _rounded; or if
    a scale may be 0: `x / jnp.max(jnp.abs(x))` there."""
    x, w, d_y = draw((4, 8), 0), draw((8, 3), 1), draw((4, 3), 2)
    for zero in range(3):
        given = [jnp.zeros_like(a) if i == zero else a for i, a in enumerate((x, w, d_y))]
        assert all(np.isfinite(a.astype(np.float32)).all() for a in run(*given))
        y, d_x, d_w = run(*given)
        assert not (jnp.any(y) if zero < 2 else jnp.any(d_x) or jnp.any(d_w))
    for bad in (np.inf, np.nan):
        y, _, d_w = run(x.at[0, 0].set(bad), w, d_y)
        assert np.isnan(y[0].astype(np.float32)).all() and np.isnan(d_w[0].astype(np.float32)).all()


def test_a_gpu_gets_float8_products():
    """What is lowered for CUDA has three products of float8 numbers, each with at most one side in e5m2, as its units take them.
    Fails if the numbers are widened before: `qwix().dequantize(a)` for `a` in _dot."""
    args = draw((16, 32), 0), draw((32, 16), 1), draw((16, 16), 2)
    run = lambda x, w, d_y: jax.vjp(lambda x, w: float8.product(x, w, 1, jnp.bfloat16), x, w)[1](d_y)
    both = jax.jit(lambda *args: (float8.product(*args[:2], 1, jnp.bfloat16), run(*args))).trace(*args)
    dots = [line.split(" : ")[1] for line in both.lower(lowering_platforms=("cuda",)).as_text().splitlines() if "dot_general" in line]
    kinds = {tuple(re.findall(r"(f8\w+|bf16)>", line)) for line in dots}
    assert kinds == {("f8E4M3FN", "f8E4M3FN", "bf16"), ("f8E4M3FN", "f8E5M2", "bf16"), ("f8E5M2", "f8E4M3FN", "bf16")}


def test_without_qwix(monkeypatch):
    """Fails if the missing package is an ImportError, or passed over."""
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(UserError, match=r'pip install "jaxlm\[fp8\]"'):
        float8.product(draw((2, 3), 0), draw((3, 2), 1), 1)


@pytest.mark.parametrize("platform,capability,refused", [("cpu", "", "CPUs"), ("gpu", "8.0", "8.0, 8.9 is the first"), ("gpu", "8.9", ""),
                                                         ("gpu", "10.0", ""), ("gpu", "gfx950", ""), ("tpu", "", "")])
def test_who_has_no_units(platform, capability, refused):
    """Fails if capabilities are compared as words ("10.0" < "8.9") or a device that nobody knows is refused."""
    device = types.SimpleNamespace(platform=platform, device_kind="card", compute_capability=capability)
    assert bool(refused) == bool(float8.refusal(device)) and refused in float8.refusal(device)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Attention kernels of GPU and TPU, as far as a CPU can hold them: what they are asked, their interpreted numbers, a compiled one."""
import dataclasses
import functools
import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.layers import attention as layers
from jaxlm.layers.attention import backend
from jaxlm.ops import attention as ops
from jaxlm.ops import splash
from jaxlm.ops.attention import attend
from jaxlm.ops.masks import Mask
from jaxlm.parallel import mesh, place, rules

RNG = np.random.default_rng(0)


def arrays(T, N=2, K=1, H=8, dtype=jnp.float32, B=2):
    return [jnp.asarray(RNG.standard_normal((B, T, n, H)), dtype) for n in (N, K, K)]


def packed(T, B=2):
    """Two documents and padding, cut at other places in each row."""
    return jnp.asarray([[1] * (T // 2 + b) + [2] * (T // 4) + [0] * (T - T // 2 - b - T // 4) for b in range(B)], jnp.int32)


def masks_of(T):
    ids = packed(T)
    return {
        "causal": Mask(),
        "both_ways": Mask(False),
        "window": Mask(window=5),
        "packed": Mask(q_segments=ids, k_segments=ids),
        "packed_window": Mask(window=5, q_segments=ids, k_segments=ids),
        "padding": Mask(False, q_segments=ids, k_segments=ids),
    }


@pytest.mark.parametrize("case", [*masks_of(8), "both_ways_window", "traced_window", "prefix", "cache", "bias"])
def test_what_cudnn_is_asked(case, monkeypatch):
    """The same public call in XLA gives what the reference gives, and the kernel's own words are used where it has them.

    Fails if a window is counted without the query itself, or segments are left out of the mask.
    """
    asked = {}
    real = jax.nn.dot_product_attention

    def call(*args, implementation, **options):
        assert implementation == "cudnn"
        asked.update(options, mask=args[4])
        return real(*args, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", call)
    T = 12
    q, k, v = arrays(T, 4, 2, dtype=jnp.bfloat16)
    mask, bias = masks_of(T).get(case, Mask()), None
    if case == "both_ways_window":
        mask = Mask(False, window=3)
    elif case == "traced_window":
        mask = Mask(window=jnp.int32(3))
    elif case == "prefix":
        mask = Mask(prefix=jnp.array([3, 0], jnp.int32))
    elif case == "cache":
        q, mask = q[:, :2], Mask(q_index=jnp.arange(2) + 7)
    elif case == "bias":
        bias = jnp.asarray(RNG.standard_normal((1, 4, T, T)), jnp.float32)
    got = attend(q, k, v, mask, bias=bias, backend="cudnn")
    want = attend(*(x.astype(jnp.float32) for x in (q, k, v)), mask, bias=bias)
    np.testing.assert_allclose(got.astype(jnp.float32), want, atol=0.03)
    own = case in ("causal", "window", "packed", "packed_window", "bias")
    assert asked["is_causal"] == own
    assert (asked["mask"] is None) == (case in ("causal", "window", "both_ways", "bias"))
    assert asked["local_window_size"] == ((4, 0) if "window" in case and own else None)


def splash_cases():
    """case -> (mask, soft cap): every shape of mask with and without segments; and pairs, whose targets and padding see sources."""
    ids, mask = packed(128), Mask(False, window=5)
    read = jnp.concatenate([ids, ids], axis=1).at[:, 128:].set(0)
    return {**{name: (one, 0.0) for name, one in masks_of(128).items()}, "both_ways_window": (mask, 2.0), "soft_cap": (Mask(), 2.0),
            "padding_window": (dataclasses.replace(mask, q_segments=ids, k_segments=ids), 0.0),
            "pairs": (Mask(False, q_segments=ids.at[0, 100:].set(9), k_segments=read), 0.0)}


# Each shape and each feature in every run, their other combinations in slow ones.
SPLASH = [pytest.param(name, marks=() if name in ("causal", "packed_window", "padding", "both_ways_window", "pairs") else pytest.mark.slow)
          for name in splash_cases()]


@pytest.mark.parametrize("case", SPLASH)
def test_splash_interpreted(case):
    """Values to 2e-6 and gradients to 2e-5 of the reference. Fails if the scale is left to the kernel, or a window is off by one,
    or open to one side (`near` for `0 if mask.causal else near` of a causal one, or 0 of another)."""
    (mask, cap), (q, _, _), scale = splash_cases()[case], arrays(128), 0.4
    _, k, v = arrays(128 if mask.k_segments is None else mask.k_segments.shape[1])
    grad = jnp.asarray(RNG.standard_normal(q.shape), jnp.float32)
    if case == "pairs":
        # A padded target sees nothing and has no weight in a loss: its values are a mean, and no gradient arrives.
        blind = ~(mask.q_segments[:, :, None] == mask.k_segments[:, None]).any(2)
        assert blind.any()
        grad = jnp.where(blind[..., None, None], 0.0, grad)

    def both(f):
        out, back = jax.vjp(f, q, k, v)
        return out, *back(grad)

    found = jax.jit(lambda: both(lambda q, k, v: splash.attend(q, k, v, mask, scale, cap, None, 0.0, None, interpret=True)))()
    want = both(lambda q, k, v: attend(q, k, v, mask, scale=scale, soft_cap=cap))
    for a, b, atol in zip(found, want, (2e-6, 2e-5, 2e-5, 2e-5), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


REFUSED = [
    ("cudnn", dict(dtype=jnp.float32), {}, "set model.dtype='bfloat16'"),
    ("cudnn", dict(H=12), {}, "heads of a multiple of 8"),
    ("cudnn", {}, dict(soft_cap=2.0), "no soft cap"),
    ("cudnn", {}, dict(rate=0.1, key=0), "set model.attention_dropout=0"),
    ("splash", dict(T=100), {}, "multiples of 128 positions and not 100"),
    ("splash", {}, dict(mask=Mask(window=jnp.int32(3))), "set model.scan=false"),
    ("splash", {}, dict(mask=Mask(prefix=jnp.zeros(2, jnp.int32))), "prefix"),
    ("splash", {}, dict(mask=Mask(q_index=jnp.arange(128))), "cache"),
    ("splash", {}, dict(bias=jnp.zeros((1, 2, 128, 128))), "no bias"),
    ("splash", {}, dict(rate=0.1, key=0), "set model.attention_dropout=0"),
]


@pytest.mark.parametrize("name,shape,options,why", REFUSED)
def test_refusals(name, shape, options, why):
    """What a kernel would ignore is an error that names the way out. Fails if its `refusal` returns "" at once."""
    q, k, v = arrays(**{"T": 128, "dtype": jnp.bfloat16, **shape})
    options = {**options, **({"key": jax.random.key(0)} if "key" in options else {})}
    with pytest.raises(UserError) as caught:
        attend(q, k, v, options.pop("mask", Mask()), backend=name, **options)
    assert why in str(caught.value) and "'xla'" in str(caught.value)


class Elsewhere(place.Layout):
    """A layout that says it is on another platform."""

    platform = "set below"


@pytest.mark.parametrize("platform,kernel", [("gpu", "cudnn"), ("tpu", "splash")])
def test_auto_goes_by_the_platform(platform, kernel, monkeypatch):
    """Fails if "auto" asks the process (jax.default_backend) instead of the layout, or takes a kernel that refuses."""
    monkeypatch.setattr(Elsewhere, "platform", platform)
    q, k, _ = arrays(128, dtype=jnp.bfloat16)
    with place.use(Elsewhere(mesh.make(mesh.Config()), rules.find("dp"))):
        assert backend("auto", q, k, Mask()) == kernel
        assert backend("auto", q, k, Mask(), rate=0.1) == kernel  # no key, no dropout
        assert backend("auto", q, k, Mask(), rate=0.1, key=jax.random.key(0)) == "xla"
        other = {"cudnn": "splash", "splash": "cudnn"}[kernel]
        with pytest.raises(UserError, match=f"'{other}' is not for {platform}"):
            backend(other, q, k, Mask())
    with place.use(Elsewhere(mesh.make(mesh.Config(data=4, seq=2)), rules.find("fsdp_seq"))):
        assert backend("auto", q, k, Mask()) == "xla"
        with pytest.raises(UserError, match="takes whole rows, and rules 'fsdp_seq' split them"):
            backend(kernel, q, k, Mask())
    assert backend("auto", q, k, Mask()) == "xla_cpu"


def test_a_kernel_sees_its_own_rows_and_heads(monkeypatch):
    """On a mesh, each device runs the kernel on its part, and the parts make the whole.

    Fails if a part of the mask is not cut like its rows: give the segments the spec (None, None).
    """
    seen = []

    def interpreted(*args):
        seen.append((args[0].shape, args[1].shape, args[3].q_segments.shape))
        return splash.attend(*args, interpret=True)

    monkeypatch.setattr(Elsewhere, "platform", "tpu")
    monkeypatch.setitem(ops.BACKENDS, "splash", interpreted)
    q, k, v = arrays(128, 4, 2, B=4)
    ids = packed(128, 4)
    mask = Mask(q_segments=ids, k_segments=ids)
    with place.use(Elsewhere(mesh.make(mesh.Config(data=2, fsdp=2, tensor=2)), rules.find("fsdp_tp"))):
        run = functools.partial(layers._attend, "auto", mask=mask, bias=None,
                                options=dict(scale=0.3, soft_cap=0.0, rate=0.0, key=None))
        got = jax.jit(lambda q, k, v: run(q, k, v))(q, k, v)
    assert set(seen) == {((1, 128, 2, 8), (1, 128, 1, 8), (1, 128))}
    np.testing.assert_allclose(got, attend(q, k, v, mask, scale=0.3), atol=2e-6)


PROGRAM = """
import jax, jax.numpy as jnp
from jax.experimental import topologies
from jaxlm.models import llama
from jaxlm.parallel import place, rules
from jaxlm.parallel.mesh import AXES
from jax.sharding import AxisType
topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
layout = place.Layout(topologies.make_mesh(topology, (1, 2, 1, 1, 2), AXES), rules.find("fsdp_tp"))
model = llama.build(llama.Config(vocab_size=128, layers=2, heads=4, kv_heads=2, embed=512, mlp=256, dtype="bfloat16"))
with place.use(layout):
    where = place.shardings(model.axes(), layout, model.abstract)
    params = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), model.abstract, where)
    ids = jax.ShapeDtypeStruct((4, 256), jnp.int32, sharding=place.batch_sharding(layout, 2))
    loss = lambda p, t, s: model.apply(p, {"tokens": t, "segments": s}).hidden.astype(jnp.float32).sum()
    text = jax.jit(jax.grad(loss)).trace(params, ids, ids).lower(lowering_platforms=("tpu",)).compile().as_text()
print("calls", text.count('custom_call_target="tpu_custom_call"'))
"""


def test_splash_compiles_for_an_absent_tpu():
    """The TPU compiler takes a packed model's forward and backward kernels. Fails if "auto" takes XLA on TPU (0 calls)."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("the TPU compiler is not installed: pip install libtpu")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost",
                   "TPU_ACCELERATOR_TYPE": "v5e-4"}
    environment.pop("XLA_FLAGS", None)  # those of tests are for CPU
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split()[-2:] == ["calls", "3"]

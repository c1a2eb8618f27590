# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Same losses and gradients under every layout: family x rules x accumulation x remat against one plain computation."""
import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import build
from jaxlm.core import tree
from jaxlm.parallel import mesh, place, rules
from jaxlm.training import step as steps

# A family with fields that make it compute something else.
VARIANTS = {"llama_moe": ("llama", {"mlp": 48, "experts": 4, "experts_per_token": 2, "router_aux": 0.05, "router_z": 0.01})}
FAMILIES = [*build.names("model"), *VARIANTS]
# Terms of the loss that each micro-batch has for itself: accumulation is compared without.
OF_A_MICRO_BATCH = {"llama_moe": {"router_aux": 0.0, "router_z": 0.0}}
# Every rule needs an entry. The expert axis is data parallel to all that is no expert.
MESHES = {
    "dp": {"data": 4, "expert": 2},
    "fsdp": {"data": 2, "fsdp": 4},
    "fsdp_seq": {"data": 2, "fsdp": 2, "seq": 2},
    "tp": {"data": 4, "tensor": 2},
    "fsdp_tp": {"data": 2, "fsdp": 2, "tensor": 2},
}
# Experts split in two and in four, beside each other axis.
MESHES_OF = {"llama_moe": {
    "dp": {"data": 2, "expert": 4},
    "fsdp": {"fsdp": 2, "data": 1, "expert": 4},
    "fsdp_seq": {"fsdp": 2, "data": 1, "seq": 2, "expert": 2},
    "tp": {"data": 2, "expert": 2, "tensor": 2},
    "fsdp_tp": {"fsdp": 2, "data": 1, "expert": 2, "tensor": 2},
}}
ROWS, LENGTH, VOCAB = 32, 12, 96
SMALL = {"layers": 2, "embed": 32, "heads": 4, "kv_heads": 2, "mlp": 64, "max_len": 32, "vocab_size": VOCAB,
         "embed_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0}


def model_of(family: str, **changes):
    family, own = VARIANTS.get(family, (family, {}))
    declared = build.find("model", family).Config()
    fields = {k: v for k, v in SMALL.items() if hasattr(declared, k)}
    return build.find("model", family).build(type(declared)(**{**fields, **own, **changes}))


def batch_of(seed: int = 0):
    """Packed documents of odd lengths, with padding and predictions of weight 0."""
    draw = np.random.default_rng(seed)
    segments, positions = np.zeros((ROWS, LENGTH), np.int32), np.zeros((ROWS, LENGTH), np.int32)
    for row in range(ROWS):
        at, document = 0, 0
        while at < LENGTH - 3:
            n = int(draw.integers(2, 7))
            document += 1
            end = min(at + n, LENGTH)
            segments[row, at:end], positions[row, at:end] = document, np.arange(end - at)
            at = end
    tokens = draw.integers(0, VOCAB, (ROWS, LENGTH + 1)).astype(np.int32)
    weights = ((segments > 0) & (draw.random((ROWS, LENGTH)) > 0.1)).astype(np.float32)
    return {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "segments": segments, "positions": positions, "weights": weights}


def unpacked(batch):
    """The same documents, each in a row of its own, and rows of padding up to a multiple of ROWS."""
    documents = [(row, batch["segments"][row] == n) for row in range(ROWS) for n in range(1, batch["segments"][row].max() + 1)]
    out = {field: np.zeros((-(-len(documents) // ROWS) * ROWS, *x.shape[1:]), x.dtype) for field, x in batch.items()}
    for i, (row, at) in enumerate(documents):
        for field, x in batch.items():
            out[field][i, : at.sum()] = 1 if field == "segments" else x[row, at]
    return out


def params_of(model):
    """Noise on every parameter: biases of 0 and scales of 1 would hide mistakes."""
    draw = np.random.default_rng(2)
    noise = lambda path, x: np.asarray(path.endswith("scale") + 0.05 * draw.standard_normal(x.shape), x.dtype)
    return tree.map_with_path(noise, model.abstract)


def run(model, layout, micro_batches=1, chunks=1, packed=True):
    """(loss, gradients) on the host, both divided by the weight."""
    given = batch_of() if packed else unpacked(batch_of())
    objective = build.find("objective", "causal_lm")
    loss = steps.make_loss(model, objective.build(objective.Config(chunks=chunks, z_loss=1e-3, label_smoothing=0.05)))
    with contextlib.nullcontext() if layout is None else place.use(layout):
        params, batch, fetch = params_of(model), given, {}
        if layout is not None:
            params = jax.tree.map(jax.device_put, params, place.shardings(model.axes(), layout, model.abstract))
            rows = len(batch["tokens"])
            batch = place.put({k: x[place.local_rows(layout, rows)] for k, x in batch.items()}, layout, rows)
            # A process sees its own devices only: of several, each is given the whole.
            fetch = {"out_shardings": layout.replicated} if jax.process_count() > 1 else {}
        compute = functools.partial(steps.gradients, loss, micro_batches=micro_batches)
        grads, means = jax.device_get(jax.jit(compute, **fetch)(params, batch, jax.random.key(0)))
    weight = means["loss"].weight
    return means["loss"].total / weight, jax.tree.map(lambda g: g / weight, grads)


@functools.cache
def reference(family: str, without: tuple = ()):
    """On one device and without a layout: no part of what splits takes part."""
    return run(model_of(family, **dict(without)), None)


def layout_of(name: str, family: str = "") -> place.Layout:
    return place.Layout(mesh.make(mesh.Config(**MESHES_OF.get(family, MESHES)[name])), rules.find(name))


def close(found, expected):
    assert abs(found[0] - expected[0]) <= 2e-6 * abs(expected[0])
    for path, g in tree.flatten(expected[1]).items():
        # Relative to the largest gradient of that parameter; sums over devices come in another order.
        np.testing.assert_allclose(tree.flatten(found[1])[path], g, rtol=0, atol=2e-5 * np.abs(g).max() + 1e-9, err_msg=path)


@pytest.mark.parametrize("micro_batches", [1, 4])
@pytest.mark.parametrize("rule", sorted(rules.RULES))
@pytest.mark.parametrize("family", FAMILIES)
def test_layouts_and_accumulation(family, rule, micro_batches):
    """Fails if gradients() averages micro-batches (`weight` of each part instead of the sum) or a rule drops rows,
    or linear._split_product gives another gradient than autodiff: `2 * d_x` in its backward. With experts:
    if a device takes another's (`first` is 0 in moe._compute), or what they give is not added (psum_scatter over half of the axes)."""
    without = OF_A_MICRO_BATCH.get(family, {}) if micro_batches > 1 else {}
    found = run(model_of(family, **without), layout_of(rule, family), micro_batches)
    close(found, reference(family, tuple(without.items())))


@pytest.mark.parametrize("rule", ["fsdp_seq", "fsdp_tp"])
@pytest.mark.parametrize("family", build.names("model"))
def test_packed_is_unpacked(family, rule):
    """Each document in a row of its own, in micro-batches, against all packed. Fails if a document sees the one before it:
    drop segments from the model's Mask, or positions from the batch in `unpacked`."""
    without = OF_A_MICRO_BATCH.get(family, {})
    found = run(model_of(family, **without), layout_of(rule, family), 4, packed=False)
    close(found, reference(family, tuple(without.items())))


@pytest.mark.parametrize("remat", ["full", "dots"])
@pytest.mark.parametrize("family", FAMILIES)
def test_remat(family, remat):
    """Fails if a remat policy changes what is computed, or its name is not honoured (compare the two jaxprs)."""
    layout = place.Layout(mesh.make(mesh.Config(data=1), jax.devices()[:1]), rules.find("dp"))
    model = model_of(family, remat=remat)
    close(run(model, layout), reference(family))
    # The comparison means something only if the policy is in force.
    batch = jax.tree.map(jnp.asarray, batch_of())
    text = str(jax.make_jaxpr(lambda p: model.apply(p, batch).hidden)(model.abstract))
    assert "remat" in text or "checkpoint" in text


@pytest.mark.parametrize("family", FAMILIES)
def test_chunked_loss_and_unrolled_layers(family):
    """Fails if a chunk of the loss is dropped, or unrolled layers take another layer's parameters."""
    layout = place.Layout(mesh.make(mesh.Config(data=1), jax.devices()[:1]), rules.find("dp"))
    close(run(model_of(family, scan=False), layout, chunks=3), reference(family))


def test_chunked_loss_of_split_positions():
    """Fails if a chunk is dropped: scan over `cut(x)[1:]` in cross_entropy."""
    close(run(model_of("gpt"), layout_of("fsdp_seq"), chunks=3), reference("gpt"))


def test_a_table_of_ones_own():
    """Rows over two axes, matrices over two others at once, and half of what is computed. Fails as the named rules do."""
    own = rules.Config(("embed=data+seq", "mlp=tensor", "vocab=fsdp"), ("batch=data+fsdp", "act_mlp=tensor", "act_vocab=seq"))
    layout = place.Layout(mesh.make(mesh.Config(data=2, fsdp=1, seq=2, tensor=2)), rules.find("custom", own))
    close(run(model_of("llama"), layout), reference("llama"))

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Same losses and gradients under every layout: family x rules x accumulation x remat against one plain computation."""
import contextlib
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import build
from jaxlm.core import tree
from jaxlm.parallel import mesh, place, rules
from jaxlm.training import state as states
from jaxlm.training import step as steps
from tests import families
from tests.families import ROWS, batch_of, model_of, params_of

# These have the model and the loss of others, but for batches and a few parameters: one layout that splits all, and no more.
ALIKE = ["t5_denoise", "bart"]
FAMILIES = [family for family in families.FAMILIES if family not in ALIKE]
# Encoder-decoders differ from the others by their attention over a source alone: every layout with accumulation, and no more.
SOURCED = [name for name in FAMILIES if families.reads_source(name)]
# Terms of the loss that each micro-batch has for itself: accumulation is compared without.
OF_A_MICRO_BATCH = {"llama_moe": {"router_aux": 0.0, "router_z": 0.0}}
# Every rule needs an entry. The expert axis is data parallel to all that is no expert.
MESHES = {
    "dp": {"data": 8},
    "fsdp": {"data": 2, "fsdp": 4},
    "fsdp_seq": {"data": 2, "fsdp": 2, "seq": 2},
    "tp": {"data": 2, "expert": 2, "tensor": 2},
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


def unpacked(batch):
    """The same documents, each in a row of its own, and rows of padding up to a multiple of ROWS."""
    documents = [(row, n) for row in range(ROWS) for n in range(1, batch["segments"][row].max() + 1)]
    out = {field: np.zeros((-(-len(documents) // ROWS) * ROWS, *x.shape[1:]), x.dtype) for field, x in batch.items()}
    for i, (row, n) in enumerate(documents):
        for field, x in batch.items():
            at = batch["source_segments" if field.startswith("source_") else "segments"][row] == n
            out[field][i, : at.sum()] = 1 if field.endswith("segments") else x[row, at]
    return out


def run(family, layout, micro_batches=1, chunks=1, documents="", **changes):
    """(loss, gradients, the next carry of a recurrent model) on the host, both divided by the weight; changes are fields of the model.

    documents: "" for what the family is trained for; "packed" or "unpacked" for a prediction at each token of documents,
    which means as much of an encoder.
    """
    model, kind = model_of(family, **changes), "gpt" if documents and not families.reads_source(family) else family
    given = batch_of(family=kind)
    given = unpacked(given) if documents == "unpacked" else given
    loss = steps.Loss(model, families.objective_of(kind, chunks=chunks))
    with contextlib.nullcontext() if layout is None else place.use(layout):
        params, batch, carry, fetch = params_of(model), given, None if documents else families.carry_of(family, model), {}
        if layout is not None:
            params = jax.tree.map(jax.device_put, params, place.shardings(model.axes(), layout, model.abstract))
            rows = len(batch["tokens"])
            batch = place.put({k: x[place.local_rows(layout, rows)] for k, x in batch.items()}, layout, rows)
            # A process sees its own devices only: of several, each is given the whole.
            fetch = {"out_shardings": layout.replicated} if jax.process_count() > 1 else {}
            carry = carry and jax.tree.map(functools.partial(jax.device_put, device=states.carried(layout)), carry)
        compute = functools.partial(steps.gradients, loss, micro_batches=micro_batches)
        (grads, means), carry = jax.device_get(jax.jit(compute, **fetch)(params, batch, carry, jax.random.key(0)))
    weight = means["loss"].weight
    return means["loss"].total / weight, jax.tree.map(lambda g: g / weight, grads), carry


@functools.cache
def reference(family: str, without: tuple = (), documents: str = ""):
    """On one device and without a layout: no part of what splits takes part."""
    return run(family, None, documents=documents, **dict(without))


def layout_of(name: str, family: str = "") -> place.Layout:
    return place.Layout(mesh.make(mesh.Config(**MESHES_OF.get(family, MESHES)[name])), rules.find(name))


def close(found, expected):
    assert abs(found[0] - expected[0]) <= 1e-6 * abs(expected[0])
    for path, g in tree.flatten(expected[1]).items():
        # Relative to the largest gradient of that parameter; sums over devices come in another order.
        np.testing.assert_allclose(tree.flatten(found[1])[path], g, rtol=0, atol=1e-5 * np.abs(g).max() + 1e-9, err_msg=path)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6), found[2], expected[2])


@pytest.mark.parametrize("family,rule,micro_batches", [
    *((family, rule, n) for family in FAMILIES for rule in sorted(rules.RULES) for n in ((4,) if family in SOURCED else (1, 4))),
    *((family, "fsdp_tp", 4) for family in ALIKE)])
def test_layouts_and_accumulation(family, rule, micro_batches):
    """Fails if gradients() averages micro-batches (`weight` of each part instead of the sum) or a rule drops rows,
    or linear._split_product gives another gradient than autodiff: `2 * d_x` in its backward. With labels of pairs: if each
    micro-batch weighs them by itself (no `balance` of the whole batch in gradients()). With experts:
    if a device takes another's (`first` is 0 in moe._compute), or what they give is not added (psum_scatter over half of the axes)."""
    without = OF_A_MICRO_BATCH.get(family, {}) if micro_batches > 1 else {}
    found = run(family, layout_of(rule, family), micro_batches, **without)
    close(found, reference(family, tuple(without.items())))


@pytest.mark.parametrize("family", FAMILIES)
def test_micro_batches_of_devices_that_share_only_rows(family):
    """Each of 8 devices computes its own rows as if it were alone: what is dropped, and the experts' balance of a whole micro-batch,
    are those of one device that computes all rows.

    Fails if a device numbers its rows from 0 (`first = 0` in dropout.kept), if a number for each word or weight is drawn as if they
    were rows (drop `rows=False` in models/lstm.py), or a device balances its own tokens (drop `cut.total` in models/llama.py)."""
    declared = build.find("model", families.FAMILIES[family].file or family).Config
    dropped = {field.name: 0.3 for field in dataclasses.fields(declared) if field.name.endswith("dropout")}
    layout = place.Layout(mesh.make(mesh.Config(data=8)), rules.find("dp"))
    close(run(family, layout, 4, **dropped), run(family, None, 4, **dropped))


def test_rows_over_the_axis_of_experts():
    """A model without experts has rows there under dp, as the rule says, whose gradients the compiler sums. Fails if it is taken for one
    that splits only rows: drop `and name not in others` in rules.only_rows."""
    layout = place.Layout(mesh.make(mesh.Config(data=4, expert=2)), rules.find("dp"))
    assert not layout.rules.only_rows(layout.mesh.shape)
    close(run("gpt", layout, 4), reference("gpt"))


@pytest.mark.parametrize("family,rule", [
    (family, rule) for family in FAMILIES if family not in OF_A_MICRO_BATCH for rule in ("fsdp_seq", "fsdp_tp")
    if family not in SOURCED or rule == "fsdp_seq"])
def test_packed_is_unpacked(family, rule):
    """Each document in a row of its own, in micro-batches, against all packed. Fails if a document sees the one before it:
    drop segments from the model's Mask, or positions from the batch in `unpacked`."""
    without = OF_A_MICRO_BATCH.get(family, {})
    found = run(family, layout_of(rule, family), 4, documents="unpacked", **without)
    close(found, reference(family, tuple(without.items()), "packed"))


@pytest.mark.parametrize("family,remat", [
    (family, remat) for family in FAMILIES for remat in ("full", "dots") if family not in SOURCED or remat == "full"])
def test_remat(family, remat):
    """Fails if a remat policy changes what is computed, or its name is not honoured (compare the two jaxprs)."""
    layout = place.Layout(mesh.make(mesh.Config(data=1), jax.devices()[:1]), rules.find("dp"))
    close(run(family, layout, remat=remat), reference(family))
    # The comparison means something only if the policy is in force.
    model, batch = model_of(family, remat=remat), jax.tree.map(jnp.asarray, batch_of(family=family))
    text = str(jax.make_jaxpr(lambda p: model.apply(p, batch).hidden)(model.abstract))
    assert "remat" in text or "checkpoint" in text


@pytest.mark.slow
@pytest.mark.parametrize("family,rule,documents,remat,micro_batches",
                         list(itertools.product(families.FAMILIES, sorted(rules.RULES), ("packed", "unpacked"), ("none", "full"), (1, 4))))
def test_every_combination(family, rule, documents, remat, micro_batches):
    """The whole product, of which the tests above are the part that is run always."""
    without = OF_A_MICRO_BATCH.get(family, {})
    found = run(family, layout_of(rule, family), micro_batches, documents=documents, remat=remat, **without)
    close(found, reference(family, tuple(without.items()), "packed"))


@pytest.mark.parametrize("family", FAMILIES)
def test_chunked_loss_and_unrolled_layers(family):
    """Fails if a chunk of the loss is dropped, or unrolled layers take another layer's parameters."""
    layout = place.Layout(mesh.make(mesh.Config(data=1), jax.devices()[:1]), rules.find("dp"))
    close(run(family, layout, chunks=3, scan=False), reference(family))


def test_chunked_loss_of_split_positions():
    """Fails if a chunk is dropped: scan over `cut(x)[1:]` in cross_entropy."""
    close(run("gpt", layout_of("fsdp_seq"), chunks=3), reference("gpt"))


def test_a_table_of_ones_own():
    """Rows over two axes, matrices over two others at once, and half of what is computed. Fails as the named rules do."""
    own = rules.Config(("embed=data+seq", "mlp=tensor", "vocab=fsdp"), ("batch=data+fsdp", "act_mlp=tensor", "act_vocab=seq"))
    layout = place.Layout(mesh.make(mesh.Config(data=2, fsdp=1, seq=2, tensor=2)), rules.find("custom", own))
    close(run("llama", layout), reference("llama"))

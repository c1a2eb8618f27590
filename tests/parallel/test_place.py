# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Where arrays live: each device holds its part and no host the whole, what mirrors parameters lies like them, errors."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from jaxlm.core import tree
from jaxlm.core.errors import UserError
from jaxlm.models import llama
from jaxlm.parallel import mesh, place, rules
from jaxlm.training import state as states

MODEL = llama.build(llama.Config(vocab_size=64, layers=2, heads=4, kv_heads=2, embed=32, mlp=48))
LAYOUT = place.Layout(mesh.make(mesh.Config(data=2, fsdp=2, tensor=2)), rules.find("fsdp_tp"))


def abstract(tx=optax.adamw(1e-3)):
    return states.abstract(MODEL, tx, jax.tree.map(lambda _: True, MODEL.abstract), LAYOUT)


def test_each_device_holds_its_part():
    """Fails if the state is made whole and then cut: jax.device_put(create(...), shardings) in states.initialise."""
    tx, target = optax.adamw(1e-3), abstract()
    with place.use(LAYOUT):
        with jax.transfer_guard("disallow_explicit"):
            state = states.initialise(MODEL, tx, jax.tree.map(lambda _: True, MODEL.abstract), 0, target)
    for path, x in tree.flatten(state.params).items():
        parts = 8 // 2 if "norm" not in path else 1  # data replicates; fsdp and tensor both split every matrix
        assert {s.data.nbytes for s in x.addressable_shards} == {x.nbytes // parts}, path
        assert len(x.addressable_shards) == 8
    on_first = sum(s.data.nbytes for x in jax.tree.leaves(state) for s in x.addressable_shards if s.device.id == 0)
    assert on_first == states.bytes_per_device(target) < tree.nbytes(state) / 3


def test_the_optimizer_lies_like_the_parameters():
    """Fails if moments are replicated (`return layout.replicated` first in place.like), or a counter is looked for."""
    target = abstract(optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)))
    params = tree.flatten(target.params)
    adam = optax.tree.get(target.opt_state, "mu"), optax.tree.get(target.opt_state, "nu")
    for moments in adam:
        assert {p: x.sharding for p, x in tree.flatten(moments).items()} == {p: x.sharding for p, x in params.items()}
    assert optax.tree.get_all_with_path(target.opt_state, "count")[0][1].sharding.spec == P()
    assert params["blocks/mlp/up/kernel"].sharding.spec == P(None, "fsdp", "tensor")


def test_moments_of_another_shape_are_replicated():
    """Fails if a factored moment takes the sharding of a parameter whose rank it does not have: drop the shape's check."""
    params = {"a": jax.ShapeDtypeStruct((8, 4), jnp.float32)}
    where = place.shardings({"a": ("embed", "mlp")}, LAYOUT, params)
    found = place.like({"row": {"a": jax.ShapeDtypeStruct((8,), jnp.float32)}, "mu": params}, params, where, LAYOUT)
    assert found["row"]["a"].spec == P() and found["mu"]["a"].spec == P("fsdp", "tensor")


def test_what_does_not_divide():
    """Every parameter that does not divide is named, with its size. Fails if place.shardings checks none, or stops at one."""
    shapes = {"a": jax.ShapeDtypeStruct((8, 3), jnp.float32), "b": jax.ShapeDtypeStruct((5,), jnp.float32)}
    with pytest.raises(UserError, match=r"rules 'fsdp_tp'.*a \(8, 3\): 3 does not divide over tensor=2; b \(5,\): 5 .* fsdp=2"):
        place.shardings({"a": ("embed", "mlp"), "b": ("embed",)}, LAYOUT, shapes)


def test_unknown_axis_and_wrong_rank():
    """Fails if constrain drops names it does not know: drop the check of Rules.spec."""
    with place.use(LAYOUT):
        with pytest.raises(ValueError, match="unknown logical axis 'bacth', did you mean 'batch'"):
            place.constrain(jnp.ones((4, 4)), "bacth", None)
        with pytest.raises(ValueError, match=r"1 axis names \('batch',\) for an array of shape \(4, 4\)"):
            place.constrain(jnp.ones((4, 4)), "batch")


def test_without_a_layout_nothing_is_placed():
    x = jnp.ones((3, 5))
    assert place.active() is None and place.constrain(x, "batch", "seq") is x and not place.splits("seq")


def test_a_batch_is_split_by_rows_and_positions():
    """Fails if a batch's positions stay whole: drop "seq" from place.batch_sharding; or those of a source of another length: take
    one length for all fields in place.put."""
    layout = place.Layout(mesh.make(mesh.Config(data=2, fsdp=2, seq=2)), rules.find("fsdp_seq"))
    host = {"tokens": np.arange(4 * 6).reshape(4, 6), "labels": np.arange(4), "spans": np.ones((4, 2, 3), np.int32),
            "source_tokens": np.arange(4 * 10).reshape(4, 10)}
    batch = place.put(host, layout, 4)
    assert {s.data.shape for s in batch["tokens"].addressable_shards} == {(1, 3)}
    assert {s.data.shape for s in batch["source_tokens"].addressable_shards} == {(1, 5)}
    assert {s.data.shape for s in batch["labels"].addressable_shards} == {(1,)}
    for name, x in host.items():
        np.testing.assert_array_equal(batch[name], x)


def test_what_is_gathered_comes_back_in_parts():
    """Fails if place.move does not say how its argument is split: `return constrain(x, *there)`."""
    layout = place.Layout(mesh.make(mesh.Config(data=4, seq=2)), rules.find("fsdp_seq"))
    with place.use(layout):
        assert place.splits("seq") and not place.splits("act_mlp")
        x = place.put({"x": np.ones((4, 6), np.float32)}, layout, 4)["x"]
        whole, back = jax.jit(lambda x: jax.vjp(lambda x: place.move(x, ("batch", "seq"), ("batch", None)), x))(x)
        assert {s.data.shape for s in whole.addressable_shards} == {(1, 6)}
        grad = jax.jit(lambda x: jax.grad(lambda x: (place.move(x, ("batch", "seq"), ("batch", None)) ** 2).sum())(x))(x)
        assert {s.data.shape for s in grad.addressable_shards} == {(1, 3)}
        np.testing.assert_array_equal(grad, 2 * np.ones((4, 6)))


@pytest.mark.parametrize("table, sizes", [
    (rules.find("fsdp_tp"), {"data": 2, "fsdp": 2, "tensor": 2}),
    (rules.find("fsdp_seq"), {"data": 2, "fsdp": 2, "seq": 2}),
    (rules.Rules("stored", {"vocab": ("tensor",), "embed": ("fsdp",)}, {"batch": ("data", "fsdp")}), {"data": 2, "fsdp": 2, "tensor": 2}),
    (rules.Rules("within", {"vocab": ("fsdp", "tensor")}, {"batch": ("data", "fsdp"), "act_vocab": ("tensor",)}), {"data": 2, "fsdp": 2, "tensor": 2}),
    (rules.Rules("twice", {"embed": ("fsdp", "data")}, {"batch": ("data", "fsdp")}), {"data": 2, "fsdp": 4}),
], ids=lambda x: getattr(x, "name", ""))
def test_copies_have_gradients_of_their_own(table, sizes):
    """One copy a part; their gradients are summed exactly and lie as what was copied is stored, however that is split. Fails if a
    gradient is scattered over one axis only (`entry[:1]` in _sum_copies), parts that store whole numbers are not summed (no psum), or
    what only storage splits is left whole (no constrain)."""
    layout = place.Layout(mesh.make(mesh.Config(**{"data": 1, **sizes})), table)
    x = jnp.arange(16.0 * 8).reshape(16, 8)
    with place.use(layout):
        shape = place.parts("batch"), place.parts("seq")
        weight = jnp.arange(1.0, 1 + shape[0] * shape[1]).reshape(*shape, 1, 1)
        stored = layout.sharding("vocab", "embed")

        def f(x):
            out = place.copies(x, ("batch", "seq"), ("act_vocab", None), ("vocab", "embed"))
            return jnp.sum(weight * jnp.square(out)), out

        (_, out), grad = jax.jit(jax.value_and_grad(f, has_aux=True))(jax.device_put(x, stored))
    np.testing.assert_array_equal(out, np.broadcast_to(x, (*shape, 16, 8)))
    np.testing.assert_array_equal(grad, 2 * x * jnp.sum(weight))
    assert grad.sharding.is_equivalent_to(stored, 2)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Training with float8 products: which products, that it learns, on any layout; and what is timed to decide about it."""
import functools
import re

import jax
import numpy as np
import optax
import pytest

from jaxlm.core import tree
from jaxlm.layers.linear import Float8
from jaxlm.parallel import mesh, place, rules
from jaxlm.training import gate, state, step
from tests import families

STEPS = 12
MESHES = {"one": {"data": 1}, "dp": {"data": 8}, "fsdp": {"data": 2, "fsdp": 4}, "fsdp_tp": {"data": 2, "fsdp": 2, "tensor": 2}}
OBJECTIVE = families.objective_of("gpt", z_loss=0.0, label_smoothing=0.0)


def layout_of(name: str) -> place.Layout:
    sizes = mesh.Config(**MESHES[name])
    return place.Layout(mesh.make(sizes, jax.devices()[:1] if name == "one" else None), rules.find("dp" if name == "one" else name))


@functools.cache
def trained(float8: bool) -> np.ndarray:
    """Losses of steps on two batches, of a float32 GPT whose blocks have a say from the first step on."""
    model, layout = families.model_of("gpt", init_std=0.2), layout_of("one")
    tx, trainable = optax.adamw(3e-3), jax.tree.map(lambda _: True, model.abstract)
    made = step.make_step(Float8(model) if float8 else model, OBJECTIVE, tx, optax.constant_schedule(3e-3), trainable)
    losses = []
    with place.use(layout):
        target = state.abstract(model, tx, trainable, layout)
        now = state.initialise(model, tx, trainable, 0, target)
        batches = [place.put(families.batch_of(seed), layout, families.ROWS) for seed in range(2)]
        compiled = step.compile_step(made, now, batches[0], layout.replicated)
        for number in range(STEPS):
            now, metrics = compiled(now, batches[number % 2])
            loss = metrics["means"]["loss"]
            losses.append(float(loss.total / loss.weight))
    return np.array(losses)


@functools.cache
def computed(name: str, float8: bool = True, micro_batches: int = 1) -> tuple[str, float, dict[str, np.ndarray]]:
    """(the lowered program, loss, gradients by path) of a float32 GPT, where the roundings of float8 are the only ones."""
    model, layout = families.model_of("gpt"), layout_of(name)
    loss = step.Loss(Float8(model) if float8 else model, OBJECTIVE)
    with place.use(layout):
        params = jax.tree.map(jax.device_put, families.params_of(model), place.shardings(model.axes(), layout, model.abstract))
        batch = place.put(families.batch_of(), layout, families.ROWS)
        lowered = jax.jit(lambda p, b: step.gradients(loss, p, b, None, jax.random.key(0), micro_batches)[0]).lower(params, batch)
        grads, means = jax.device_get(lowered.compile()(params, batch))
    return lowered.as_text(), float(means["loss"].value), tree.flatten(grads)


def products(text: str) -> list[str]:
    """The types that each float8 product of a lowered program meets."""
    kinds = (re.findall(r"(f8\w+)>", line.split(" : ")[-1]) for line in text.splitlines() if "dot_general" in line)
    return [" ".join(found) for found in kinds if found]


@pytest.mark.parametrize("name", MESHES)
def test_which_products(name):
    """Queries, keys, values, outputs, up and down: each once in the loop over layers, with two gradients; no scores, no table.

    Fails if a product is left out: float8=False in layers/mlp.py; if the gradients of a split weight are computed without:
    `float8=False` in linear._split_product_backward; or if it goes on when nobody asks: no `_ASKED.reset`."""
    assert sorted(products(computed(name)[0])) == ["f8E4M3FN f8E4M3FN"] * 6 + ["f8E4M3FN f8E5M2"] * 6 + ["f8E5M2 f8E4M3FN"] * 6
    assert "f8" not in computed("one", False)[0]


def difference(name: str, float8: bool = True, micro_batches: int = 1) -> float:
    """How far all gradients lie from those of one device with float8, as a share of their length."""
    expected, found = computed("one", micro_batches=micro_batches)[2], computed(name, float8, micro_batches)[2]
    length = lambda grads: sum(np.square(g).sum() for g in grads) ** 0.5
    return length(found[path] - g for path, g in expected.items()) / length(expected.values())


def test_micro_batches_of_devices_that_share_only_rows():
    """Each of eight devices rounds its own rows as all rows of a micro-batch are. Fails if it has the scale of its own rows (`rows=False` in
    the place of one `rows=True` in ops/float8.py): gradients 0.08 apart, or the loss 2e-4."""
    np.testing.assert_allclose(computed("dp", True, 4)[1], computed("one", True, 4)[1], rtol=1e-5)
    assert difference("dp", True, 4) < 1e-3


@pytest.mark.parametrize("name", ["fsdp", "fsdp_tp"])
def test_layouts(name):
    """Eight devices have the scales and so the roundings of one. Fails if they have others, here by 0.02 of a scale:
    `1.02 * x` for the x of linear._split_product."""
    np.testing.assert_allclose(computed(name)[1], computed("one")[1], rtol=1e-5)
    assert difference(name) < 1e-3 < 0.03 < difference("one", False)


def test_it_learns_as_without():
    """Within what float8's three binary digits move a loss by. Fails if what comes back loses its scale, `_rounded(2 * d_y, BACKWARD)`
    in ops/float8._gradients: 0.3 apart. How many digits there are is seen in tests/ops/test_float8.py and not here."""
    assert trained(False)[-1] < trained(False)[0] - 1
    np.testing.assert_allclose(trained(True), trained(False), rtol=0, atol=0.05)


def test_what_is_timed():
    """Each product of a GPT as one device of eight computes it, in one of two micro-batches, the largest first.

    Fails if sizes are those of all devices (`return 1` in place.parts) or of all micro-batches."""
    layout, model, batch = layout_of("fsdp_tp"), families.model_of("gpt", dtype="bfloat16"), families.batch_of()
    with place.use(layout):
        found = gate.products(model, OBJECTIVE, model.abstract, batch, 2)
    rows = families.ROWS * families.LENGTH // 2 // 4
    assert sorted(found) == sorted([(rows, 32, 16, 3), (rows, 16, 32, 1), (rows, 32, 32, 2)])
    assert found[0] == (rows, 32, 32, 2)


@pytest.mark.parametrize("float8,expected", [(0.9, "on"), (0.96, "off"), (1.5, "off")])
def test_the_gate(monkeypatch, float8, expected):
    """By a clock that knows which products have run: a bfloat16 one takes a second, a float8 one this many.

    Fails if they change places, `(True, False)` in gate._best, or the factor is not asked for: NEEDED = 1.0."""
    ran, product = [], gate.linear.product

    def counted(equation, x, w, float8):
        jax.debug.callback(lambda: ran.append(float8))
        return product(equation, x, w, float8=float8)

    def clock():
        jax.effects_barrier()
        return sum(float8 if kind else 1.0 for kind in ran)

    monkeypatch.setattr(gate.linear, "product", counted)
    found = gate.measure([(8, 16, 32, 2), (8, 16, 16, 1)], jax.devices()[0], clock=clock)
    assert found["fp8"] == expected and f"{1 / float8:.2f} times as fast" in found["why"]
    assert [row["count"] for row in found["products"]] == [2, 1]
    np.testing.assert_allclose([row["float8_ms"] / row["bfloat16_ms"] for row in found["products"]], float8)

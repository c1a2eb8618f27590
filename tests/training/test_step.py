# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The training step: skipping, freezing, one division, full donation, FLOPs counted through loops."""
import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm.core import tree
from jaxlm.core.types import Mean, Objective, Outputs, TrainState
from jaxlm.core.errors import UserError
from jaxlm.models import llama
from jaxlm.parallel import mesh, place, rules
from jaxlm.training import flops, loop, packed, state, step, stop
from jaxlm.training.evaluate import summary


class Line:
    """The smallest model: one weight vector, hidden = x * w."""

    abstract = {"w": jax.ShapeDtypeStruct((4,), jnp.float32), "frozen": jax.ShapeDtypeStruct((4,), jnp.float32)}

    def init(self, key):
        return {"w": jnp.arange(4.0), "frozen": jnp.ones(4)}

    def axes(self):
        return {"w": (None,), "frozen": (None,)}

    def apply(self, params, batch, *, key=None, cache=None):
        return Outputs(batch["x"] * (params["w"] + params["frozen"])[None])


def squares(outputs, batch):
    per_row = jnp.sum((outputs.hidden - batch["y"]) ** 2, -1) * batch["weights"]
    return {"loss": Mean(jnp.sum(per_row), jnp.sum(batch["weights"]))}


LAYOUT = place.Layout(mesh.make(mesh.Config(data=1), jax.devices()[:1]), rules.find("dp"))
TRAINABLE = {"w": True, "frozen": False}


def build(micro_batches=1, lr=0.1):
    tx = optax.adam(lr)
    made = step.make_step(Line(), Objective(None, squares), tx, lambda count: lr, TRAINABLE, micro_batches)
    with place.use(LAYOUT):
        target = state.abstract(Line(), tx, TRAINABLE, LAYOUT)
        return jax.jit(made), state.initialise(Line(), tx, TRAINABLE, 0, target)


def batch(rows=6, bad=False, weights=None):
    draw = np.random.default_rng(0)
    x = draw.standard_normal((rows, 4)).astype(np.float32)
    x[0, 0] = np.nan if bad else x[0, 0]
    return {"x": jnp.asarray(x), "y": jnp.ones((rows, 4)), "weights": jnp.asarray(np.ones(rows) if weights is None else weights, jnp.float32)}


def test_a_step_that_is_not_finite_changes_nothing_but_counters():
    """Fails if the guard is dropped: `keep = lambda new, old: new` in training/step.py."""
    run, start = build()
    after, metrics = run(start, batch(bad=True))
    assert int(after.step) == 1 and after.skipped.tolist() == [1, 1]
    for path, x in tree.flatten((start.params, start.opt_state)).items():
        np.testing.assert_array_equal(tree.flatten((after.params, after.opt_state))[path], x)
    assert not np.isfinite(metrics["means"]["loss"].total)
    after, _ = run(after, batch())
    assert after.skipped.tolist() == [1, 0] and not np.array_equal(after.params["w"], start.params["w"])
    after, _ = run(after, batch(bad=True))
    after, _ = run(after, batch(bad=True))
    assert after.skipped.tolist() == [3, 2]


def test_frozen_parameters_stay_and_have_no_optimizer_state():
    """Fails if the optimizer sees all parameters: `tx.init(params)` in training/state.py."""
    run, start = build()
    after, _ = run(start, batch())
    np.testing.assert_array_equal(after.params["frozen"], start.params["frozen"])
    assert not [p for p in tree.paths(start.opt_state) if p.endswith("frozen")]


@pytest.mark.parametrize("weights", [[1, 1, 1, 1, 1, 1], [1, 0, 0, 1, 0.5, 0]])
def test_accumulation_divides_once(weights):
    """Fails if parts are averaged before they are summed: divide by the part's weight inside gradients()."""
    one, start = build()
    three, _ = build(micro_batches=3)
    a, m = one(start, batch(weights=weights))
    b, n = three(start, batch(weights=weights))
    np.testing.assert_allclose(a.params["w"], b.params["w"], rtol=1e-6)
    np.testing.assert_allclose(m["grad_norm"], n["grad_norm"], rtol=1e-6)
    assert float(m["means"]["loss"].weight) == float(n["means"]["loss"].weight) == sum(weights)


def test_the_state_is_donated_whole():
    """Fails if the compiled step copies the state: drop donate_argnums in compile_step."""
    tx = optax.adam(0.1)
    with place.use(LAYOUT):
        target = state.abstract(Line(), tx, TRAINABLE, LAYOUT)
        now = state.initialise(Line(), tx, TRAINABLE, 0, target)
        placed = place.put({k: np.asarray(v) for k, v in batch().items()}, LAYOUT, 6)
        made = step.make_step(Line(), Objective(None, squares), tx, lambda count: 0.1, TRAINABLE)
        compiled = step.compile_step(made, now, placed, LAYOUT.replicated)
        assert compiled.memory_analysis().alias_size_in_bytes >= tree.nbytes(target)
        compiled(now, placed)
        assert now.params["w"].is_deleted()


def test_a_state_comes_out_as_it_went_in():
    """Whatever the compiler would choose for what a step makes, the next step takes it. Fails if it is left the choice: drop
    out_shardings in compile_step."""
    layout = place.Layout(mesh.make(mesh.Config(data=1, fsdp=8)), rules.find("fsdp"))
    split = layout.sharding("embed", None)
    old = TrainState(*(jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=split),) * 5)
    given = {"x": jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=place.batch_sharding(layout, 2))}

    def anew(state, batch):
        return TrainState(*(jnp.full((8, 4), batch["x"].sum()),) * 5), {"rows": batch["x"].sum(1)}

    with place.use(layout):
        state, figures = step.compile_step(anew, old, given, layout.replicated).output_shardings
    assert {x.spec for x in jax.tree.leaves(state)} == {split.spec} and figures["rows"].is_fully_replicated


def test_flops_count_loops_by_their_length():
    """Fails if a scan's body counts once: drop params["length"] in training/flops.py."""
    x, w = jnp.ones((3, 8)), jnp.ones((5, 8, 8))
    forward = lambda w: jax.lax.scan(lambda c, m: (c @ m, None), x, w)[0].sum()
    assert flops.count(forward, w) == 5 * 2 * 3 * 8 * 8
    assert flops.count(jax.grad(forward), w) >= 2 * 5 * 2 * 3 * 8 * 8


def test_flops_of_experts_are_the_active_ones():
    """Router and 2 of 8 experts a token, by either formulation. Fails if a loop over blocks, or every expert, is counted."""
    config = llama.Config(vocab_size=11, layers=3, heads=2, embed=16, mlp=24, experts=8, experts_per_token=2)
    dense, sparse = (llama.build(dataclasses.replace(config, experts=n)) for n in (0, 8))
    tokens = 2 * 40
    batch = {"tokens": jnp.zeros((2, 40), jnp.int32)}
    of = lambda model: flops.count(lambda p: model.apply(p, batch).hidden, model.abstract)
    extra = 2 * tokens * 3 * (16 * 8 + (2 - 1) * 3 * 16 * 24)
    assert of(sparse) - of(dense) == extra
    with place.use(place.Layout(mesh.make(mesh.Config(data=1, expert=2), jax.devices()[:2]), rules.find("dp"))):
        assert of(sparse) - of(dense) == extra
    held = lambda model, k: flops.active(model.abstract, model.axes(), k)
    assert held(dense, 2) == tree.size(dense.abstract)
    assert held(sparse, 2) - held(dense, 2) == extra // (2 * tokens)


def test_the_loop_stops_after_too_many_bad_steps():
    """Fails if the run goes on for ever: return "" from flush() in training/loop.py."""
    run, start = build()
    written, saved = [], []
    config = loop.Config(steps=20, max_skipped=3, log_every=1)
    with pytest.raises(UserError, match="3 steps in a row were not finite, the last is step 5.*state after step"):
        loop.train(start, jax.jit(packed.packing(run)), (batch(bad=i > 1) for i in range(20)), config, loop.Rates(1, 1.0, 1.0), start=0,
                   write=lambda n, v: written.append((n, v)), events=(), save=lambda n, s: saved.append((n, s)),
                   profile_dir="", stop=stop.Stop())
    (number, state_saved), = saved
    assert number == 6 and int(state_saved.step) == 6 and np.isfinite(state_saved.params["w"]).all()
    assert [n for n, v in written if v["train/skipped"]] == [3, 4, 5, 6]


def test_the_loop_writes_rows_means_and_events():
    run, start = build()
    written, events = [], []
    config = dataclasses.replace(loop.Config(), steps=7, log_every=3)
    end = loop.train(start, jax.jit(packed.packing(run)), (batch() for _ in range(7)), config, loop.Rates(6, 1.0, 1.0), start=0,
                     write=lambda n, v: written.append((n, v)), events=(loop.Event(5, lambda n, s: events.append(n)),),
                     save=lambda n, s: None, profile_dir="", stop=stop.Stop())
    assert int(end.step) == 7 and events == [5, 7]
    assert [n for n, _ in written] == [3, 5, 6, 7]
    single, _ = build()
    losses, now = [], start
    for _ in range(7):
        now, metrics = single(now, batch())
        losses.append(float(metrics["means"]["loss"].total / metrics["means"]["loss"].weight))
    np.testing.assert_allclose([v["train/loss"] for _, v in written], [np.mean(losses[:3]), np.mean(losses[3:5]), losses[5], losses[6]], rtol=1e-6)


@pytest.mark.parametrize("products,late", [(400, False), (0, True)])
def test_only_a_batch_that_a_step_waited_for_counts(products, late):
    """A step of some hundred products hides the 10 ms in which the next batch is made, one of none does not.

    Fails if all time in `next` counts (drop `if not self._busy()`), or none (`busy=lambda: True`), in training/loop.py."""
    run, start = build()

    def heavy(state, batch):
        square = jax.lax.fori_loop(0, products, lambda _, x: jnp.tanh(x @ x), jnp.ones((256, 256)) * batch["x"][0, 0])
        return run(state, {**batch, "y": batch["y"] + 0 * square[0, 0]})

    def slow(count=4):
        for made in [batch() for _ in range(count)]:
            time.sleep(0.01)
            yield made

    rows = []
    loop.train(start, jax.jit(packed.packing(heavy)), slow(), loop.Config(steps=4, log_every=1), loop.Rates(1, 1.0, 1.0), start=0,
               write=lambda n, v: rows.append(v["train/data_wait"]), events=(), save=lambda n, s: None, profile_dir="", stop=stop.Stop())
    # Nothing is computed yet when the first batch is made, and of the last rows, one is written at once after the other.
    assert all((wait > 0) == late for wait in rows[1:3]) and rows[0] > 0, rows


def test_summary():
    """Bits per byte: nats over ln 2 over bytes a token."""
    out = summary({"nll": Mean(np.float64(20.0), np.float64(10.0))}, bytes_per_token=4.0)
    np.testing.assert_allclose([out["nll"], out["perplexity"], out["bits_per_byte"]], [2.0, np.exp(2.0), 2.0 / np.log(2) / 4])

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The flight recorder: when a step is recorded, when it is looked at, and who is found to have been first."""
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core.types import Mean
from jaxlm.parallel import mesh, place, rules
from jaxlm.training import flight, nonfinite


def culprits(function, params, data, stacked=()):
    """Of function(params dict, data)."""
    names = [*params, ""]
    traced = nonfinite.Traced(function, (params, data), names, [name in stacked for name in names])
    out, marks = jax.device_get(jax.jit(traced)(params, data))
    np.testing.assert_array_equal(out, function(params, data))
    return traced.culprits(marks)


def layers(scan, reverse=False):
    """x times each of w, with a scope."""
    def function(params, x):
        def body(x, w):
            with jax.named_scope("block"):
                return x @ w, None
        if scan:
            return jax.lax.scan(body, x, params["a/w"], reverse=reverse)[0]
        for w in jax.lax.split(params["a/w"], (1,) * 3, 0):
            x, _ = body(x, jnp.squeeze(w, 0))
        return x
    return function


@pytest.mark.parametrize("function", [layers(True), layers(True, reverse=True), layers(False)], ids=["scan", "reverse", "unrolled"])
def test_the_layer_of_an_infinite_parameter(function):
    """Fails if a reverse loop is walked forward (drop `reversed` in _Walk._scan), or unrolled layers are not told apart (drop "split")."""
    w = jnp.ones((3, 4, 4)).at[1, 2, 0].set(jnp.inf)
    first = culprits(function, {"a/w": w}, jnp.ones((2, 4)), ("a/w",))[0]
    assert (first["module"], first["layer"], first["reads"], first["scope"], first["value"]) == ("a", 1, "a/w", "block", "inf")
    assert nonfinite.sentence(first) == "a, layer 1: dot_general gave inf (forward, in block)"


def test_an_overflow_and_what_follows():
    """The exponential overflows in finite arithmetic; the NaN that it leads to is a later culprit, after the same module.

    Fails if parameters are forgotten on the way: `after=after` alone in _Walk._out."""
    function = lambda p, x: jnp.sum(jnp.exp(x * p["up/scale"]) * 2 - jnp.exp(x * p["up/scale"]))
    found = culprits(function, {"up/scale": jnp.full(4, 100.0)}, jnp.ones(4))
    assert [(c["module"], c["reads"], c["operation"], c["value"]) for c in found[:2]] == [("up", "", "exp", "inf"), ("up", "", "exp", "inf")]
    assert found[-1]["value"] == "nan"


def test_an_infinity_that_is_thrown_away_is_none():
    """Fails if culprits need not reach a result: return walk.found in culprits()."""
    masked = lambda p, x: jnp.sum(jax.nn.softmax(jnp.where(x > 0, x * p["w"], -jnp.inf)) + jnp.where(x > 0, jnp.log(x), 0.0))
    assert culprits(masked, {"w": jnp.ones(4)}, jnp.asarray([1.0, -1.0, 0.0, 2.0])) == []
    found = culprits(masked, {"w": jnp.ones(4)}, jnp.asarray([-1.0, -1.0, 0.0, -2.0]))  # nothing left to attend to
    assert found[0]["value"] == "nan" and found[0]["operation"] == "sub"


def test_the_backward_pass_is_searched():
    """The value is finite and its gradient is not: sqrt at 0."""
    found = culprits(lambda p, x: jax.grad(lambda w: jnp.sum(jnp.sqrt(x * w)))(p["a/w"]), {"a/w": jnp.zeros(3)}, jnp.ones(3))
    assert found[0]["pass"] == "backward" or found[0]["operation"] in ("div", "rsqrt", "pow", "integer_pow")
    assert found[0]["value"] in ("inf", "nan") and found[0]["module"] == "a"


def test_devices_that_compute_their_own_rows():
    """One row of the last device's overflows in a layer, in the second of its micro-batches.

    Fails if what each device computes by itself is not entered (drop `_in_parts` in nonfinite.py), or one device's marks are taken for all
    (`lambda level: level` in _parts)."""
    function, layout = layers(True), place.Layout(mesh.make(mesh.Config(data=4), jax.devices()[:4]), rules.find("dp"))

    def add_up(w, rows):
        parts = rows.reshape(2, 1, -1)
        return jax.lax.scan(lambda total, x: (total + function({"a/w": w}, x).sum(0), None), jnp.zeros(rows.shape[1]), parts)[0], rows

    with place.use(layout):
        found = culprits(lambda p, x: place.sum_of_parts(add_up, p["a/w"], x)[0], {"a/w": jnp.full((3, 4, 4), 1e10)},
                         jnp.ones((8, 4)).at[7].set(1e18), ("a/w",))
    first = found[0]
    assert (first["module"], first["layer"], first["operation"], first["value"], first["loops"]) == ("a", 1, "dot_general", "inf", [1, 1])


def metrics(norm, skipped=0):
    return {"means": {"loss": Mean(np.float32(norm), np.float32(1))}, "grad_norm": np.float32(norm), "lr": np.float32(0.1),
            "skipped": np.asarray([skipped, skipped])}


def state(step, row):
    return types.SimpleNamespace(step=jnp.int32(step), skipped=jnp.asarray([row, row]))


def recorder(folder, most=10, explode=0.0, norms=()):
    looked = []
    made = flight.Recorder(folder, most, explode, lambda n: {"replay": f"again {n}"}, lambda s, n: looked.append(n) or {"first_non_finite": []}, norms)
    return made, looked


def test_a_skipped_step_is_looked_at_while_its_state_lasts(tmp_path):
    """Fails if a later update is overlooked: `if skipped:` before self.look in Recorder.watch."""
    made, looked = recorder(tmp_path)
    made.watch(3, metrics(np.nan, skipped=1), state(4, 0))  # step 4 was fine and has moved the parameters
    made.watch(5, metrics(np.nan, skipped=1), state(5, 1))
    made.watch(6, metrics(np.nan, skipped=1), state(7, 2))  # step 7 was skipped too
    assert looked == [5, 6]
    assert "look" not in flight.read(tmp_path, 3) and flight.read(tmp_path, 3)["replay"] == "again 3"
    assert flight.read(tmp_path, 5)["look"] == {"first_non_finite": []} and flight.read(tmp_path, 5)["grad_norm"] == "nan"


def test_an_exploding_step(tmp_path):
    """Fails if the norm itself moves the median that it is held against, or a mean is taken: statistics.mean in _exploded."""
    made, _ = recorder(tmp_path, explode=3.0)
    norms = [1.0] * 9 + [1000.0] + [1.0] * 50 + [2.9, 3.1, 1.0, 200.0]  # before there are 10, nothing is known
    for number, norm in enumerate(norms, 1):
        made.watch(number, metrics(norm), state(number + 1, 0))
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == [62, 64]
    assert "3.1 was more than 3 times the median 1 of the last 50" in flight.read(tmp_path, 62)["why"]
    off, _ = recorder(tmp_path / "off")
    for number, norm in enumerate(norms, 1):
        off.watch(number, metrics(norm), state(number + 1, 0))
    assert not (tmp_path / "off").exists()


def test_a_run_that_goes_on_knows_what_was_usual(tmp_path):
    """The step after a resume explodes as it would have without. Fails if 10 steps pass first: `collections.deque(maxlen=WINDOW)`
    in Recorder.__init__."""
    first, _ = recorder(tmp_path / "first", explode=3.0)
    for number in range(1, 61):
        first.watch(number, metrics(1.0 + number % 3), state(number + 1, 0))
    second, _ = recorder(tmp_path / "second", explode=3.0, norms=json.loads(json.dumps(list(first.norms))))
    for made in (first, second):
        made.watch(61, metrics(7.0), state(62, 0))
    why = [flight.read(tmp_path / name, 61)["why"] for name in ("first", "second")]
    assert why[0] == why[1] and "the median 2 of the last 50" in why[0]


def test_records_are_bounded_also_over_a_restart(tmp_path):
    """Fails if a run that fails for ever fills the disk: drop self.most from Recorder.watch."""
    for _ in range(2):
        made, looked = recorder(tmp_path, most=2)
        for number in range(1, 6):
            made.watch(number, metrics(np.nan, skipped=number), state(number, number))
        assert looked == [1, 2] and len(list(tmp_path.iterdir())) == 2


def test_a_look_that_fails_does_not_end_the_run(tmp_path):
    def fails(state, number):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nmore")
    flight.Recorder(tmp_path, 1, 0.0, lambda n: {"replay": ""}, fails).watch(1, metrics(np.nan, skipped=1), state(1, 1))
    assert flight.read(tmp_path, 1)["look_failed"] == "RESOURCE_EXHAUSTED: out of memory"

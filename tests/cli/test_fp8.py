# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""train.fp8: decided once when a run begins, said, recorded, and kept by every run that goes on."""
import itertools
import json
import sys
import types

import jax
import pytest

from jaxlm import build
from jaxlm.cli import fp8, resume, train
from jaxlm.core.errors import UserError
from jaxlm.layers.linear import Float8
from jaxlm.ops import float8
from jaxlm.parallel import mesh, place, rules
from jaxlm.training import gate, metrics
from tests import tiny
from tests.cli.test_refused import TEXT, TOKENIZER, Kept
from tests.test_configs import load

NONE = types.SimpleNamespace(steps=lambda: [])  # no checkpoint


def started(monkeypatch, products=((8, 16, 16, 1),), **fields):
    """A run that is about to begin, of a bfloat16 GPT, on a device that is said to have the units."""
    config = build.defaults()
    config.model.dtype, config.train.fp8 = "bfloat16", "auto"
    for name, value in fields.items():
        config.train[name] = value
    monkeypatch.setattr(fp8, "_products", lambda run, text: list(products))
    monkeypatch.setattr(float8, "refusal", lambda device: "")
    layout = place.Layout(mesh.make(mesh.Config(data=8)), rules.find("dp"))
    return types.SimpleNamespace(config=config, layout=layout, compiler_options={})


def clock(float8_seconds):
    ticks = itertools.accumulate(itertools.cycle([0.0, 1.0, 0.0, float8_seconds]))
    return lambda: next(ticks)


@pytest.mark.parametrize("seconds,expected", [(0.8, "on"), (1.2, "off")])
def test_auto_measures(monkeypatch, tmp_path, capsys, seconds, expected):
    """Within the run's own layout of eight devices. Fails if the decision does not come into the config, which is what is stored
    and computed by (no `train.fp8 = ...` in decide), or is neither said nor recorded."""
    run = started(monkeypatch)
    with place.use(run.layout):
        fp8.decide(run, None, NONE, tmp_path, clock(seconds))
    assert run.config.train.fp8 == expected
    record = json.loads((tmp_path / fp8.FILE).read_text())
    assert record["fp8"] == expected and record["sizes"] == [[8, 16, 16, 1]] and record["device"] == jax.devices()[0].device_kind
    assert capsys.readouterr().err == f"train.fp8=auto is {expected}: {record['why']}\n"
    assert f"{1 / seconds:.2f} times as fast, where {gate.NEEDED} is asked for" in record["why"]


def test_a_start_that_left_no_checkpoint_is_the_same_start(monkeypatch, tmp_path):
    """The clock says otherwise the second time: what was decided stays, for the same products. Fails if it is measured again
    (`before = {}` in _measured), or other products take the decision of these (`== asked` left out)."""
    for seconds, products, expected in ((0.8, [(8, 16, 16, 1)], "on"), (1.2, [(8, 16, 16, 1)], "on"), (1.2, [(8, 16, 32, 1)], "off")):
        run = started(monkeypatch, products)
        with place.use(run.layout):
            fp8.decide(run, None, NONE, tmp_path, clock(seconds))
        assert run.config.train.fp8 == expected


@pytest.mark.parametrize("what,words", [("device", "CPUs have no float8 units"), ("type", "model.dtype is 'float32'"),
                                        ("model", "has no dense products")])
def test_auto_says_why_it_does_not_measure(monkeypatch, tmp_path, capsys, what, words):
    """Fails if it measures where that is no use (`if False:` for `if why:` in _measured), looks for products where qwix may be
    absent (`found = _products(run, text)`), or does not say why it does not."""
    run = started(monkeypatch, ())
    if what == "device":
        monkeypatch.undo()
    if what != "model":
        monkeypatch.setattr(fp8, "_products", lambda run, text: pytest.fail("products were looked for"))
    run.config.model.dtype = "float32" if what == "type" else "bfloat16"
    fp8.decide(run, None, NONE, tmp_path, lambda: pytest.fail("measured"))
    assert run.config.train.fp8 == "off" == json.loads((tmp_path / fp8.FILE).read_text())["fp8"]
    assert capsys.readouterr().err.startswith("train.fp8=auto is off: ") and words in json.loads((tmp_path / fp8.FILE).read_text())["why"]


@pytest.mark.parametrize("asked", ["on", "auto"])
def test_without_qwix(monkeypatch, tmp_path, asked):
    """Fails if the run begins without, no `float8.qwix()` in decide, or the measurement ends in Python's words: `except KeyError`
    in float8.qwix."""
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(UserError, match=r'pip install "jaxlm\[fp8\]"'):
        fp8.decide(started(monkeypatch, fp8=asked), None, NONE, tmp_path, lambda: pytest.fail("measured"))


def test_what_cannot_be_is_refused(monkeypatch, tmp_path):
    """Fails if float8 is passed over in silence: of a float32 model (build.validate), or of one that has no such products."""
    config = build.defaults()
    config.source.path, config.train.fp8 = "x", "on"
    with pytest.raises(UserError, match="train.fp8 is 'on' and model.dtype 'float32': .* set model.dtype to 'bfloat16'"):
        build.validate(config)
    config.model.dtype = "bfloat16"
    build.validate(config)
    config.train.fp8 = "yes"
    with pytest.raises(UserError, match="train.fp8 is 'yes': it is 'off', 'auto' or 'on'"):
        build.validate(config)
    with pytest.raises(UserError, match="train.fp8 is 'on' and model 'gpt' has no dense products .* set it to 'off'"):
        fp8.decide(started(monkeypatch, (), fp8="on"), None, NONE, tmp_path)


def test_micro_batches_have_their_own_scales(monkeypatch):
    """Fails if their number is free in a run with float8: `own = any(...)` alone in resume.check."""
    config = started(monkeypatch, fp8="on").config
    kept = Kept(config)
    config.train.accumulate = 2
    with pytest.raises(UserError, match="train.accumulate: 1 -> 2"):
        resume.check(config, TOKENIZER, TEXT, kept)
    config.train.accumulate, config.train.fp8 = 1, "off"
    with pytest.raises(UserError, match="train.fp8: 'on' -> 'off'"):
        resume.check(config, TOKENIZER, TEXT, kept)


def test_a_run_keeps_its_decision(monkeypatch, tmp_path, capsys):
    """Trained for two steps and gone on with for one, on eight devices, where a second measurement would say otherwise.

    Fails if a run that goes on measures (`kept = ""` in decide), or a step is made of the plain model (`return self.model` in
    Experiment.learner)."""
    text, make_step, stepped = tiny.write_text(tmp_path / "text"), train.step.make_step, []
    monkeypatch.setattr(float8, "refusal", lambda device: "")
    monkeypatch.setattr(train.step, "make_step", lambda model, *rest: stepped.append(type(model)) or make_step(model, *rest))
    for steps, measured, why in ((2, "on", "3 sizes"), (3, "off", "this run began with it")):
        monkeypatch.setattr(gate, "measure", lambda found, *_, measured=measured: {"fp8": measured, "why": f"{len(found)} sizes", "products": []})
        config = tiny.shrink(load(tiny.ROOT / "configs" / "gpt_tiny.py"), text, tmp_path / "cache")
        config.model.dtype, config.train.fp8, config.train.steps = "bfloat16", "auto", steps
        config.train.picture, config.train.baseline, config.train.sample_tokens = False, "", 0
        with tiny.workdir(tmp_path / "run") as run:
            train.main(config)
        assert [line for line in capsys.readouterr().err.splitlines() if "train.fp8=auto" in line] == [f"train.fp8=auto is on: {why}"]
        assert build.from_json((run / "config.json").read_text()).train.fp8 == "on"
    assert [row["step"] for row in metrics.read(run / "metrics.jsonl") if "train/loss" in row] == [1, 2, 3]
    assert stepped == [Float8, Float8]

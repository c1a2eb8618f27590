# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Configs: locked, validated with every problem at once, stored and read back, components found by name."""
import dataclasses
import sys
import types

import pytest

from jaxlm import build
from jaxlm.core.errors import UserError


def page():
    config = build.defaults()
    config.source.path = "x"
    return config


def test_every_problem_is_reported_at_once():
    """Fails if validate stops at the first problem: raise inside its loop over sections."""
    config = page()
    config.optimizer.name = "adamm"
    config.rules = "fdsp"
    config.model.heads = 7
    config.train.batch_size = 9
    config.train.accumulate = 2
    config.data.seq_len = 5000
    config.schedule.warmup = 10_000
    with config.unlocked():
        config.train.stepz = 3
        config.optimiser = build.defaults().optimizer
        del config.eval.every
    with pytest.raises(UserError) as caught:
        build.validate(config, devices=8)
    text = str(caught.value)
    for part in ("did you mean 'adamw'", "did you mean 'fsdp'", "heads", "train.stepz does not exist, did you mean 'steps'",
                 "unknown section 'optimiser', did you mean 'optimizer'", "eval.every is missing"):
        assert part in text, part
    with config.unlocked():
        config.rules = "dp"
        del config.train.stepz
        del config.optimiser
        config.eval.every = 1
    with pytest.raises(UserError) as caught:
        build.validate(config, devices=8)
    for part in ("accumulate", "longer than model.max_len", "schedule.warmup", "does not divide over data = 8"):
        assert part in str(caught.value), part


def test_chunks_of_split_positions():
    """Fails if chunks are checked against the length alone: 64 positions in 16 chunks are 4 each, on devices that hold 8 parts."""
    config = page()
    config.rules, config.mesh.data, config.mesh.seq, config.train.batch_size = "fsdp_seq", 1, 8, 8
    config.data.seq_len, config.model.max_len, config.objective.chunks = 64, 64, 16
    with pytest.raises(UserError, match="objective.chunks is 16: a chunk's 4 positions do not divide over the 8 parts"):
        build.validate(config, devices=8)
    config.objective.chunks = 8
    build.validate(config, devices=8)


@pytest.mark.parametrize("section,field,value", [("train", "steps", True), ("train", "steps", "3"), ("model", "scan", 1),
                                                 ("optimizer", "lr", "x"), ("source", "include", "a"), ("train", "steps", None)])
def test_types_are_checked(section, field, value):
    """Fails if a value of another type goes through: return no problem from build._typed."""
    config = page()
    with config.unlocked(), config[section].ignore_type():
        config[section][field] = value
    with pytest.raises(UserError, match=f"{section}.{field} is .*it must be of type"):
        build.validate(config)


def test_a_config_survives_its_json():
    """Fails if a tuple comes back as a list: drop _tuples from build.from_json."""
    config = build.variant(page(), "model=llama,tokenizer=byte")
    config.source.include = ("*.a", "*.b")
    config.optimizer.rates = ("norm=0.5",)
    config.optimizer.lr = 1
    again = build.from_json(build.to_json(config))
    assert build.differences(config, again) == [] and again.source.include == ("*.a", "*.b")
    build.validate(again)
    with pytest.raises(AttributeError):
        again.model.layerz = 1
    again.optimizer.lr = 2.0
    assert build.differences(config, again) == ["optimizer.lr: 1.0 -> 2.0"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"model": {"name": "gpt"}}', "null"])
def test_what_is_no_config_is_refused(text):
    with pytest.raises(UserError, match="not a jaxlm config"):
        build.from_json(text, "file")


@pytest.mark.parametrize("change,word", [
    ("model=bert", "predicts the next token, which an encoder sees"),
    ("objective=mlm", "for models that see both ways"),
    ("model=bert,objective=mlm,packing=sentences", ""),
    ("model=bert,objective=mlm,pairs=nsp", "objective 'mlm' as it is set needs sentences"),
    ("model=bert,objective=mlm,sample_tokens=3", "train.sample_tokens is 3: a model that sees both ways"),
    ("model=bert,objective=mlm,baseline=trigram", "train.baseline is 'trigram': bits per byte"),
    ("model=transformer", "model 'transformer' reads a source and objective 'causal_lm' gives none"),
    ("model=t5,objective=mlm", "model 't5' reads a source and objective 'mlm' gives none"),
    ("packing=sentences", "objective 'causal_lm' as it is set needs windows or pack"),
    ("model=t5,objective=denoise", ""),
    ("model=transformer,objective=denoise,packing=pack", ""),
    ("objective=denoise", "objective 'denoise' gives a source and model 'gpt' reads none"),
    ("model=t5,objective=denoise,packing=sentences", "objective 'denoise' as it is set needs windows or pack"),
    ("model=t5,objective=denoise,packing=pairs", "source 'text' yields texts"),
    ("model=t5,objective=denoise,baseline=trigram", "train.baseline is 'trigram': bits per byte"),
    ("model=t5,objective=denoise,source_len=4096", "set data.seq_len to 910 or more"),
])
def test_models_objectives_and_rows_fit(change, word):
    """Fails if an encoder may be trained to copy the next token that it sees: drop `causal` from build._cross; or an
    encoder-decoder on rows that have no source: drop `source`."""
    config, parts = page(), dict(part.split("=") for part in change.split(","))
    build.variant(config, ",".join(f"{kind}={parts[kind]}" for kind in ("model", "objective") if kind in parts))
    config.data.packing = parts.get("packing", "windows")
    if "pairs" in parts:
        config.objective.pairs = parts["pairs"]
    config.data.source_len = int(parts.get("source_len", 0))
    config.train.sample_tokens, config.train.baseline = int(parts.get("sample_tokens", 0)), parts.get("baseline", "")
    if not word:
        return build.validate(config)
    with pytest.raises(UserError, match=word):
        build.validate(config)


def test_names_and_variants():
    assert {"gpt", "llama"} <= set(build.names("model")) and "causal_lm" in build.names("objective")
    with pytest.raises(UserError, match="did you mean 'llama'"):
        build.find("model", "lama")
    with pytest.raises(UserError, match="write kind=name"):
        build.variant(page(), "llama")
    with pytest.raises(UserError, match="cannot be imported"):
        build.find("model", "no.such.module")


def test_a_component_out_of_tree(monkeypatch):
    """A name with a dot is imported as it is, and held to the same contract."""
    module = types.ModuleType("mylab.models.foo")
    monkeypatch.setitem(sys.modules, "mylab", types.ModuleType("mylab"))
    monkeypatch.setitem(sys.modules, "mylab.models", types.ModuleType("mylab.models"))
    monkeypatch.setitem(sys.modules, "mylab.models.foo", module)
    with pytest.raises(UserError, match="does not declare Config, build"):
        build.find("model", "mylab.models.foo")
    module.Config = dataclasses.make_dataclass("Config", [("size", int, 3)], frozen=True)
    module.build = lambda config: config.size * 2
    config = build.variant(page(), "model=mylab.models.foo")
    assert build.build(config, "model") == 6 and build.build(config, "model", size=5) == 10

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Logits equal those of the reference implementations: stored numbers always, live ones where transformers is there.

Tolerance: 1e-4 absolute in float32, on logits of size 1 to 10, at every position of a real token.
"""

import importlib
import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest

from jaxlm.checkpoints.hf import compare as comparing
from jaxlm.checkpoints.hf import families, folder, table
from jaxlm.core import tree
from jaxlm.core.errors import UserError
from jaxlm.models import albert, bert, gpt, llama, t5, transformer

HERE = pathlib.Path(__file__).parent
MODELS = {"gpt": gpt, "llama": llama, "bert": bert, "albert": albert, "t5": t5, "transformer": transformer}
INPUTS = ("tokens", "segments", "types", "source_tokens", "source_segments")
RESULTS = ("logits", "pair", "pooled", "hidden", "discriminator", "balance")
NAMES = sorted(p.stem for p in HERE.glob("*.npz"))


def stored(name: str, seed: int) -> dict:
    with np.load(HERE / f"{name}.npz") as file:
        return {key.partition("/")[2]: file[key] for key in file.files if key.startswith(f"{seed}/")}


def model_of(case: dict):
    """The case's config.json, our model, and the case's tensors."""
    hf = json.loads(str(case["config"]))
    tensors, at = {}, 0
    for name, shape in json.loads(str(case["shapes"])).items():
        size = int(np.prod(shape))
        tensors[name] = case["weights"][at : at + size].reshape(shape).astype(np.float32) / 64
        at += size
    assert at == len(case["weights"])
    module = MODELS[families.MODELS[hf["model_type"]]]
    return hf, module.build(module.Config(**families.config_from_hf(hf, tensors))), tensors


def to_params(hf, tensors, model):
    return table.to_params(tensors, families.form(hf, tree.paths(model.abstract)), model.abstract)


def results(model, params, batch) -> dict:
    """What the model gives, by name."""
    out = model.apply(params, batch)
    terms = {"balance": out.aux["router_balance"].value / 0.02} if out.aux else {}  # the coefficient of every case
    return {"hidden": out.hidden, **terms, **(out.head or {}), **({} if out.table is None else {"logits": out.logits})}


_JITTED: dict = {}


def compare(name: str, case: dict) -> None:
    hf, model, tensors = model_of(case)
    params = to_params(hf, tensors, model)
    f = _JITTED.setdefault(name, jax.jit(lambda p, b: results(model, p, b)))
    found = f(params, {key: case[key].astype(np.int32) for key in INPUTS if key in case})
    real = case["segments"] > 0
    compared = [key for key in RESULTS if key in case]
    assert compared
    for key in compared:
        ours, theirs = (x[real] if x.shape[:2] == real.shape else x for x in (np.asarray(found[key]), case[key]))
        assert np.abs(theirs).max() > 0.5, "a reference near 0 compares nothing"
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0, err_msg=key)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_stored(name, seed):
    """Fails if, say, RMSNorm leaves out its offset, the table swaps two norms, or a window is off by one."""
    compare(name, stored(name, seed))


needs_torch = pytest.mark.skipif(
    not (importlib.util.find_spec("torch") and importlib.util.find_spec("transformers")),
    reason="torch and transformers are not installed",
)


@needs_torch
@pytest.mark.parametrize("name", NAMES)
def test_live(name):
    """The same against the transformers that is installed, with weights that no file here holds."""
    compare(name, importlib.import_module("tests.reference.make_references").make(name, 2))


@needs_torch
@pytest.mark.parametrize("name", NAMES)
def test_transformers_reads_what_we_write(name, tmp_path):
    """Our parameters and our config.json, without anything kept of theirs: the same results, as many parameters.

    Fails if the config leaves out a field whose default is another: drop rope_theta, layer_norm_eps or layer_types.
    """
    torch = importlib.import_module("torch")
    theirs = importlib.import_module("tests.reference.make_references")
    case = stored(name, 0)
    hf, model, tensors = model_of(case)
    ours, params = families.MODELS[hf["model_type"]], to_params(hf, tensors, model)
    config = MODELS[ours].Config(**families.config_from_hf(hf, tensors))
    written = families.config_to_hf(ours, config, tree.paths(params))
    ids = {key: value for key, value in hf.items() if key.endswith("token_id")}  # the tokenizer's, which a model does not know
    folder.write(tmp_path / "m", params, ids | written, {})
    kind = getattr(theirs.transformers, written["architectures"][0])
    loaded, notes = kind.from_pretrained(tmp_path / "m", attn_implementation="eager", dtype=torch.float32, output_loading_info=True)
    assert not notes["missing_keys"] and not notes["unexpected_keys"]
    found = theirs.run(loaded.eval(), {key: case[key] for key in INPUTS if key in case})
    real = case["segments"] > 0
    for key, value in case.items():
        if key in RESULTS:
            here = found["logits" if key == "discriminator" else key]
            there = lambda x: x[real] if x.shape[:2] == real.shape else x
            # Theirs on this processor against theirs on that which the stored numbers are from: up to 2e-5 apart (AMX and AVX-512).
            np.testing.assert_allclose(there(here), there(value), atol=5e-5, rtol=0, err_msg=key)
    assert comparing.size(loaded) == tree.size(params)


def test_every_case_is_stored():
    assert {"gpt2", "llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "bert", "roberta", "albert",
            "distilbert", "electra", "t5", "t5_v1_1", "bart", "bart_scaled", "marian"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_table_backwards(name):
    """Export is the table read backwards: the file's tensors come back bit for bit. Fails if a transpose is dropped."""
    case = stored(name, 0)
    hf, model, tensors = model_of(case)
    back = table.from_params(to_params(hf, tensors, model), families.form(hf, tree.paths(model.abstract)))
    assert back.keys() == tensors.keys()
    for key, value in tensors.items():
        np.testing.assert_array_equal(back[key].read(), value)
        assert (back[key].shape, back[key].dtype) == (value.shape, value.dtype)


def test_bad_checkpoint_is_one_message():
    """Missing, left-over and wrongly shaped tensors are all named at once."""
    hf, model, tensors = model_of(stored("llama", 0))
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1]
    del tensors["model.layers.1.self_attn.q_proj.weight"]
    tensors["model.layers.0.self_attn.sinks"] = np.zeros(4, np.float32)
    with pytest.raises(UserError) as error:
        to_params(hf, tensors, model)
    for part in (
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.0.self_attn.sinks",
        "model.norm.weight is [19]",
        "[20]",
    ):
        assert part in str(error.value)


def test_bare_names():
    """A file of the bare model (GPT-2's own, without "transformer.") reads the same; old mask buffers are ignored."""
    hf, model, tensors = model_of(stored("gpt2", 0))
    bare = {key.removeprefix("transformer."): value for key, value in tensors.items()}
    bare["h.0.attn.bias"] = np.zeros((1, 1, 4, 4), np.float32)
    one, two = (tree.flatten(to_params(hf, t, model)) for t in (tensors, bare))
    assert all(np.array_equal(one[key], two[key]) for key in one)


def test_old_spelling_of_config():
    """rope_theta and rope_scaling side by side mean what rope_parameters means."""
    new = json.loads(str(stored("llama_llama3", 0)["config"]))
    old = dict(new)
    scaling = dict(old.pop("rope_parameters"))
    old["rope_theta"] = scaling.pop("rope_theta")
    old["rope_scaling"] = scaling
    read = families.find(new).config_from_hf
    assert read(new) == read(old)
    with pytest.raises(UserError, match="dynamic"):
        read(old | {"rope_scaling": {"type": "dynamic", "factor": 2.0}})
    with pytest.raises(UserError, match="did you mean 'llama'"):
        families.find({"model_type": "lama"})

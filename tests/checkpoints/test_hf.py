# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Hugging Face names and configs both ways: straight into shards, nothing held twice, a config that reads back the same."""
import collections
import dataclasses
import json
import tracemalloc

import jax
import numpy as np
import pytest

from jaxlm.checkpoints import safetensors, start
from jaxlm.checkpoints.hf import compare, families, folder, table
from jaxlm.core import tree
from jaxlm.core.errors import UserError
from jaxlm.data.tokenizers import byte, file
from jaxlm.models import gpt, llama
from jaxlm.parallel import mesh, place, rules
from tests.reference import test_reference as references

BUILT = {
    "gpt": gpt.build(gpt.Config(vocab_size=96, max_len=64, layers=3, heads=8, embed=64)),
    "llama": llama.build(llama.Config(vocab_size=96, max_len=64, layers=3, heads=8, kv_heads=4, embed=64, mlp=128, qkv_bias=True, out_bias=True)),
}
KINDS = {"gpt": "gpt2", "llama": "llama"}


def noisy(model, seed=0):
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda x: draw.normal(size=x.shape).astype(np.float32), model.abstract)


def form_of(name):
    return families.FAMILIES[KINDS[name]].form(KINDS[name], tree.paths(BUILT[name].abstract))


def laid(model, rule, **sizes):
    layout = place.Layout(mesh.make(mesh.Config(**sizes), jax.devices()), rules.find(rule))
    where = place.shardings(model.axes(), layout, model.abstract)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), model.abstract, where)


class Counted(np.ndarray):
    """Numbers that note how much of them is taken."""
    taken: collections.Counter = collections.Counter()

    def __getitem__(self, index):
        out = super().__getitem__(index)
        if isinstance(index, tuple) and any(isinstance(at, slice) for at in index):
            Counted.taken["bytes"] += out.nbytes
            Counted.taken["most"] = max(Counted.taken["most"], out.nbytes)
        return out


@pytest.mark.parametrize("name", BUILT)
def test_each_device_reads_its_own_part(name):
    """Fails if `_part` reads whole tensors and cuts them afterwards: index nothing until `out` is returned."""
    model = BUILT[name]
    params = noisy(model)
    stored = {key: t.read() for key, t in table.from_params(params, form_of(name)).items()}
    abstract = laid(model, "fsdp_tp", fsdp=4, tensor=2)
    Counted.taken.clear()
    found = table.to_params({key: np.array(x, order="C").view(Counted) for key, x in stored.items()}, form_of(name), abstract)
    for path, value in tree.flatten(params).items():
        np.testing.assert_array_equal(np.asarray(tree.flatten(found)[path]), value)
    for path, leaf in tree.flatten(found).items():
        assert leaf.sharding == tree.flatten(abstract)[path].sharding
    # What all devices together hold is what was taken (of what all hold, once or by each), no more than a part at once.
    held = [sum(shard.data.nbytes for shard in leaf.addressable_shards) for leaf in jax.tree.leaves(found)]
    assert tree.nbytes(found) <= Counted.taken["bytes"] <= sum(held)
    assert Counted.taken["most"] <= max(x.nbytes for x in stored.values()) / 4
    back = table.from_params(found, form_of(name))  # and from the shards again
    assert back.keys() == stored.keys()
    for key, value in stored.items():
        np.testing.assert_array_equal(back[key].read(), value)


def test_nothing_is_held_twice(tmp_path):
    """Fails if tensors are collected before they are placed: in `to_params`, read all of them into a dict first."""
    config = llama.Config(vocab_size=512, max_len=64, layers=8, heads=8, embed=256, mlp=768)
    model = llama.build(config)
    params = noisy(model)
    form = families.FAMILIES["llama"].form("llama", tree.paths(model.abstract))
    safetensors.write_folder(tmp_path / "m", table.from_params(params, form), {}, shard_bytes=8 * 10**6)
    size, largest = tree.nbytes(params), max(x.nbytes for x in jax.tree.leaves(params))
    del params
    weights = safetensors.Weights(tmp_path / "m")
    assert len({file for file in weights.files.values()}) > 2
    tracemalloc.start()
    try:
        found = table.to_params(weights, form, model.abstract, weights.release)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        safetensors.write_folder(tmp_path / "back", table.from_params(found, form), {})
        writing = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < size + largest / 4 + 10**6, (peak, size, largest)
    assert writing < 3 * largest / 8 + 10**6, (writing, largest)  # a tensor is one layer's


def test_params_do_not_depend_on_the_file():
    """Fails if `_part` returns a view where one tensor is one parameter: JAX on a CPU would go on reading the mapped file."""
    stored = table._aligned((64, 64), np.float32)  # where the numbers of a file may lie by chance: JAX takes them as they are
    stored[...] = 1
    found = table.place({"x": stored}, table.Row("x", "embed/tokens"), {(): "x"}, jax.ShapeDtypeStruct((64, 64), np.float32))
    stored[...] = 2
    assert np.asarray(found).max() == 1


@pytest.mark.parametrize("name", references.NAMES)
def test_configs_read_back(name):
    """config.json -> our fields -> config.json: the same architecture and the same fields of the reference's config."""
    hf = json.loads(str(references.stored(name, 0)["config"]))
    names = json.loads(str(references.stored(name, 0)["shapes"]))
    model = families.MODELS[hf["model_type"]]
    config = references.MODELS[model].Config(**families.config_from_hf(hf, names))
    paths = tree.paths(references.MODELS[model].build(config).abstract)
    again = families.config_to_hf(model, config, paths)
    own = references.MODELS[model].Config(**families.config_from_hf(again, names))
    assert not families.differences(families.find(hf), config, own)
    assert again["model_type"] == hf["model_type"] and again["architectures"] == hf["architectures"]
    kept = families.config_to_hf(model, config, paths, hf | {"bos_token_id": 7, "of_theirs": [1]})
    assert kept["bos_token_id"] == 7 and kept["of_theirs"] == [1]
    # What their config says under a name that we write is what we write.
    flat = lambda config: {**config, **(config.get("rope_parameters") or {}), "rope_parameters": 0}
    theirs, ours = flat(hf), flat(again)
    if hf["model_type"] == "t5":  # true there whatever it is since transformers 5, and read by those before as we write it
        assert theirs.pop("tie_word_embeddings") is True and ours["tie_word_embeddings"] == ours["scale_decoder_outputs"]
    assert {key: value for key, value in ours.items() if key in theirs and theirs[key] != value} == {}


def test_a_field_that_no_architecture_has_is_refused():
    """Fails if config_to_hf does not read back what it writes: return hf from the first kind."""
    with pytest.raises(UserError, match="no Hugging Face architecture computes what this llama does.*rope_scaling"):
        families.config_to_hf("llama", llama.Config(vocab_size=9, rope_scaling="ntk", rope_factor=2.0), [])
    with pytest.raises(UserError, match="closest, gpt2, would change positions: 'sinusoidal' -> 'learned'"):
        families.config_to_hf("gpt", gpt.Config(vocab_size=9, positions="sinusoidal"), [])
    with pytest.raises(UserError, match="would change norm_offset: 1.0 -> 0.0"):
        families.config_to_hf("llama", llama.Config(vocab_size=9, norm_offset=1.0), [])
    with pytest.raises(UserError, match="model 'mine' has no Hugging Face counterpart"):
        families.config_to_hf("mine", gpt.Config(vocab_size=9), [])
    with pytest.raises(UserError, match="quantized"):
        families.config_from_hf({"model_type": "llama", "quantization_config": {"bits": 4}})
    with pytest.raises(UserError, match="has no field 'vocab_size'"):
        families.config_from_hf({"model_type": "gpt2"})


def test_two_spellings_are_one_model():
    """kv_heads=0 means heads, head_dim=0 embed / heads, 'LG' over 2 layers 'LG': fails without `canonical`."""
    config = llama.Config(vocab_size=9, layers=4, window=5, window_pattern="L")
    for one, other in ((config, dataclasses.replace(config, kv_heads=32, head_dim=128, window_pattern="LLLL")),
                       (config, dataclasses.replace(config, rope_low=7.0))):
        assert not families.differences(families.FAMILIES["llama"], one, other)
    assert families.config_to_hf("llama", config, [])["model_type"] == "mistral"
    assert families.differences(families.FAMILIES["llama"], config, dataclasses.replace(config, window_pattern="LG"))


def test_a_run_starts_from_a_folder(tmp_path):
    """Parameters by our names, in this run's types and shardings, by include, exclude and strict as from another run.

    Fails if a layer is taken for its neighbour, or a tensor without a place here is dropped without a word.
    """
    model, params = BUILT["llama"], noisy(BUILT["llama"])
    config = llama.Config(vocab_size=96, max_len=64, layers=3, heads=8, kv_heads=4, embed=64, mlp=128, qkv_bias=True, out_bias=True)
    hf = families.config_to_hf("llama", config, tree.paths(params))
    folder.write(tmp_path / "m", params, hf, {}, dtype="bfloat16", shard_bytes=50_000)
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, np.float32, sharding=x.sharding), laid(model, "fsdp_tp", fsdp=4, tensor=2))
    loaded, how = start.load(start.Config(path=str(tmp_path / "m"), exclude="norm1"), wanted)
    assert f"{len(tree.paths(params)) - 1} of {len(tree.paths(params))} parameters from {tmp_path / 'm'}, 1 fresh" in how
    rounded = safetensors.BY_NAME["bfloat16"]
    for path, value in tree.flatten(params).items():
        if path == "blocks/norm1/scale":
            assert path not in loaded
            continue
        assert loaded[path].sharding == tree.flatten(wanted)[path].sharding and loaded[path].dtype == np.float32
        np.testing.assert_array_equal(np.asarray(loaded[path]), value.astype(rounded).astype(np.float32))
    smaller = tree.unflatten({path: x for path, x in tree.flatten(wanted).items() if "head" not in path})
    with pytest.raises(UserError, match="head/table is not a parameter here"):
        start.load(start.Config(path=str(tmp_path / "m")), smaller)
    loaded, how = start.load(start.Config(path=str(tmp_path / "m"), strict=False), smaller)
    assert "1 of the other run without a place here" in how and len(loaded) == len(tree.paths(smaller))
    held = {name: safetensors.Tensor(x.shape, x.dtype, lambda x=x: x) for name, x in safetensors.Weights(tmp_path / "m").items()}
    held["classifier.weight"] = safetensors.Tensor((2, 64), np.dtype(np.float32), lambda: np.zeros((2, 64), np.float32))
    safetensors.write_folder(tmp_path / "more", held, {"config.json": json.dumps(hf)})
    with pytest.raises(UserError, match="classifier.weight is not a parameter here"):
        start.load(start.Config(path=str(tmp_path / "more")), wanted)


def test_a_start_that_shapes_do_not_tell_is_refused(tmp_path):
    """Fails if `check` looks at shapes alone: norm_eps and rope_theta change every logit and no shape."""
    config = llama.Config(vocab_size=96, max_len=64, layers=3, heads=8, kv_heads=4, embed=64, mlp=128, qkv_bias=True, out_bias=True)
    folder.write(tmp_path / "m", noisy(BUILT["llama"]), families.config_to_hf("llama", config, tree.paths(BUILT["llama"].abstract)), {})
    given = start.Config(path=str(tmp_path / "m"))
    start.check(given, "llama", dataclasses.replace(config, attention_dropout=0.5, scan=False), None)
    with pytest.raises(UserError, match=r"model.norm_eps: 1e-05 -> 0.001.*model.rope_theta: 10000.0 -> 77.0|model.rope_theta"):
        start.check(given, "llama", dataclasses.replace(config, norm_eps=1e-3, rope_theta=77.0), None)
    with pytest.raises(UserError, match="model.name is 'gpt', and .* holds a llama"):
        start.check(given, "gpt", gpt.Config(vocab_size=96), None)
    start.check(dataclasses.replace(given, strict=False), "gpt", gpt.Config(vocab_size=96), None)
    words = byte.build(byte.Config())
    start.check(given, "llama", config, words)  # the folder has no tokenizer to compare with
    (tmp_path / "m" / "tokenizer.json").write_text(words.to_hf_json())
    start.check(given, "llama", config, words)
    start.check(given, "llama", config, file.build(file.Config(path=str(tmp_path / "m"))))
    (tmp_path / "m" / "tokenizer.json").write_text(byte.build(byte.Config(special_tokens=("<|x|>",))).to_hf_json())
    with pytest.raises(UserError, match="the tokenizer is not that of"):
        start.check(given, "llama", config, words)
    start.check(dataclasses.replace(given, exclude="embed"), "llama", config, words)


HEADS = [  # (architecture, the heads it is chosen for)
    ("BertForPreTraining", "bert", dict(masked_head=True, pair_head=True, pooler=True)),
    ("BertForMaskedLM", "bert", dict(masked_head=True, pair_head=False, pooler=False)),
    ("BertForMaskedLM", "bert", dict(masked_head=True, pair_head=False, pooler=True)),
    ("BertForNextSentencePrediction", "bert", dict(masked_head=False, pair_head=True, pooler=True)),
    ("BertModel", "bert", dict(masked_head=False, pair_head=False, pooler=True)),
    ("RobertaForMaskedLM", "bert", dict(masked_head=True, pair_head=False, pooler=False, position_offset=2, types=1, norm_eps=1e-5)),
    ("RobertaModel", "bert", dict(masked_head=False, pair_head=False, pooler=True, position_offset=2, types=1)),
    ("DistilBertForMaskedLM", "bert", dict(masked_head=True, pair_head=False, pooler=False, types=0)),
    ("DistilBertModel", "bert", dict(masked_head=False, pair_head=False, pooler=False, types=0)),
    ("ElectraForPreTraining", "bert", dict(masked_head=False, pair_head=False, pooler=False, embedding_size=8, discriminator=True)),
    ("ElectraForMaskedLM", "bert", dict(masked_head=True, pair_head=False, pooler=False, embedding_size=8)),
    ("AlbertForPreTraining", "albert", dict()),
    ("AlbertForMaskedLM", "albert", dict(pair_head=False, pooler=False)),
    ("AlbertModel", "albert", dict(masked_head=False, pair_head=False)),
]


@pytest.mark.parametrize(("architecture", "name", "fields"), HEADS, ids=lambda x: x if isinstance(x, str) else "")
def test_the_heads_decide_the_architecture(tmp_path, architecture, name, fields):
    """Fails if a bare model keeps its prefix, or a head that the architecture lacks is lost on the way back."""
    module = references.MODELS[name]
    config = module.Config(vocab_size=23, max_len=16, layers=2, heads=2, embed=12, **fields)
    params = noisy(module.build(config))
    hf = families.config_to_hf(name, config, tree.paths(params))
    assert hf["architectures"] == [architecture]
    folder.write(tmp_path / "m", params, hf, {})
    found = folder.Folder(tmp_path / "m")
    prefixed = any(key.startswith(hf["model_type"] + ".") for key in found.weights)
    assert prefixed != architecture.endswith("Model")
    again = module.Config(**found.fields)
    assert not families.differences(families.find(hf), config, again)
    for path, value in tree.flatten(found.params(module.build(again).abstract)).items():
        np.testing.assert_array_equal(np.asarray(value), tree.flatten(params)[path])


def test_older_names(tmp_path):
    """gamma and beta, a repeated table, position numbers: as the first BERT files have them. Fails if `renamed` is empty."""
    hf, model, tensors = references.model_of(references.stored("bert", 0))
    old = {key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): x for key, x in tensors.items()}
    assert len(set(old) - set(tensors)) > 5
    old |= {"cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
            "cls.predictions.decoder.bias": tensors["cls.predictions.bias"], "bert.embeddings.position_ids": np.arange(64)[None]}
    one, two = (tree.flatten(references.to_params(hf, x, model)) for x in (tensors, old))
    assert all(np.array_equal(one[path], two[path]) for path in one)


def test_heads_that_are_missing_or_unknown():
    """One error each: fails if heads are told from the file alone, so that a lost one goes unnoticed."""
    hf, model, tensors = references.model_of(references.stored("bert", 0))
    lost = {key: x for key, x in tensors.items() if "seq_relationship" not in key}
    model = references.bert.build(references.bert.Config(**families.config_from_hf(hf, lost)))
    with pytest.raises(UserError, match="not in the file: cls.seq_relationship.bias, cls.seq_relationship.weight"):
        references.to_params(hf, lost, model)
    with pytest.raises(UserError, match="architecture 'BertForTokenClassification' has a head that is not here.*AutoModel"):
        families.config_from_hf(hf | {"architectures": ["BertForTokenClassification"]}, tensors)
    with pytest.raises(UserError, match="more than one group"):
        families.config_from_hf({"model_type": "albert", "num_hidden_groups": 2}, ())
    with pytest.raises(UserError, match="masked head uses gelu all the same"):
        families.config_from_hf(hf | {"model_type": "roberta", "architectures": ["RobertaForMaskedLM"], "hidden_act": "relu"}, ())


def test_encoder_decoders_in_older_spellings():
    """T5 v1.1 before transformers 5, general names of sizes, tables that files repeat. Fails without `repeats` or `scale`'s default."""
    hf, model, tensors = references.model_of(references.stored("t5_v1_1", 0))
    read = lambda hf, names=tensors: families.config_from_hf(hf, names)
    old = {key: x for key, x in hf.items() if key not in ("scale_decoder_outputs", "dense_act_fn", "is_gated_act")}
    assert read(old | {"tie_word_embeddings": False}) == read(hf) and not read(hf)["tie_embeddings"] and not read(hf)["logit_scale"]
    general = {"num_layers": "num_hidden_layers", "d_model": "hidden_size", "num_heads": "num_attention_heads", "d_kv": "head_dim"}
    assert read({general.get(key, key): x for key, x in hf.items()}) == read(hf)
    for name, table_name in (("t5", "shared.weight"), ("bart", "model.shared.weight"), ("marian", "model.shared.weight")):
        hf, model, tensors = references.model_of(references.stored(name, 0))
        before = table_name.removesuffix("shared.weight")
        more = tensors | {f"{before}encoder.embed_tokens.weight": tensors[table_name], "lm_head.weight": tensors[table_name]}
        if name == "marian":
            more["model.encoder.embed_positions.weight"] = np.zeros((40, 20), np.float32)
        one, two = (tree.flatten(references.to_params(hf, x, model)) for x in (tensors, more))
        assert all(np.array_equal(one[path], two[path]) for path in one)
        with pytest.raises(UserError, match=f"lm_head.weight differs from {table_name}"):
            references.to_params(hf, more | {"lm_head.weight": tensors[table_name] + 1}, model)
        with pytest.raises(UserError, match=f"not in the file: {table_name}"):
            references.to_params(hf, {key: x for key, x in tensors.items() if key != table_name}, model)


@pytest.mark.parametrize(("name", "changes", "message"), [
    ("t5", {"feed_forward_proj": "gated-mish"}, "feed_forward_proj 'gated-mish'"),
    ("t5", {"dense_act_fn": "gelu"}, "which are two models"),
    ("t5", {"architectures": ["T5EncoderModel"]}, "architecture 'T5EncoderModel'"),
    ("bart", {"activation_function": "mish"}, "activation_function 'mish'"),
    ("bart", {"normalize_before": True}, "normalize_before=True"),
    ("bart", {"tie_word_embeddings": False}, "tie_word_embeddings=false"),
    ("bart", {"encoder_layerdrop": 0.1}, "encoder_layerdrop=0.1"),
    ("marian", {"share_encoder_decoder_embeddings": False}, "a vocabulary for each side"),
    ("marian", {"decoder_vocab_size": 12}, "a vocabulary for each side"),
    ("marian", {"static_position_embeddings": False}, "static_position_embeddings=False"),
])
def test_encoder_decoders_that_are_not_here(name, changes, message):
    case = references.stored(name, 0)
    with pytest.raises(UserError, match=message):
        families.config_from_hf(json.loads(str(case["config"])) | changes, json.loads(str(case["shapes"])))


def test_encoder_decoders_that_have_no_counterpart():
    """Fails if config_to_hf writes what its own reader takes for another model."""
    for name, module, fields, message in (("transformer", references.transformer, {"order": "pre"}, "order: 'pre' -> 'post'"),
                                          ("transformer", references.transformer, {"tie_embeddings": False}, "tie_word_embeddings=false"),
                                          ("t5", references.t5, {"tie_embeddings": False}, "set logit_scale to false")):
        with pytest.raises(UserError, match=message):
            families.config_to_hf(name, module.Config(vocab_size=9, **fields), ["logit_bias"])


@pytest.mark.skipif(not compare.installed(), reason="torch and transformers are not installed")
@pytest.mark.parametrize("name", ["t5_v1_1", "marian"])
def test_where_an_encoder_decoder_parts(tmp_path, capsys, name):
    """The side and the layer are named. Fails if streams of the encoder are taken for the decoder's, or padding is compared."""
    hf, _, tensors = references.model_of(references.stored(name, 0))
    ready = {key: safetensors.Tensor(x.shape, x.dtype, lambda x=x: x) for key, x in tensors.items()}
    safetensors.write_folder(tmp_path / "m", ready, {"config.json": json.dumps(hf)})
    source, module = folder.Folder(tmp_path / "m"), references.MODELS[families.MODELS[hf["model_type"]]]
    model = module.build(module.Config(**source.fields, scan=False))
    params = source.params(model.abstract)
    assert not source.changed(model.abstract, params)
    assert compare.told(source, model.apply, params, 1e-4, "it") and "all within" in capsys.readouterr().out
    for side in ("encoder", "decoder") if name == "t5_v1_1" else ():
        up = params[side]["blocks"]["mlp"]["up"]
        kept, up["kernel"] = up["kernel"], up["kernel"].at[1].multiply(1.01)
        assert not compare.told(source, model.apply, params, 1e-4, "it")
        assert f"DIFFERENT, first in the {side}'s layer 1" in capsys.readouterr().out
        up["kernel"] = kept


def test_the_start_of_a_target():
    """Import takes it from config.json, export writes it there. Fails if decoder_start_token_id is left to the reader's default."""
    import tokenizers
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3}, unk_token="<unk>"))
    made.add_special_tokens(["<pad>", "</s>", "<unk>"])
    words = file.JsonTokenizer(made.to_str())
    assert words.vocabulary.start == 1 and folder.target_roles({"decoder_start_token_id": 0}, words) == {"start": "<pad>"}
    assert folder.target_roles({"decoder_start_token_id": 1}, words) == folder.target_roles({}, words) == {}
    with pytest.raises(UserError, match="decoder_start_token_id 3"):
        folder.target_roles({"decoder_start_token_id": 3}, words)
    started = file.JsonTokenizer(made.to_str(), roles={"start": "<pad>"})
    ids = folder.special_ids(started.vocabulary, True, True)
    assert (ids["decoder_start_token_id"], ids["eos_token_id"], ids["pad_token_id"]) == (0, 1, 0)
    assert "decoder_start_token_id" not in folder.special_ids(started.vocabulary, True)

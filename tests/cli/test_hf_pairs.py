# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""jaxlm hf with encoder-decoders: a folder becomes a run that answers as transformers does, is trained on pairs and exported again."""
import importlib.util
import json
import pathlib
import types

import jax
import numpy as np
import pytest
import tokenizers
from tokenizers import processors

from jaxlm import build
from jaxlm.checkpoints import safetensors
from jaxlm.checkpoints.hf import compare, folder
from jaxlm.checkpoints.safetensors import Tensor
from jaxlm.cli import experiment
from jaxlm.core.errors import UserError
from jaxlm.data.tokenizers import bpe, byte, file, hf_files
from jaxlm.generate import score
from jaxlm.generate.batch import prompt_ids, source_ids
from tests import tiny
from tests.cli.test_hf import same_bits
from tests.reference import test_reference as references

HAS_TORCH = bool(importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"))
WORDS = [f"w{i}" for i in range(10, 30)]  # that all of them know
# Of each: its special tokens by id, what its tokenizer puts around a text, and what its files say of every answer.
KINDS = {
    "t5": ({0: "<pad>", 1: "</s>", 2: "<unk>"}, "$A </s>", {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}),
    "bart": ({0: "<s>", 1: "<pad>", 2: "</s>", 3: "<unk>"}, "<s> $A </s>",
             {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_bos_token_id": 0}),
    "marian": ({0: "</s>", 1: "<unk>", 36: "<pad>"}, "$A </s>",
               {"pad_token_id": 36, "eos_token_id": 0, "decoder_start_token_id": 36, "bad_words_ids": [[36]]}),
}


def tokenizer_of(kind: str) -> tokenizers.Tokenizer:
    """A word for every id that is not special; special tokens and their template as the family has them."""
    special, template, _ = KINDS[kind]
    vocab = {special.get(i, f"w{i}"): i for i in range(37)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens(list(special.values()))
    made.post_processor = processors.TemplateProcessing(single=template, pair=f"{template} {template.replace('$A', '$B')}",
                                                        special_tokens=[(name, i) for i, name in special.items()])
    return made


def write_case(path: pathlib.Path, kind: str) -> pathlib.Path:
    """The folder of a stored reference, as save_pretrained leaves it."""
    hf, _, tensors = references.model_of(references.stored(kind, 0))
    if kind == "marian":  # which says <pad> if it may
        tensors["final_logits_bias"] = tensors["final_logits_bias"] + 6 * np.eye(37, dtype=np.float32)[36]
    ready = {key: Tensor(x.shape, x.dtype, lambda x=x: x) for key, x in tensors.items()}
    texts = {"config.json": json.dumps(hf), "generation_config.json": json.dumps(KINDS[kind][2]),
             "tokenizer_config.json": json.dumps({"eos_token": "</s>", "pad_token": "<pad>", "tokenizer_class": "PreTrainedTokenizerFast"})}
    safetensors.write_folder(path, ready, texts)
    tokenizer_of(kind).save(str(path / "tokenizer.json"))
    return path


SOURCES = ["w11 w12 w13", "w17", "w29 w10 w10 w15 w21"]
NEW = 8


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{kind: (folder, run, exported at once, exported after a step, what each command said)} of all three, by the command line."""
    here, out = tmp_path_factory.mktemp("folders"), {}
    draw = np.random.default_rng(0)
    lines = [" ".join(draw.choice(WORDS, draw.integers(1, 6))) for _ in range(60)]
    (here / "pairs.source").write_text("".join(line + "\n" for line in lines))
    (here / "pairs.target").write_text("".join(" ".join(line.split()[::-1]) + "\n" for line in lines))
    small = [f"--config.source.path={here / 'pairs'}", "--config.data.holdout=0.0", "--config.train.steps=1", "--config.train.batch_size=4",
             "--config.train.tensorboard=false", "--config.train.picture=false", "--config.schedule.warmup=0"]
    commands = []
    for kind in KINDS:
        source, run = write_case(here / kind, kind), here / f"{kind}_run"
        commands += [
            ["hf", "import", source, f"--workdir={run}"],
            ["hf", "export", here / f"{kind}_out", f"--workdir={run}"],
            ["generate", f"--workdir={run}", *(f"--prompt={text}" for text in SOURCES), "--json", "--config.generate.temperature=0",
             f"--config.generate.max_new_tokens={NEW}"],
            ["train", f"--config={run}/config.json", f"--workdir={run}", *small],
            ["hf", "export", here / f"{kind}_trained", f"--workdir={run}"],
        ]
    done = tiny.commands(*commands)
    for i, kind in enumerate(KINDS):
        out[kind] = here / kind, here / f"{kind}_run", here / f"{kind}_out", here / f"{kind}_trained", done[5 * i:5 * i + 5]
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_import_use_export(runs, kind):
    """Every bit comes back, and every field of a config that is not of transformers' own; one step of training changes it.

    Fails if the page of the import keeps the objective or the packing of texts (in cli/folder_page.py), or the roles that the
    tokenizer is given are not in the config that is trained by."""
    source, run, out, trained, done = runs[kind]
    for command in done:
        assert command.returncode == 0, (command.args, command.stderr)
    assert "--config.source.path=PAIRS for PAIRS.source and PAIRS.target" in done[0].stdout
    same_bits(source, out)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_text() == (source / name).read_text() == (trained / name).read_text()
    before, after = (json.loads((path / "config.json").read_text()) for path in (source, out))
    assert {key: after[key] for key in before if "dtype" not in key} == {key: x for key, x in before.items() if "dtype" not in key}
    config = build.from_json((run / "config.json").read_text())
    assert (config.objective.name, config.source.name, config.data.packing) == ("seq2seq", "parallel", "pairs")
    assert config.data.seq_len == (256 if kind == "t5" else 40) and config.data.source_len == 0
    assert (config.tokenizer.start, config.tokenizer.begin) == {"t5": ("<pad>", ""), "bart": ("", "<s>"), "marian": ("<pad>", "")}[kind]
    assert (config.generate.forced_bos, config.generate.suppress) == {"t5": (-1, ()), "bart": (0, ()), "marian": (-1, (36,))}[kind]
    with pytest.raises(AssertionError):
        same_bits(source, trained)


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_is_what_the_folder_s_tokenizer_makes_of_it(runs, kind):
    """And a target is that behind its start. Fails if `begin` is not taken from the template, start not from config.json, or rows or
    scored texts are made without begin (no `tokenizer.side` in data/store.py or in generate/score.py)."""
    source, run, *_ = runs[kind]
    config, theirs = build.from_json((run / "config.json").read_text()), tokenizer_of(kind)
    ours = file.build(build.section(config, "tokenizer"))
    start = KINDS[kind][2]["decoder_start_token_id"]
    for text in SOURCES:
        assert source_ids(ours, text).tolist() == theirs.encode(text).ids
        assert prompt_ids(ours, text, ours.vocabulary.start).tolist() == [start, *theirs.encode(text).ids[:-1]]
    # A target that is scored from its beginning is one of training, and what comes before its text is not counted.
    begun, scorer = [], types.SimpleNamespace(limits=types.SimpleNamespace(start=start, source=True))
    scorer.run = lambda params, rows, config, sources: [begun.append(ids.tolist()) or np.arange(len(ids) - 1.0) for ids in rows]
    scored = score.score(scorer, None, ours, SOURCES, sources=SOURCES)
    assert begun == [[start, *theirs.encode(text).ids[:-1]] for text in SOURCES]
    assert [len(one.logprobs) for one in scored] == [len(text.split()) for text in SOURCES]
    # As the rows that it was trained on have them.
    _, corpus = experiment.text(config, str(run), ours)
    rows = corpus.train.rows(np.arange(len(corpus.train)))
    written = {tuple(source_ids(ours, line).tolist()) for line in (run.parent / "pairs.source").read_text().splitlines()}
    for r in range(len(rows["tokens"])):
        for k in range(1, rows["segments"][r].max() + 1):
            assert tuple(rows["source_tokens"][r][rows["source_segments"][r] == k].tolist()) in written
            target = rows["next"][r][rows["segments"][r] == k].tolist()
            assert target == theirs.encode(ours.decode(target)).ids


@pytest.mark.skipif(not HAS_TORCH, reason="torch and transformers are not installed")
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_answers_the_same(runs, kind):
    """The same tokens by greedy search, before any training. Fails if forced_bos (BART) or the tokens that Marian never gives are
    left to the user."""
    import torch
    import transformers

    source, _, _, _, done = runs[kind]
    said = [json.loads(line) for line in done[2].stdout.splitlines()]
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(source).eval()
    words = transformers.AutoTokenizer.from_pretrained(source)
    for text, row in zip(SOURCES, said, strict=True):
        given = words(text, return_tensors="pt")
        with torch.no_grad():
            ids = model.generate(given["input_ids"], attention_mask=given["attention_mask"], max_new_tokens=NEW, num_beams=1, do_sample=False,
                                 use_cache=False)  # theirs counts the encoder's layers
        assert row["text"] == words.decode(ids[0], skip_special_tokens=True)
        assert row["tokens"] == len(ids[0]) - 1


@pytest.mark.skipif(not HAS_TORCH, reason="torch and transformers are not installed")
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_loads_what_was_trained(runs, kind):
    """Its logits of the exported folder are those of the run."""
    _, run, _, trained, _ = runs[kind]
    opened = experiment.open_run(build.from_json((run / "config.json").read_text()), str(run))
    assert opened.step == 1
    found = folder.Folder(trained)
    batch = compare.sample(found)
    theirs = compare.reference(trained, found.hf, batch).results["logits"]
    ours = np.asarray(jax.jit(lambda p, b: opened.run.model.apply(p, b).logits)(opened.params, batch))
    real = batch["segments"] > 0
    assert np.abs(theirs[real]).max() > 0.5
    np.testing.assert_allclose(ours[real], theirs[real], atol=1e-4 * max(1.0, np.abs(theirs[real]).max()), rtol=0)


def test_templates_that_no_source_has():
    """Fails if what a template puts around a text is dropped without a word."""
    made = tokenizer_of("bart")
    read = lambda template: file.JsonTokenizer((setattr(made, "post_processor", processors.TemplateProcessing(
        single=template, pair="$A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2), ("<pad>", 1)])), made.to_str())[1])
    assert folder.target_roles({"decoder_start_token_id": 2}, read("<s> $A </s>")) == {"begin": "<s>"}
    assert folder.target_roles({"decoder_start_token_id": 1}, read("$A </s>")) == {"start": "<pad>"}
    for template in ("$A", "$A <pad>", "<s> <pad> $A </s>", "<s> $A </s> </s>"):
        with pytest.raises(UserError, match="puts special tokens around a text as in"):
            folder.target_roles({}, read(template))
    with pytest.raises(UserError, match="decoder_start_token_id 11"):
        folder.target_roles({"decoder_start_token_id": 11}, read("$A </s>"))


@pytest.mark.parametrize("made", [byte.build(byte.Config()), bpe.build(bpe.Config(280), lambda: iter(["Straße über größere"] * 9))], ids=["byte", "bpe"])
def test_a_tokenizer_of_ours_is_written_with_its_end(made):
    """What reads the exported folder feeds the encoder what it was trained on. Fails if `sides` adds nothing: then eot is missing."""
    texts = hf_files.hf_files(made, sides=True)
    theirs = tokenizers.Tokenizer.from_str(texts["tokenizer.json"])
    for text in ("Straße, groß", "x"):
        assert theirs.encode(text).ids == source_ids(made, text).tolist()
    assert tokenizers.Tokenizer.from_str(hf_files.hf_files(made)["tokenizer.json"]).encode("x").ids == made.encode("x").tolist()
    again = file.JsonTokenizer(texts["tokenizer.json"])
    assert source_ids(again, "Straße").tolist() == source_ids(made, "Straße").tolist() and folder.target_roles({}, again) == {}

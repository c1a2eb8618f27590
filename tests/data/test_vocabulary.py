# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What an objective is told of a tokenizer: the roles of special tokens, and which tokens go on with a word."""
import sys

import numpy as np
import pytest
import tokenizers as hf

from jaxlm.core.errors import UserError
from jaxlm.core.types import Vocabulary
from jaxlm.data.tokenizers import bpe, byte, file, tokenizer
from jaxlm.data.tokenizers import unigram as learned
from jaxlm.data.tokenizers import wordpiece as pieces
from jaxlm.data.tokenizers.tokenizer import JsonTokenizer
from tests.data.test_tokenizers import CORPUS, unigram, wordpiece


@pytest.fixture(scope="module")
def every():
    roberta = ("<s>", "</s>", "<pad>", "<mask>")
    return {"byte": byte.build(byte.Config(("<|mask|>",))),
            "bpe": bpe.build(bpe.Config(320, special_tokens=roberta), lambda: iter(CORPUS)),
            "unigram": JsonTokenizer(unigram().to_str()), "wordpiece": JsonTokenizer(wordpiece().to_str())}


@pytest.mark.parametrize("name, eot, special, pad, cls, sep, mask", [
    ("byte", 256, (256, 257), None, None, None, 257), ("bpe", 0, (0, 1, 2, 3, 4), 3, 1, 2, 4),
    ("unigram", 1, (0, 1), None, None, 1, None), ("wordpiece", 3, (0, 1, 2, 3), 0, 2, 3, None)])
def test_roles_are_found_by_their_usual_names(every, name, eot, special, pad, cls, sep, mask):
    found = every[name].vocabulary
    assert (found.size, found.eot, found.special) == (every[name].vocab_size, eot, special)
    assert (found.pad, found.cls, found.sep, found.mask) == (pad, cls, sep, mask)
    assert found.continues.shape == (found.size,) and not found.continues[list(special)].any()


@pytest.mark.parametrize("name, text", [
    ("byte", "the quick\nbrown fox"), ("bpe", "the quick\nbrown jumps over"), ("unigram", "ab ba bab"),
    ("wordpiece", "hello worldly worldlyly sep")])
def test_tokens_that_begin_a_word_are_as_many_as_words(every, name, text):
    """Fails if `continues` is turned round, or if a line break goes on with the word before it."""
    ids = every[name].encode(text)
    begins = ~every[name].vocabulary.continues[ids]
    begins[0] = True  # bytes have no mark before the first word
    assert begins.sum() == len(text.split()) < len(ids)


def test_words_that_do_not_show():
    made = hf.Tokenizer(hf.models.BPE({"a</w>": 0, "[SEP]": 1}, [], end_of_word_suffix="</w>"))
    assert JsonTokenizer(made.to_str()).vocabulary.continues is None


def test_sentinels_are_in_the_order_of_their_numbers(tmp_path):
    """T5's have falling ids: <extra_id_0> the highest; trained here they rise. Fails if they are sorted by id, or as text."""
    names = [f"<extra_id_{i}>" for i in range(12)]
    made = hf.Tokenizer(hf.models.WordLevel({name: i for i, name in enumerate(["<pad>", "</s>", "<unk>", "a", *names[::-1]])}, unk_token="<unk>"))
    made.add_special_tokens(["<pad>", "</s>", "<unk>", *names])
    made.save(str(tmp_path / "tokenizer.json"))
    found = file.build(file.Config(str(tmp_path), start="<pad>")).vocabulary
    assert found.sentinels == tuple(range(15, 3, -1)) and {*found.sentinels} < {*found.special} and found.start == found.pad == 0
    assert tokenizer.from_json(file.build(file.Config(str(tmp_path), start="<pad>")).to_json()).vocabulary.start == 0
    for kind in (byte.Config(tuple(names)), bpe.Config(320, special_tokens=tuple(names)), learned.Config(600, "t5", tuple(names)),
                 pieces.Config(400, special_tokens=tuple(names))):
        own = sys.modules[type(kind).__module__].build(kind, lambda: iter(CORPUS))
        ids = [own.token_id(name) for name in names]
        assert own.vocabulary.sentinels == tuple(ids) == tuple(range(ids[0], ids[0] + 12))
        assert not np.isin(own.encode("a <extra_id_0> b"), ids).any(), "a text spelled a sentinel"
        # T5 begins its targets with <pad>, the others with what ends a document.
        assert own.vocabulary.start == (own.special["<pad>"] if isinstance(kind, learned.Config) else own.eot)


def test_a_role_that_is_needed_and_missing(every):
    assert every["bpe"].vocabulary.require("mask", "objective mlm") == 4
    with pytest.raises(UserError, match="^objective mlm needs a mask token.*tokenizer.special_tokens"):
        every["wordpiece"].vocabulary.require("mask", "objective mlm")
    assert Vocabulary(2, 0, (0,), None, None, None, 0, None).require("mask", "x") == 0
    assert np.array_equal(every["byte"].vocabulary.continues, every["byte"].continues())

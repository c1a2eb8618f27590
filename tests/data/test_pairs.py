# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Sequences of one text and of two, as each family is fed them, and what is cut where they are too long."""
import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.data.tokenizers import bpe, byte, pairs, unigram, wordpiece
from jaxlm.data.tokenizers.tokenizer import JsonTokenizer
from tests.data.tricky import CORPUS


def built(kind, **fields):
    return kind.build(kind.Config(**fields), lambda: iter(CORPUS))


def names(tokenizer, ids, types=None):
    """Special tokens by name and a dot for any other; with types, each with its own and one dot for a run."""
    special = {i: name for name, i in tokenizer.special.items()}
    found = [special.get(int(i), ".") for i in ids]
    if types is not None:
        found = [f"{name}{kind}" for name, kind in zip(found, types)]
        found = [name for name, before in zip(found, ["", *found]) if name != before or name[0] != "."]
    return " ".join(found)


ROBERTA = "<s>0 .0 </s>0 </s>0 .0 </s>0"
BERT = "[CLS]0 .0 [SEP]0 .1 [SEP]1"


@pytest.mark.parametrize("kind, fields, single, pair", [
    (wordpiece, {"vocab_size": 400}, "[CLS]0 .0 [SEP]0", BERT), (unigram, {"vocab_size": 600}, "[CLS]0 .0 [SEP]0", BERT),
    (unigram, {"vocab_size": 600, "specials": "t5"}, ".0 </s>0", ".0 </s>0 .0 </s>0"),
    (bpe, {"vocab_size": 400, "special_tokens": ("<s>", "</s>", "<mask>")}, "<s>0 .0 </s>0", ROBERTA),
    (byte, {"special_tokens": ("<s>", "</s>")}, "<s>0 .0 </s>0", ROBERTA),
    (byte, {"special_tokens": ("[CLS]", "[SEP]")}, "[CLS]0 .0 [SEP]0", BERT),
])
def test_each_kind(kind, fields, single, pair):
    """Fails if RoBERTa's second separator is left out of pairs.processor."""
    tokenizer = built(kind, **fields)
    ids, types = tokenizer.encode_pair("the")
    assert names(tokenizer, ids, types) == single and ids.dtype == types.dtype == np.int32
    ids, types = tokenizer.encode_pair("the", "the")
    assert names(tokenizer, ids, types) == pair
    many = tokenizer.encode_pairs(["the", "a fox"], ["the", ""])
    np.testing.assert_array_equal(many[0][0], ids)
    rebuilt = JsonTokenizer(tokenizer.to_hf_json(), tokenizer.eot_name if hasattr(tokenizer, "eot_name") else "")
    np.testing.assert_array_equal(rebuilt.encode_pair("the", "the")[0], ids)


@pytest.mark.parametrize("lengths, room, kept", [
    ([3, 4], 7, [3, 4]), ([3, 9], 7, [3, 4]), ([9, 3], 7, [4, 3]), ([9, 9], 7, [3, 4]), ([9, 8], 7, [4, 3]), ([1, 9], 0, [0, 0]),
    ([9], 4, [4]), ([0, 9], 4, [0, 4]), ([5, 5], 1, [0, 1])])
def test_the_longer_text_is_cut_first(lengths, room, kept):
    """Fails if both texts lose the same number of tokens."""
    assert pairs.shares(lengths, room) == kept


def test_truncation():
    tokenizer = built(wordpiece, vocab_size=400)
    ids, types = tokenizer.encode_pair("the fox", "the dog the dog the dog", 8)
    assert names(tokenizer, ids) == "[CLS] . . [SEP] . . . [SEP]" and types.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert names(tokenizer, tokenizer.encode_pair("the fox", "dog", 3)[0]) == "[CLS] [SEP] [SEP]"
    assert names(tokenizer, tokenizer.encode_pair("the fox", None, 3)[0]) == "[CLS] . [SEP]"
    with pytest.raises(ValueError, match="max_len 2 is less than the 3 special tokens"):
        tokenizer.encode_pair("the", "the", 2)
    with pytest.raises(ValueError, match="shorter|longer"):
        tokenizer.encode_pairs(["a", "b"], ["a"])


def test_no_tokens_for_a_sequence():
    with pytest.raises(UserError, match="a sequence for an encoder needs a cls token"):
        built(bpe, vocab_size=300).encode_pair("the")


def test_special_tokens_in_the_texts_stay_text():
    tokenizer = built(wordpiece, vocab_size=400)
    ids, _ = tokenizer.encode_pair("[SEP] the [MASK]", "[CLS]")
    assert np.isin(ids, [0, 2, 3, 4]).sum() == 3

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Blanks in a text become sentinels, and a target's spans their places."""
import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.data.tokenizers import bpe, byte, unigram
from jaxlm.generate import text as texts
from jaxlm.generate.fill import blanked, filled
from jaxlm.generate.settings import Config
from tests.data.tricky import CORPUS

NAMES = tuple(f"<extra_id_{i}>" for i in range(4))
KINDS = {"byte": byte.build(byte.Config(NAMES)), "bpe": bpe.build(bpe.Config(320, special_tokens=NAMES), lambda: iter(CORPUS)),
         "t5": unigram.build(unigram.Config(600, "t5", NAMES), lambda: iter(CORPUS))}


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_comes_back(kind):
    """Taken out as in training, between tokens, and told again, the text is the same. Fails if a blank of byte-level BPE keeps the space
    before it, or spans are put in by their order and not by their sentinels."""
    tokenizer = KINDS[kind]
    text = "the quick brown fox jumps over"
    if kind == "byte":
        source, spans = "the <extra_id_0>brown<extra_id_1> jumps over", ("quick ", " fox")
    else:
        source, spans = "the <extra_id_0> brown <extra_id_1> jumps over", (" quick", " fox") if kind == "bpe" else ("quick", "fox")
    ids = blanked(tokenizer, source)
    told = [[tokenizer.special[NAMES[i]], *tokenizer.encode(span)] for i, span in enumerate(spans)]
    assert ids[-1] == tokenizer.eot and filled(tokenizer, ids, [*told[0], *told[1], tokenizer.eot]) == text
    assert filled(tokenizer, ids, [*told[1], *told[0]]) == text
    assert NAMES[1] in filled(tokenizer, ids, told[0]) and NAMES[0] not in filled(tokenizer, ids, told[0])
    # What stays is tokenised as it is in the whole text.
    whole = tokenizer.encode(text).tolist()
    kept = [i for i in ids[:-1].tolist() if i not in tokenizer.vocabulary.sentinels]
    out = [int(i) for span in told for i in span[1:]]
    assert sorted(kept + out) == sorted(whole)


@pytest.mark.parametrize("text, word", [("no blank", "has no blank"), ("a <extra_id_7> b", "has <extra_id_7>"), ("<extra_id_0> <extra_id_0>", "twice")])
def test_blanks_that_are_none(text, word):
    with pytest.raises(UserError, match=word):
        blanked(KINDS["byte"], text)


@pytest.mark.parametrize("given", [{"prompts": ["a <extra_id_0>"]}, {"sources": [np.array([1, 2])]}])
def test_what_cannot_be_filled(given):
    """Fails if a decoder's prompt is silently not filled."""
    class Never:
        limits = type("Limits", (), {"start": None})

    with pytest.raises(UserError, match="generate.fill fills the blanks"):
        texts.generate(None, {}, KINDS["byte"], config=Config(fill=True), decoder=Never(), **given)

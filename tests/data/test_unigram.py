# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Unigram as it is learned here: the same every time, no character lost, names of special tokens spelled in pieces."""
import unicodedata

import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.data.tokenizers import unigram
from jaxlm.data.tokenizers.tokenizer import from_json
from tests.data.tricky import CORPUS, TEXTS


def build(*texts, **fields):
    return unigram.build(unigram.Config(**{"vocab_size": 600, **fields}), lambda: iter(texts or CORPUS))


@pytest.fixture(scope="module")
def learned():
    return {"t5": build(specials="t5"), "albert": build(lowercase=True, strip_accents=True, byte_fallback=False, vocab_size=300),
            "few": build(alphabet=40, vocab_size=360)}


def test_same_documents_same_vocabulary(learned):
    """Fails if _settled gives the scores as the library does."""
    assert all(build(specials="t5").to_json() == learned["t5"].to_json() for _ in range(3))
    assert build(*CORPUS[:2], specials="t5").fingerprint != learned["t5"].fingerprint
    t5, albert = learned["t5"].vocabulary, learned["albert"].vocabulary
    assert (t5.pad, t5.cls, t5.sep, t5.mask, t5.eot, t5.special) == (0, None, 1, None, 1, (0, 1, 2))
    assert (albert.pad, albert.cls, albert.sep, albert.mask, albert.eot) == (0, 2, 3, 4, 3)
    assert learned["t5"].vocab_size <= 600 and learned["few"].vocab_size <= 360


@pytest.mark.parametrize("name", ["t5", "few"])
@pytest.mark.parametrize("text", TEXTS)
def test_no_character_is_lost(learned, name, text):
    """Fails without byte_fallback, and for names of special tokens or bytes if those pieces have the score 0.0."""
    tokenizer = learned[name]
    ids = tokenizer.encode(text)
    assert not np.isin(ids, list(tokenizer.special.values())).any()
    normal = unigram._normalizer(unigram.Config()).normalize_str(text).replace("▁", " ")
    assert tokenizer.decode(ids).split() == normal.split()


def test_albert_takes_case_and_accents_away(learned):
    tokenizer = learned["albert"]
    np.testing.assert_array_equal(tokenizer.encode("Äpfel ÜBER"), tokenizer.encode("apfel uber"))
    assert tokenizer.decode(tokenizer.encode("안녕")) == unicodedata.normalize("NFC", "안녕")
    assert tokenizer.encode("ж").tolist()[-1] == tokenizer.special["<unk>"]


def test_whole_words_of_a_text(learned):
    text = "the quick brown foxthe thequick Straßenbahn ж \U0001f469"
    for name, tokenizer in learned.items():
        ids = tokenizer.encode(text)
        begins = ~tokenizer.vocabulary.continues[ids] & (ids != tokenizer.special["<unk>"])
        assert begins.sum() == len(text.split()) < len(ids), name


@pytest.mark.parametrize("seed", range(20))
def test_stream_joined_is_decode(learned, seed):
    """Fails if Stream does not wait for the end of a run of bytes."""
    r = np.random.default_rng(seed)
    for tokenizer in learned.values():
        for ids in (r.integers(0, tokenizer.vocab_size, 40), r.integers(0, min(270, tokenizer.vocab_size), 30), tokenizer.encode("日本語 ж\U0001f600 é the")):
            stream = tokenizer.stream()
            assert "".join([stream.push(i) for i in ids]) + stream.flush() == tokenizer.decode(ids)


def test_rebuilt_from_json(learned):
    for tokenizer in learned.values():
        again = from_json(tokenizer.to_json())
        assert again.fingerprint == tokenizer.fingerprint
        for text in TEXTS:
            np.testing.assert_array_equal(again.encode(text), tokenizer.encode(text))


def test_bad_settings_and_texts(capsys):
    with pytest.raises(UserError, match=r"vocab_size=300 is too small for this text: it must be at least \d+, 261 special"):
        build(vocab_size=300)
    least = int(pytest.raises(UserError, build, vocab_size=300).value.args[0].split("at least ")[1].split(",")[0])
    assert build(vocab_size=least).vocab_size == least
    build(alphabet=40, vocab_size=360)
    assert "become bytes: raise tokenizer.alphabet" in capsys.readouterr().err
    for texts in ([], ["", " \n"]):
        with pytest.raises(UserError, match="no text"):
            unigram.build(unigram.Config(), lambda texts=texts: iter(texts))
    with pytest.raises(UserError, match="learns from documents"):
        unigram.build(unigram.Config())
    assert len(unigram.Config(100, alphabet=0, special_tokens=("<unk>",)).problems()) == 3
    assert "did you mean 'albert'" in unigram.Config(specials="albertt").problems()[0] and not unigram.Config().problems()

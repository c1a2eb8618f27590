# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""WordPiece as it is learned here: the same every time, with BERT's normaliser, and never more than was asked for."""
import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.data.tokenizers import wordpiece
from tests.data.tricky import CORPUS, TEXTS


def build(*texts, **fields):
    return wordpiece.build(wordpiece.Config(**{"vocab_size": 400, **fields}), lambda: iter(texts or CORPUS))


def pieces(tokenizer, text):
    vocab = {i: name for name, i in tokenizer._inner.get_vocab().items()}
    return [vocab[int(i)] for i in tokenizer.encode(text)]


@pytest.fixture(scope="module")
def learned():
    return build()


def test_same_documents_same_vocabulary(learned):
    """Fails if the trainer is not given the pieces of one character (`special_tokens=list(special)`)."""
    assert all(build().to_json() == learned.to_json() for _ in range(2))
    tight = build(vocab_size=190)
    assert tight.vocab_size == 190 and all(build(vocab_size=190).to_json() == tight.to_json() for _ in range(4))
    assert build(*CORPUS[:2]).fingerprint != learned.fingerprint
    assert learned.vocab_size <= 400 and list(learned.special) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    v = learned.vocabulary
    assert (v.pad, v.cls, v.sep, v.mask, v.eot) == (0, 2, 3, 4, 3)


def test_words_are_pieces(learned):
    assert pieces(learned, "The QUICK fox") == ["the", "quick", "fox"]
    assert pieces(learned, "foxthe")[0] == "fox" and all(p.startswith("##") for p in pieces(learned, "foxthe")[1:])
    assert pieces(learned, "我喜欢") == ["我", "喜", "欢"] and pieces(learned, "Äpfel") == pieces(learned, "apfel")
    assert pieces(learned, "ж the") == ["[UNK]", "the"] and pieces(learned, "") == pieces(learned, " \t\x00") == []
    assert pieces(learned, "x" * 101) == ["[UNK]"] and "[UNK]" not in pieces(learned, "x" * 100)
    assert learned.decode(learned.encode("the quick fox, don't!")) == "the quick fox, don ' t!"


def test_casing_and_accents_are_kept_where_asked():
    """Fails if strip_accents="auto" takes accents away from a cased tokenizer."""
    cased = build(lowercase=False, vocab_size=600)
    assert pieces(cased, "Äpfel") == ["Äpfel"] and pieces(cased, "Äpfel") != pieces(cased, "äpfel")
    assert pieces(build(lowercase=False, strip_accents="yes", vocab_size=600), "Äpfel") == ["Apfel"]
    assert pieces(build(lowercase=True, strip_accents="no", vocab_size=600), "Äpfel") == ["äpfel"]
    assert len(pieces(build(space_chinese=False, vocab_size=600), "我喜欢自然语言处理")) == 1


def test_the_alphabet_is_limited_to_the_most_frequent_characters(capsys):
    """Fails if the trainer is not given limit_alphabet."""
    few = build("aaa bbb ccc abc cab ddd zz é", alphabet=3, vocab_size=20, min_frequency=1)
    assert pieces(few, "abc") and "[UNK]" not in pieces(few, "abc cab") and pieces(few, "ddd zz") == ["[UNK]"] * 2
    assert "all but the 3 most frequent" in capsys.readouterr().err


def test_bad_settings_and_texts():
    with pytest.raises(UserError, match=r"vocab_size=60 is too small for this text: it must be at least \d+, 5 special"):
        build(vocab_size=60)
    least = int(pytest.raises(UserError, build, vocab_size=60).value.args[0].split("at least ")[1].split(",")[0])
    assert build(vocab_size=least).vocab_size == least
    for texts in ([], ["", " \n"], ["\x00"]):
        with pytest.raises(UserError, match="no text"):
            wordpiece.build(wordpiece.Config(), lambda texts=texts: iter(texts))
    with pytest.raises(UserError, match="learns from documents"):
        wordpiece.build(wordpiece.Config())
    bad = wordpiece.Config(5, strip_accents="maybe", alphabet=0, min_frequency=0, special_tokens=("[CLS]",))
    assert len(bad.problems()) == 5 and not wordpiece.Config().problems()


def test_whole_words_of_a_text(learned):
    """The tokens that begin a word are as many as words: of letters, or single signs."""
    text = "the quick brown fox foxthe thequick überthe dog"
    ids = learned.encode(text)
    assert (~learned.vocabulary.continues[ids]).sum() == len(text.split()) < len(ids)


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_gives_ids_in_range(learned, text):
    ids = learned.encode(text)
    assert ((0 <= ids) & (ids < learned.vocab_size)).all() and not np.isin(ids, [0, 2, 3, 4]).any()
    assert isinstance(learned.decode(ids), str)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Sentences: how text is split, that stores keep where they begin, and the stretches that rows are made of."""
import time

import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.data import corpus, sampler, store
from jaxlm.data.sentences import lines, running
from jaxlm.data.sources import text as source
from jaxlm.data.stretches import Stretches
from jaxlm.data.tokenizers.tokenizer import ByteTokenizer

TEXTS = ["one two.\n\n  three four five.\nsix.\n", "A. b", "x" * 50 + "\nshort\n", "seven\neight\nnine\nten\neleven\n"]


def made(tmp_path, texts=TEXTS, sentences="line"):
    return store.build(tmp_path, lambda: iter(texts), {"n": len(texts)}, ByteTokenizer(), 0.0, sentences=sentences)


def test_lines():
    assert lines(" a b \n\n\t\nc\r\nd") == ["a b", "c", "d"]


@pytest.mark.parametrize("text,want", [
    ("One. Two! Three? four", ["One.", "Two!", "Three? four"]),  # a small letter goes on
    ('He said "No." Then he left.', ['He said "No."', "Then he left."]),
    ("A title\n\nand text e.g. this. 3 more… Yes", ["A title", "and text e.g. this.", "3 more…", "Yes"]),
    ("3.14 is pi.No space", ["3.14 is pi.No space"]),
    ("你好。我是谁？「好！」走", ["你好。", "我是谁？", "「好！」", "走"]),
    ("  \n ", []),
])
def test_running_text(text, want):
    """Fails if a mark before a small letter ends a sentence: drop the `islower` line."""
    assert running(text) == want


def test_nothing_but_white_space_is_lost_and_it_takes_no_time():
    """Fails if a run of spaces is looked through once for each of them: let _END begin with white space before the line break."""
    draw = np.random.default_rng(0)
    for _ in range(50):
        text = "".join(draw.choice(list("ab AB.!?…。！\"”)\n\n  "), 200))
        assert "".join("".join(running(text)).split()) == "".join(text.split())
    began = time.monotonic()
    assert running("a" + " " * 200_000 + "b" + "\n" + " " * 200_000 + ".") and time.monotonic() - began < 5


def test_a_store_keeps_where_sentences_begin(tmp_path):
    """Fails if a begin is counted without the eot before it."""
    found = made(tmp_path)
    ends = np.append(found.sentences[1:], len(found.tokens))
    pieces = [bytes(x for x in found.tokens[a:b] if x < 256).decode() for a, b in zip(found.sentences, ends)]
    assert pieces == [line for text in TEXTS for line in lines(text)]
    assert made(tmp_path, sentences="").sentences is None, "another store, which was made without"
    head = found.head(2)
    assert len(head.sentences) == 4 and head.sentences[-1] < head.offsets[-1]
    (folder,) = [f for f in tmp_path.glob("train-*") if (f / "sentences.npy").exists()]
    (folder / "sentences.npy").write_bytes((folder / "sentences.npy").read_bytes()[:-8] + b"damaged!")
    with pytest.raises(UserError, match="sentences.npy"):
        made(tmp_path)


def test_stretches_hold_every_sentence_once(tmp_path):
    """Every token of every document, in order, whole sentences of one document at a time. Fails if a stretch crosses into
    the next document (`min(full, end)` without `end`), or a sentence that is too long is dropped."""
    found = made(tmp_path)
    plan = Stretches(found, 16)
    rows = plan.rows(np.arange(len(plan)))
    kept = rows["sentences"] > 0
    np.testing.assert_array_equal(rows["tokens"][kept], found.tokens[found.tokens != found.eot])
    sizes = kept.sum(1)
    for i in range(len(plan)):
        (document,) = plan.documents(i)
        last = i + 1 == len(plan) or plan.documents(i + 1)[0] != document
        assert sizes[i] >= 13 or last, "a row that is not full ends its document"
        numbers = rows["sentences"][i][kept[i]]
        assert numbers[0] == 1 and set(np.diff(numbers)) <= {0, 1} and sizes[i] - (numbers == numbers[-1]).sum() < 13
    blank = plan.rows(np.array([-1]))
    assert all((x == 0).all() and x.shape == (1, 32) for x in blank.values())


def test_the_other_document(tmp_path):
    """Never the row's own, every other one, each sentence of it. Fails if the draw forgets to step over the own document."""
    texts = ["\n".join(chr(97 + d) * n for n in (3, 5, 2)) for d in range(4)]  # each of its own letter
    plan, begins = Stretches(made(tmp_path, texts), 16), set()
    for seed in range(100):
        for i in range(len(plan)):
            row = plan.row(i, np.random.default_rng([seed, i]))
            own = set(row["tokens"][row["sentences"] > 0])
            first = bytes(row["other"][row["other_sentences"] == 1].astype(np.uint8)).decode()
            assert len(own) == 1 and not own & set(row["other"][row["other_sentences"] > 0])
            begins.add(first)
    assert begins == {sentence for text in texts for sentence in lines(text)}
    assert (Stretches(made(tmp_path / "one", TEXTS[:1]), 16).row(0, np.random.default_rng(0))["other_sentences"] == 0).all()


def test_the_sampler_draws_the_other_document_by_row(tmp_path):
    """The same for any number of hosts, other numbers than those of masks. Fails if `others` is asked by the row in the host's part."""
    drawn = sampler.Sampler(Stretches(made(tmp_path), 16), 8, 1)
    whole = drawn.batch(3)
    for part in (slice(0, 4), slice(4, 8)):
        for name, x in drawn.batch(3, part).items():
            np.testing.assert_array_equal(x, whole[name][part], err_msg=name)
    fixed = [sampler.InOrder(Stretches(made(tmp_path), 16), size, 1) for size in (2, 3)]
    rows = [np.concatenate([d.batch(i)["other"] for i in range(len(d))]) for d in fixed]
    np.testing.assert_array_equal(rows[0][: len(fixed[0].plan)], rows[1][: len(fixed[0].plan)])


def test_what_cannot_be(tmp_path):
    with pytest.raises(UserError, match="no room for a pair"):
        Stretches(made(tmp_path), 4)
    with pytest.raises(UserError, match="knows no sentences"):
        Stretches(made(tmp_path, sentences=""), 16)
    assert any("data.sentences" in p for p in corpus.Config(sentences="words").problems())


def test_a_corpus_of_sentences(tmp_path):
    """From files to rows; fails if the splitter does not reach the store."""
    (tmp_path / "t").mkdir()
    for i, text in enumerate(TEXTS):
        (tmp_path / "t" / f"{i}.txt").write_text(text)
    config = corpus.Config(seq_len=16, packing="sentences", holdout=0.0)
    found = corpus.build(config, source, source.Config(path=str(tmp_path / "t")), ByteTokenizer(), tmp_path)
    assert len(found.train_store.sentences) == sum(len(lines(text)) for text in TEXTS) and found.fingerprint["sentences"] == "line"
    assert corpus.blank(config).keys() == found.train.rows(np.array([0])).keys()

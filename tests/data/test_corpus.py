# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""From source and tokenizer to rows: made once, found again, told apart by its fingerprint."""
import json

import pytest

from jaxlm.core.errors import UserError
from jaxlm.data import corpus
from jaxlm.data.sources import text
from jaxlm.data.store import held_out
from jaxlm.data.tokenizers import bpe, byte


@pytest.fixture
def source(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("\n".join(f"this is line number {i} of {i % 3}" for i in range(300)))
    return text.Config(path=str(tmp_path / "in"), split="line")


def make(source, tmp_path, kind=byte, kind_config=None, **fields):
    config = corpus.Config(**({"seq_len": 16, "holdout": 0.1} | fields))
    assert config.problems() == []
    made = corpus.tokenizer(config, text, source, kind, kind_config or kind.Config(), tmp_path)
    return corpus.build(config, text, source, made, tmp_path)


def test_both_sides_and_their_counts(source, tmp_path):
    c = make(source, tmp_path)
    held = [t for t in text.documents(source) if held_out(t, 0.1)]
    assert c.eval_bytes == sum(len(t) for t in held) and c.eval_tokens == c.eval_bytes + len(held)
    rows = c.eval.rows(range(len(c.eval)))
    assert (rows["segments"] > 0).sum() == c.eval_tokens
    assert c.train_store.documents == 300 - len(held)
    assert c.train.rows(range(len(c.train)))["segments"].all()  # no padding to train on
    assert json.loads(json.dumps(c.fingerprint)) == c.fingerprint
    few = make(source, tmp_path, eval_documents=3)
    assert few.eval_bytes == sum(len(t) for t in held[:3])
    assert make(source, tmp_path, holdout=0.0).eval is None


def test_a_second_run_finds_the_tokenizer_and_the_stores(source, tmp_path, monkeypatch):
    """Fails if the cache is keyed by something that changes from run to run."""
    first = make(source, tmp_path, bpe, bpe.Config(300))
    monkeypatch.setattr(text, "documents", lambda config: pytest.fail("the source was read again"))
    second = make(source, tmp_path, bpe, bpe.Config(300))
    assert first.fingerprint == second.fingerprint
    packed = make(source, tmp_path, bpe, bpe.Config(300), packing="pack")
    assert packed.fingerprint != first.fingerprint and packed.train.fill > 0.5


def test_the_tokenizer_learns_only_from_the_training_side(source, tmp_path):
    """Fails if corpus.tokenizer is given all documents."""
    config = corpus.Config(holdout=0.1)
    made = corpus.tokenizer(config, text, source, bpe, bpe.Config(290), tmp_path)
    side = [t for t in text.documents(source) if not held_out(t, 0.1)]
    assert made.fingerprint == bpe.build(bpe.Config(290), lambda: iter(side)).fingerprint
    other = corpus.tokenizer(corpus.Config(holdout=0.5), text, source, bpe, bpe.Config(290), tmp_path)
    assert made.fingerprint != other.fingerprint


def test_changed_text_is_tokenized_again(source, tmp_path):
    first = make(source, tmp_path)
    (tmp_path / "in" / "b.txt").write_text("one more document")
    second = make(source, tmp_path)
    assert second.fingerprint["source"] != first.fingerprint["source"]
    assert second.train_store.documents + second.eval_store.documents == 301


def test_a_damaged_cached_tokenizer_is_named(source, tmp_path):
    make(source, tmp_path, bpe, bpe.Config(300), cache_dir=str(tmp_path / "elsewhere"))
    kept, = (tmp_path / "elsewhere").glob("tokenizer-*.json")
    kept.write_text("{")
    with pytest.raises(UserError, match="delete"):
        make(source, tmp_path, bpe, bpe.Config(300), cache_dir=str(tmp_path / "elsewhere"))


def test_problems():
    assert corpus.Config().problems() == []
    bad = corpus.Config(seq_len=0, holdout=1.0, packing="window", prefetch=-1, eval_documents=-1)
    assert len(bad.problems()) == 5 and "did you mean 'windows'" in bad.problems()[2]

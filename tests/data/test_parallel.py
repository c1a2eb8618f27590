# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Pairs from their files to rows: read line by line, held out by content, packed whole, refused or cut aloud when too long."""
import collections
import gzip
import json

import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.data import corpus, pipeline, sampler, store
from jaxlm.data.documents import Pair
from jaxlm.data.pairs import Pairs
from jaxlm.data.sources import jsonl, parallel
from jaxlm.data.tokenizers import bpe, byte
from jaxlm.generate.batch import source_ids
from jaxlm.objectives import seq2seq

DRAW = np.random.default_rng(0)
PAIRS = [Pair(f"{i} " + "a" * DRAW.integers(1, 12), "b" * DRAW.integers(1, 15) + f" {i}") for i in range(120)]
BYTE = byte.build(byte.Config())
EOT = BYTE.eot


def write(folder, pairs=PAIRS, source="en", target="de", gz=False):
    folder.mkdir(exist_ok=True)
    for end, side in ((source, 0), (target, 1)):
        text = "".join(pair[side] + "\n" for pair in pairs)
        with gzip.open(folder / f"train.{end}.gz", "wt") if gz else open(folder / f"train.{end}", "w") as file:
            file.write(text)
    return parallel.Config(path=str(folder / "train"), source=source, target=target)


@pytest.fixture
def config(tmp_path):
    return write(tmp_path / "in")


def made(config, tmp_path, source=parallel, tokenizer=BYTE, **fields):
    settings = corpus.Config(**{"seq_len": 40, "source_len": 32, "packing": "pairs", "holdout": 0.2} | fields)
    assert settings.problems() == []
    return corpus.build(settings, source, config, tokenizer, tmp_path)


def pairs_of(plan, rows=None):
    """The pairs of a plan as text, from what a model is given: segment k of the sources and of the targets."""
    rows = plan.rows(np.arange(len(plan))) if rows is None else rows
    out = []
    for r in range(len(rows["tokens"])):
        for k in range(1, rows["segments"][r].max(initial=0) + 1):
            at, read = rows["segments"][r] == k, rows["source_segments"][r] == k
            source, tokens, following = rows["source_tokens"][r][read], rows["tokens"][r][at], rows["next"][r][at]
            assert source[-1] == EOT and tokens[0] == EOT and (tokens[1:] == following[:-1]).all()
            for name, where in (("positions", at), ("source_positions", read)):
                np.testing.assert_array_equal(rows[name][r][where], np.arange(where.sum()))
            out.append(Pair(BYTE.decode(source[:-1]), BYTE.decode(following[:-1] if following[-1] == EOT else following)))
    return out


def test_lines_become_pairs(tmp_path):
    """Fails if a blank line moves the lines behind it: skip it in one file alone."""
    pairs = [Pair("one", "eins"), Pair("", " "), Pair("two\u2028more", "zwei"), Pair("three", "drei")]
    config, want = write(tmp_path / "in", pairs), [pairs[0], *pairs[2:]]
    assert list(parallel.documents(config)) == want
    zipped = write(tmp_path / "gz", pairs, gz=True)
    assert list(parallel.documents(zipped)) == want
    both = parallel.Config(f"{config.path}, {zipped.path}", "en", "de")
    assert list(parallel.documents(both)) == want * 2
    (tmp_path / "in" / "train.en").write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo\xe2\x80\xa8more\r\nthree")
    assert list(parallel.documents(config)) == want


def test_the_sides_of_a_fingerprint(tmp_path, config):
    """Fails if the direction is left out: the files of parallel.fingerprint sorted by name."""
    turned = parallel.Config(config.path, "de", "en")
    found = [parallel.fingerprint(c) for c in (config, turned, write(tmp_path / "more", PAIRS[:-1]))]
    assert len({json.dumps(f, sort_keys=True) for f in found}) == 3
    fields = jsonl.Config(path=config.path + ".en", field="a"), jsonl.Config(path=config.path + ".en", field="a", target_field="b")
    assert jsonl.fingerprint(fields[0]) != jsonl.fingerprint(fields[1]) and "target_field" not in jsonl.fingerprint(fields[0])


@pytest.mark.parametrize("change,words", [
    (lambda f: (f / "train.de").write_text("eins\nzwei\n"), "train.en has 120 lines and .*train.de has 2 lines"),
    (lambda f: (f / "train.en").write_text("one\n"), "train.en has 1 lines and .*train.de has 120 lines"),
    (lambda f: (f / "train.de").write_text("x\n" * 6 + "\n" + "x\n" * 113), "line 7 of .*train.en and .*train.de has a source without a target"),
    (lambda f: (f / "train.en").write_text(" \n" + "x\n" * 119), "line 1 of .* has a target without a source"),
    (lambda f: (f / "train.de").unlink(), "neither .*train.de nor .*train.de.gz is there"),
    (lambda f: (f / "train.de").rename(f / "train.ge"), "did you mean 'train.ge'"),
    (lambda f: gzip.open(f / "train.de.gz", "w").close(), "plain and as .gz"),
    (lambda f: (f / "train.de").write_bytes(b"ok\n\xff\n" + b"x\n" * 118), "train.de:2 is not UTF-8"),
    (lambda f: (f / "train.de").write_bytes(b"o\0k\n" + b"x\n" * 119), "train.de:1 holds a NUL byte"),
    (lambda f: [(f / f"train.{e}").write_text("\n\n") for e in ("en", "de")], "no line that is not blank"),
])
def test_bad_files_are_one_error_and_leave_nothing(tmp_path, config, change, words):
    """Fails if a shorter file ends the pairs: zip in the place of zip_longest."""
    change(tmp_path / "in")
    with pytest.raises(UserError, match=words):
        made(config, tmp_path)
    assert not list((tmp_path / "cache").glob("*-*")) if (tmp_path / "cache").exists() else True


@pytest.mark.parametrize("rows,words", [
    ([{"q": "x", "a": "y"}, {"q": "x"}], "2 has no field 'a'.*set source.target_field"),
    ([{"q": "x", "a": " "}], "1 has a source without a target"),
    ([{"q": "", "a": "y"}], "1 has a target without a source"),
    ([{"q": "x", "a": 3}], "field 'a' is a int.*source.target_field"),
])
def test_jsonl_pairs(tmp_path, rows, words):
    path = tmp_path / "in.jsonl"
    write = lambda rows: path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = jsonl.Config(path=str(path), field="q", target_field="a")
    write([{"q": "x", "a": "y"}, {"q": " ", "a": ""}, {"a": "v", "q": "u"}])
    assert list(jsonl.documents(config)) == [Pair("x", "y"), Pair("u", "v")]
    write(rows)
    with pytest.raises(UserError, match=words):
        list(jsonl.documents(config))
    assert "both 'q'" in jsonl.Config(path="x", field="q", target_field="q").problems()[0]


def test_every_pair_is_whole_and_there_once(tmp_path, config):
    """Held out by the content of both sides, the rest in rows. Fails if held_out looks at the source alone: `document[0]` in
    store.held_out, or a source's segment is not its target's: `segment + 1` for one of them in Pairs.rows."""
    found = made(config, tmp_path)
    held = [p for p in PAIRS if store.held_out(p, 0.2)]
    assert 5 < len(held) < 50 and {store.held_out(Pair("same", p.target), 0.2) for p in PAIRS} == {True, False}
    assert sorted(pairs_of(found.eval)) == sorted(held)
    assert collections.Counter(pairs_of(found.train)) == collections.Counter(p for p in PAIRS if p not in held)
    rows = found.train.rows(np.arange(len(found.train)))
    assert rows["source_tokens"].shape == (len(found.train), 32) and rows["tokens"].shape == (len(found.train), 40)
    assert all(x.dtype == np.int32 for x in rows.values())
    for side in ("", "source_"):
        padding = rows[f"{side}segments"] == 0
        assert (rows[f"{side}tokens"][padding] == EOT).all() and (rows[f"{side}positions"][padding] == 0).all()
    numbers = np.concatenate([found.train.documents(i) for i in range(len(found.train))])
    assert sorted(numbers) == list(range(found.train_store.documents)) and len(found.train.documents(-1)) == 0
    for r, k in ((0, 1), (len(rows["tokens"]) - 1, 1)):  # as jaxlm generate gives a source to the model
        read = rows["source_tokens"][r][rows["source_segments"][r] == k]
        np.testing.assert_array_equal(read, source_ids(BYTE, BYTE.decode(read[:-1])))
    assert found.eval_store.head(3).targets.shape == (3,) and pairs_of(Pairs(found.eval_store.head(3), 40, 32)) != []


def test_bits_per_byte_are_of_the_targets(tmp_path, config):
    """Fails if bytes of sources or tokens of sources are counted: `sum` of both in documents.sizes, or len(tokens) in Store.predicted."""
    found = made(config, tmp_path)
    held = [p for p in PAIRS if store.held_out(p, 0.2)]
    assert found.eval_bytes == sum(len(p.target.encode()) for p in held)
    assert found.eval_tokens == found.eval_bytes + len(held) == (found.eval.rows(np.arange(len(found.eval)))["segments"] > 0).sum()


def test_rows_are_full(tmp_path):
    """As many pairs a row as fit: 2-D packing of lengths like those of translations leaves 8 % or less empty on the tighter side.
    Fails if every pair begins a row, or only the last row is tried: _OPEN = 1."""
    sizes = DRAW.normal(14, 5, 4000).clip(2, 40).astype(int)
    both = np.stack([sizes, (sizes * DRAW.normal(1.05, 0.15, 4000)).clip(1, 45).astype(int)], 1)
    offsets = np.concatenate([[0], np.cumsum(both.sum(1) + 1)])
    made_up = store.Store(np.zeros(offsets[-1] + 1, np.uint16), offsets, both[:, 1], 0, targets=offsets[:-1] + 1 + both[:, 0])
    plan = Pairs(made_up, 96, 96)
    assert max(plan.fill) > 0.92
    assert len(np.unique(np.concatenate([plan.documents(i) for i in range(len(plan))]))) == 4000


def test_what_is_too_long(tmp_path, config, capsys):
    """Refused with the lengths that it takes; cut on request, and said. Fails if a cut source loses its eot, or a cut target ends."""
    with pytest.raises(UserError, match=r"pairs are longer than data.source_len=8 or data.seq_len=40 \(the longest source has \d+ tokens"):
        made(config, tmp_path, source_len=8)
    found = made(config, tmp_path, source_len=8, seq_len=9, cut_pairs=True)
    assert "are cut, the longest of" in capsys.readouterr().err
    assert found.eval_bytes == 0  # bits per byte of parts of texts would be wrong
    train = [p for p in PAIRS if not store.held_out(p, 0.2)]
    assert sorted(pairs_of(found.train)) == sorted(Pair(p.source[:7], p.target[:9]) for p in train)
    ends = found.train.rows(np.arange(len(found.train)))
    assert (ends["next"] == EOT)[ends["segments"] > 0].sum() == sum(len(p.target) < 9 for p in train)


def test_the_batch_is_a_function_of_seed_step_and_row(tmp_path, config):
    """Any number of hosts; a second corpus from the cache; the start of each target. Fails if prepare lets eot stand there."""
    train = made(config, tmp_path).train
    vocabulary = byte.build(byte.Config(("<s>",))).vocabulary
    object.__setattr__(vocabulary, "start", 257)
    prepare = seq2seq.build(seq2seq.Config(), vocabulary).prepare
    whole = pipeline.make(sampler.Sampler(train, 8, 3), prepare, 5)
    again = sampler.Sampler(made(config, tmp_path).train, 8, 3)
    for hosts in (2, 4):
        parts = [pipeline.make(again, prepare, 5, slice(i * 8 // hosts, (i + 1) * 8 // hosts)) for i in range(hosts)]
        for name, x in whole.items():
            np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), x, err_msg=name)
    begins = (whole["segments"] > 0) & (whole["positions"] == 0)
    assert (whole["tokens"][begins] == 257).all() and (whole["tokens"][~begins] != 257).all()
    np.testing.assert_array_equal(whole["weights"], whole["segments"] > 0)
    assert {*whole} == {"tokens", "targets", "segments", "positions", "weights", "source_tokens", "source_segments", "source_positions"}


def test_a_tokenizer_learns_from_both_sides(tmp_path, config):
    """Fails if a tokenizer is given one side of each pair: `(d[0] for d in ...)` in store.training_side."""
    settings = corpus.Config(holdout=0.2, packing="pairs")
    learned = corpus.tokenizer(settings, parallel, config, bpe, bpe.Config(300), tmp_path)
    texts = [text for p in PAIRS if not store.held_out(p, 0.2) for text in p]
    assert learned.fingerprint == bpe.build(bpe.Config(300), lambda: iter(texts)).fingerprint
    assert len(learned.encode("aaaa")) < 4 and len(learned.encode("bbbb")) < 4


def test_texts_and_pairs_are_not_mixed_up(tmp_path, config):
    """Fails if windows of a stream run through sources and targets alike."""
    with pytest.raises(UserError, match="packing='windows' and the source yields pairs: set data.packing to 'pairs'"):
        made(config, tmp_path, packing="windows")
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "x"}\n')
    with pytest.raises(UserError, match="yields texts: take source=parallel"):
        made(jsonl.Config(path=str(path)), tmp_path, jsonl)
    assert [p.split("=")[0] for p in corpus.Config(source_len=-1).problems()] == ["data.source_len"]
    names = [found.fingerprint for found in (made(config, tmp_path), made(config, tmp_path, source_len=33), made(config, tmp_path, cut_pairs=True))]
    assert len({json.dumps(n, sort_keys=True) for n in names}) == 3

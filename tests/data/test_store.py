# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The token store: its layout, its split, and that it is whole or absent whatever happens to its builders."""
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxlm.core import files
from jaxlm.core.errors import UserError
from jaxlm.data import store
from jaxlm.data.tokenizers import byte

BYTE = byte.build(byte.Config())
TEXTS = [f"document {i} " * (i % 7 + 1) for i in range(200)]


def build(cache, which="train", holdout=0.1, texts=TEXTS, tokenizer=BYTE, **more):
    identity = {"source": "test", "n": len(texts)}
    return store.build(cache, lambda: iter(texts), identity, tokenizer, holdout, which, **more)


def folders(cache):
    return sorted(p.name for p in cache.iterdir() if p.is_dir())


def texts_of(s):
    return {bytes(s.document(i).astype(np.uint8)).decode() for i in range(s.documents)}


def test_layout(tmp_path):
    s = build(tmp_path, holdout=0.0, texts=["ab", "", "é", "c"])
    assert s.tokens.dtype == np.uint16 and s.tokens.tolist() == [256, 97, 98, 256, 0xC3, 0xA9, 256, 99, 256]
    assert s.offsets.tolist() == [0, 3, 6, 8] and s.bytes.tolist() == [2, 2, 1] and s.documents == 3 and s.eot == 256
    assert s.slice(1, 3).tolist() == [97, 98] and s.slice(1, 3).dtype == np.int32
    assert s.document(2).tolist() == [99]
    head = s.head(2)
    assert head.tokens.tolist() == [256, 97, 98, 256, 0xC3, 0xA9, 256] and head.documents == 2
    assert s.head(99).documents == 3


def test_a_large_vocabulary_takes_four_bytes(tmp_path):
    class Large(type(BYTE)):
        def __init__(self):
            super().__init__()
            self.vocab_size = (1 << 16) + 1
    assert build(tmp_path, tokenizer=Large()).tokens.dtype == np.uint32


def test_one_pass_writes_both_sides_and_documents_never_move(tmp_path):
    """Fails if held_out looks at anything but the text, the position say."""
    passes = []

    def documents():
        passes.append(1)
        return iter(TEXTS)
    sides = {which: store.build(tmp_path, documents, {}, BYTE, 0.1, which) for which in ("train", "eval")}
    again = {which: store.build(tmp_path, documents, {}, BYTE, 0.1, which) for which in ("train", "eval")}
    assert len(passes) == 1 and all(again[w].documents == sides[w].documents for w in sides)
    found = {which: texts_of(s) for which, s in sides.items()}
    assert found["train"] | found["eval"] == set(TEXTS) and not found["train"] & found["eval"]
    assert 5 <= sides["eval"].documents <= 40
    held = texts_of(build(tmp_path / "more", "eval", 0.1, texts=["new", *reversed(TEXTS)]))
    assert found["eval"] <= held <= found["eval"] | {"new"}
    assert found["eval"] <= {t for t in TEXTS if store.held_out(t, 0.3)}
    assert set(store.training_side(iter(TEXTS), 0.1)) == found["train"]


def test_another_source_tokenizer_or_holdout_is_another_store(tmp_path):
    build(tmp_path)
    build(tmp_path, texts=TEXTS[:100])
    build(tmp_path, holdout=0.2)
    build(tmp_path, tokenizer=byte.build(byte.Config(("<|mask|>",))))
    assert len(folders(tmp_path)) == 8


def test_a_side_without_documents(tmp_path):
    with pytest.raises(UserError, match="eval side with data.holdout=0.0.*raise data.holdout"):
        build(tmp_path, "eval", 0.0)
    with pytest.raises(UserError, match="train side.*lower data.holdout"):
        build(tmp_path, "train", 1.0)
    assert build(tmp_path, "eval", 1.0).documents == 200
    with pytest.raises(UserError, match="must be in"):
        build(tmp_path, holdout=1.5)
    with pytest.raises(ValueError, match="which"):
        build(tmp_path, "test")


@pytest.mark.parametrize("name, spoil, verify, words", [
    ("tokens.bin", lambda b: b[:50] + b"\xff" + b[51:], True, "wrong checksum"),
    ("tokens.bin", lambda b: b[:-2], False, "instead of"),
    ("offsets.npy", lambda b: b[:-8], False, "instead of"),
    ("bytes.npy", lambda b: b"\0" * len(b), True, "wrong checksum"),
    ("bytes.npy", lambda b: b"\0" * len(b), False, "damaged"),
    ("meta.json", lambda b: b[:-20], False, "meta.json is damaged"),
    ("meta.json", lambda b: b"[]", False, "meta.json is damaged"),
    ("meta.json", lambda b: b.replace(b'"format": 1', b'"format": 9'), False, "format 9"),
    ("offsets.npy", None, False, "cannot be read"), ("meta.json", None, False, "no meta.json")])
def test_a_damaged_store_is_named_with_the_way_out(tmp_path, name, spoil, verify, words):
    build(tmp_path)
    path = next(p for p in tmp_path.glob("train-*")) / name
    if spoil:
        path.write_bytes(spoil(path.read_bytes()))
    else:
        path.unlink()
    with pytest.raises(UserError, match="delete the folder and rerun") as e:
        build(tmp_path, verify=verify)
    assert words in str(e.value) and str(path.parent) in str(e.value)


def test_an_error_while_reading_leaves_nothing(tmp_path):
    def documents():
        yield from TEXTS
        raise UserError("bad file")
    with pytest.raises(UserError, match="bad file"):
        store.build(tmp_path, documents, {}, BYTE, 0.1)
    assert folders(tmp_path) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="data.cache_dir"):
        build(tmp_path / "file" / "cache")


BUILDER = """
import sys, time
from jaxlm.data import store
from jaxlm.data.tokenizers import byte
store._BATCH_CHARACTERS = 1000
def documents():
    for i in range(300):
        if {pause} and i == 150:
            print("half", flush=True)
            time.sleep({pause})
        yield f"document {{i}} " * 5
s = store.build({cache!r}, documents, {{}}, byte.build(byte.Config()), 0.1)
print(s.documents, flush=True)
"""


def start(cache, pause):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", BUILDER.format(cache=str(cache), pause=pause)], env=env,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_builder_leaves_no_store_and_the_next_one_cleans_up(tmp_path):
    """Fails if _write builds in the final folder, or if _remove_leftovers does nothing."""
    killed = start(tmp_path, 60)
    assert killed.stdout.readline() == "half\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert all(name.startswith(".") for name in folders(tmp_path)) and len(folders(tmp_path)) == 2
    out, err = start(tmp_path, 0).communicate(timeout=60)
    assert int(out) > 200, err
    assert [name.split("-")[0] for name in folders(tmp_path)] == ["eval", "train"]


def test_of_many_builders_one_builds_and_the_others_wait(tmp_path):
    """Fails if files.locked does not lock: the second builder would write too, and not say that it waits."""
    first = start(tmp_path, 3)
    assert first.stdout.readline() == "half\n"
    second = start(tmp_path, 0)
    outs = [p.communicate(timeout=60) for p in (first, second)]
    assert outs[0][0] == outs[1][0], outs
    assert f"waiting for process {first.pid} on " in outs[1][1] and "tokenized" not in outs[1][1]
    assert len(folders(tmp_path)) == 2


def test_without_locks_the_first_to_finish_wins_and_old_leftovers_go(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(store.errno.ENOLCK, "No locks available")
    monkeypatch.setattr(files.fcntl, "flock", refuse)
    name = store.key({}, BYTE, 0.1)
    for age, kind in ((0, "fresh"), (10**6, "old")):
        folder = tmp_path / f".train-{name}.tmp-{kind}"
        folder.mkdir()
        (folder / "tokens.bin").write_bytes(b"x")
        for path in (folder / "tokens.bin", folder):
            os.utime(path, (time.time() - age,) * 2)

    def documents():
        other = store.build(tmp_path, lambda: iter(TEXTS), {}, BYTE, 0.1)  # another host is faster
        assert other.documents
        return iter(TEXTS)
    assert store.build(tmp_path, documents, {}, BYTE, 0.1).documents
    assert folders(tmp_path) == [f".train-{name}.tmp-fresh", f"eval-{name}", f"train-{name}"]


def test_meta_says_what_is_inside(tmp_path):
    s = build(tmp_path)
    meta = json.loads((next(tmp_path.glob("train-*")) / "meta.json").read_text())
    assert meta["tokens"] == len(s.tokens) and meta["bytes"] == s.bytes.sum() and meta["tokenizer"] == BYTE.fingerprint
    assert meta["source"] == {"source": "test", "n": 200} and meta["vocab_size"] == 257

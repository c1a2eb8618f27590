# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Text and JSONL sources: order, splitting, identity, and a message with file and way out for every bad input."""
import gzip
import json
import os
import time

import pytest

from jaxlm.core.errors import UserError
from jaxlm.data import digest
from jaxlm.data.digest import Digests
from jaxlm.data.sources import files, jsonl, text


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "test").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "b" / "c.txt").write_text("third")
    (tmp_path / "b" / "empty.txt").write_text("\n")
    (tmp_path / "b" / "other.bin").write_bytes(b"\0")
    (tmp_path / "test" / "t.txt").write_text("left out")
    (tmp_path / ".git" / "g.txt").write_text("hidden")
    with gzip.open(tmp_path / "b" / "a.md.gz", "wt") as f:
        f.write("second é")
    return tmp_path


def texts(path, **fields):
    return list(text.documents(text.Config(path=str(path), **fields)))


def test_a_pattern_of_the_library_leaves_other_folders_alone(folder, monkeypatch):
    """Fails if a page's exclusions reach into the user's own text: match "{stdlib}/test" by its last part in data/sources/files.py."""
    everything = texts(folder, exclude=(".*",))
    assert texts(folder, exclude=(".*", "{stdlib}/test", "{stdlib}/*/test")) == everything
    monkeypatch.setattr(files.sysconfig, "get_paths", lambda: {"stdlib": str(folder)})
    assert texts(folder, exclude=(".*", "{stdlib}/test")) == texts(folder, exclude=(".*", "test")) != everything


def test_a_folder_gives_its_files_sorted_without_excluded_and_empty_ones(folder):
    assert texts(folder, exclude=("test", ".*")) == ["first", "second é", "third"]
    assert texts(folder, exclude=("b/c*", "test", ".*")) == ["first", "second é"]
    assert texts(folder, include=("*.md",)) == ["second é"]


def test_files_globs_and_commas(folder):
    assert texts(folder / "test" / "t.txt") == ["left out"]
    assert texts(f"{folder}/*.txt, {folder}/b/*.md.gz") == ["first", "second é"]
    assert texts(f"{folder}/**/c.txt") == ["third"]
    assert texts(f"{folder}/a.txt,{folder}") == ["first", "second é", "third", "left out"]
    (folder / "x,y.txt").write_text("comma")
    assert texts(folder / "x,y.txt") == ["comma"]


def test_the_standard_library_is_a_corpus():
    found = files.find("{stdlib}", ("*.py",), ("site-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"))
    names = [f.name for f in found]
    assert "json/decoder.py" in names and names == sorted(names) and len(names) > 300
    assert not [n for n in names if "site-packages" in n or n.startswith("test/")]


def test_splits_by_line_and_paragraph(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\ntwo\n\n \nthree\nfour".encode())
    assert texts(path) == ["one\r\ntwo\n\n \nthree\nfour"]
    assert texts(path, split="line") == ["one", "two", "three", "four"]
    assert texts(path, split="blank") == ["one\ntwo", "three\nfour"]


@pytest.mark.parametrize("raw, words", [
    (b"ok\n\xff\xfe bad", ("not UTF-8", "at byte 3")), (b"ok\0bad", ("NUL", "at byte 2")),
    ("utf sixteen".encode("utf-16-le"), ("NUL", "UTF-16", "at byte 1"))])
def test_what_is_not_text_is_named_with_its_place(tmp_path, raw, words, capsys):
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / "bad.txt").write_bytes(raw)
    with pytest.raises(UserError) as e:
        texts(tmp_path)
    assert all(w in str(e.value) for w in (*words, "bad.txt", "source.errors"))
    assert texts(tmp_path, errors="skip") == ["good"]
    assert "skipped 1 documents" in capsys.readouterr().err
    replaced = texts(tmp_path, errors="replace")
    assert replaced[0] == "good" and "\ufffd" in replaced[1] and "\0" not in replaced[1]


def test_the_offset_of_a_bad_byte_is_that_in_the_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"line one\nline \xe9 two\n")
    with pytest.raises(UserError, match="at byte 14"):
        texts(tmp_path, split="line")
    assert texts(tmp_path, split="line", errors="skip") == ["line one"]


def test_missing_empty_and_unmatched_paths(folder):
    with pytest.raises(UserError, match="does not exist, did you mean 'a.txt'"):
        texts(folder / "a.tx")
    with pytest.raises(UserError, match="matches no file"):
        texts(f"{folder}/*.nothing")
    with pytest.raises(UserError, match="no file under"):
        texts(folder, include=("*.rst",))
    with pytest.raises(UserError, match="no text"):
        texts(folder / "b" / "empty.txt")
    with pytest.raises(UserError, match="path is empty"):
        texts(" ")


def test_broken_gzip(tmp_path):
    whole = gzip.compress(os.urandom(5000).hex().encode())
    for raw in (whole[:3000], b"not gzip", whole[:100] + b"\xff\xff\xff" + whole[103:]):
        (tmp_path / "a.txt.gz").write_bytes(raw)
        with pytest.raises(UserError, match="a.txt.gz is not a complete gzip file"):
            texts(tmp_path)


def test_unreadable_file(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("x")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match="a.txt: Permission denied"):
        texts(tmp_path / "a.txt")


def test_problems():
    assert text.Config(path="x").problems() == []
    found = text.Config(split="lines", errors="ignore").problems()
    assert len(found) == 3 and "did you mean 'line'" in found[1]
    assert len(jsonl.Config(field="").problems()) == 2


def test_identity_follows_names_content_and_fields(folder):
    """Fails if the content digest is left out of files.identity."""
    config = text.Config(path=str(folder), exclude=(".*",))
    first = text.fingerprint(config)
    assert first == text.fingerprint(config) and json.loads(json.dumps(first)) == first
    (folder / "a.txt").write_text("FIRST")
    second = text.fingerprint(config)
    os.rename(folder / "a.txt", folder / "a0.txt")
    third = text.fingerprint(config)
    fourth = text.fingerprint(text.Config(path=str(folder), exclude=(".*",), split="line"))
    assert len({json.dumps(f) for f in (first, second, third, fourth)}) == 4


def test_digests_are_remembered_but_not_of_fresh_files(tmp_path, monkeypatch):
    """Fails if RACY_NS is 0: a file that changes twice within one clock tick would keep its old digest; or if a copy that brings
    its mtime along passes for what it replaces: leave st_ctime_ns out of `now`."""
    path, cache, read = tmp_path / "a", tmp_path / "cache" / "digests.json", []
    monkeypatch.setattr(digest, "of_file", lambda path, of=digest.of_file: (read.append(path), of(path))[1])

    def asked():
        digests = Digests(cache)
        found = digests(path)
        digests.save()
        return found

    path.write_bytes(b"one")
    first = asked()
    assert asked() == first and len(read) == 2 and not cache.exists()
    later = time.time_ns() + 10**10
    monkeypatch.setattr(digest.time, "time_ns", lambda: later)
    assert [asked(), asked()] == [first, first] and len(read) == 3
    then = os.stat(path)
    time.sleep(0.02)  # a tick of the file system's clock
    path.write_bytes(b"two")
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))
    second = asked()
    assert second != first and len(read) == 4
    cache.write_text("{broken")
    assert asked() == second and len(read) == 5


def rows(path, *lines):
    path.write_text("\n".join(lines))
    return list(jsonl.documents(jsonl.Config(path=str(path))))


def test_jsonl(tmp_path):
    path = tmp_path / "a.jsonl"
    assert rows(path, '{"text": "one\\ntwo"}', "", '{"text": ""}', '{"text": "é", "more": 1}') == ["one\ntwo", "é"]
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as f:
        f.write('{"text": "three"}\n')
    assert list(jsonl.documents(jsonl.Config(path=str(tmp_path)))) == ["one\ntwo", "é", "three"]
    assert jsonl.fingerprint(jsonl.Config(path=str(tmp_path)))["files"] == 2


@pytest.mark.parametrize("line, words", [
    ('{"text": "a"', "is not JSON"), ('["a"]', "is a JSON list"), ('{"txt": "a"}', "did you mean 'txt'"),
    ('{"text": 3}', "is a int, not a string"), ('{"text": null}', "is a NoneType"),
    ('{"text": "\\ud800"}', "surrogate"), ("[" * 100000, "is not JSON")])
def test_bad_jsonl_names_file_and_line(tmp_path, line, words):
    with pytest.raises(UserError, match="a.jsonl:2") as e:
        rows(tmp_path / "a.jsonl", '{"text": "ok"}', line)
    assert words in str(e.value)


def test_jsonl_without_text_or_utf8(tmp_path):
    with pytest.raises(UserError, match="no text"):
        rows(tmp_path / "a.jsonl", '{"text": " "}')
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "\xff"}')
    with pytest.raises(UserError, match="a.jsonl:1 is not UTF-8"):
        list(jsonl.documents(jsonl.Config(path=str(tmp_path))))

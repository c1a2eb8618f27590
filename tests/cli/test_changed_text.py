# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A run goes on with the text that it began with: whatever changed in the files of any source is found, whatever did not is not."""
import json
import os
import shutil
import time

import pytest

from jaxlm import build
from jaxlm.cli import experiment, resume
from jaxlm.core.errors import UserError
from tests.cli.test_refused import Kept
from tests.data import test_tfds_source as prepared

ENDS = {"text": "txt", "jsonl": "jsonl"}
LINES = [f"line {i:02} of some text" for i in range(20)]
EDITED = [*LINES[:7], "line 07 of othe text", *LINES[8:]]  # as long as it was


def write(folder, kind, name, lines):
    """A file, or two, of a source."""
    if kind == "parallel":
        for end in ("source", "target"):
            (folder / f"{name}.{end}").write_text("".join(line + "\n" for line in lines))
    else:
        row = (lambda line: json.dumps({"text": line})) if kind == "jsonl" else str
        (folder / f"{name}.{ENDS[kind]}").write_text("".join(row(line) + "\n" for line in lines))


def made(tmp_path, kind):
    """(config, folder of its files) of text, JSON lines, pairs of lines, or a data set that TFDS has prepared."""
    folder = tmp_path / "text"
    folder.mkdir()
    config = build.defaults(source=kind, tokenizer="byte", objective="seq2seq" if kind == "parallel" else "causal_lm",
                            model="t5" if kind == "parallel" else "gpt")
    config.data.update(seq_len=32, holdout=0.2, packing="pairs" if kind == "parallel" else "windows")
    if kind == "tfds":
        config.source.dataset = str(prepared.prepare(folder, texts=LINES).data_path)
    else:
        for name, lines in (("a", LINES), ("b", LINES[5:])):
            write(folder, kind, name, lines)
        config.source.path = f"{folder}/a,{folder}/b" if kind == "parallel" else str(folder)
        if kind == "text":
            config.source.split = "line"
    return config, folder


def edited(config, folder, kind):
    """A letter here and there, and all sizes and times as they were."""
    if kind == "tfds":
        prepared.prepare(folder.parent / "again", texts=EDITED)
        for old in folder.rglob("*array_record*"):
            new = folder.parent / "again" / old.relative_to(folder)
            assert old.stat().st_size == new.stat().st_size
            shutil.copy(new, old)
        return
    for path in folder.glob("a.*"):
        before = path.stat()
        path.write_text(path.read_text().replace("line 07 of some", "line 07 of othe"))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size


def added(config, folder, kind):
    write(folder, kind, "c", LINES[:1])
    if kind == "parallel":
        config.source.path += f",{folder}/c"


def exchanged(config, folder, kind):
    """The same documents in another order."""
    for path in folder.glob("a.*"):
        path.rename(folder / "x")
        path.with_name(path.name.replace("a.", "b.")).rename(path)
        (folder / "x").rename(path.with_name(path.name.replace("a.", "b.")))


def other_version(config, folder, kind):
    """The same files under another version of the data set."""
    old = folder / "corpus" / "1.0.0"
    new = old.rename(old.with_name("1.0.1"))
    info = new / "dataset_info.json"
    info.write_text(info.read_text().replace('"version": "1.0.0"', '"version": "1.0.1"'))
    config.source.dataset = str(new)


def other_field(config, folder, kind):
    config.source.field = "pair/en"


KINDS = {"text": (edited, added, exchanged), "jsonl": (edited, added, exchanged), "parallel": (edited, added, exchanged),
         "tfds": (edited, other_version, other_field)}


def test_every_source_is_here():
    assert set(KINDS) == set(build.names("source"))


def text(config, folder, kept=None):
    """What the text of that config is told from others by; as of a run that goes on from a checkpoint when `kept` is given."""
    tokenizer, corpus = experiment.text(config, folder / "run")
    if kept is not None:
        # Settings are compared besides: here they are to be of no help.
        kept.stored["config"] = build.to_json(config)
        resume.check(config, tokenizer, corpus.fingerprint, kept)
    return corpus.fingerprint


@pytest.mark.parametrize("kind,change", [(kind, change) for kind, changes in KINDS.items() for change in changes])
def test_changed_text_is_refused(tmp_path, monkeypatch, kind, change):
    """Fails if the contents of files are no part of a source's fingerprint: sizes for `digests(file.path)` in files.identity; or a
    digest outlives what it is of: leave st_ctime_ns out of Digests."""
    config, folder = made(tmp_path, kind)
    later = time.time_ns() + 10**10  # files are not fresh any more, and their digests are kept
    monkeypatch.setattr(time, "time_ns", lambda: later)
    kept = Kept(config)
    kept.stored["data"] = text(config, tmp_path)
    assert (tmp_path / "run" / "cache" / "digests.json").exists()
    for path in folder.rglob("*"):
        path.touch()
    text(config, tmp_path, kept)  # the same contents, of another time
    time.sleep(0.02)  # a tick of the file system's clock
    change(config, folder, kind)
    with pytest.raises(UserError, match="the text is not what the checkpoint was trained on"):
        text(config, tmp_path, kept)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Two line-aligned files, as translations are published: line n of one is the source, line n of the other its target."""
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator
from typing import ClassVar

from jaxlm.core.errors import UserError, nearest
from jaxlm.data import documents as of
from jaxlm.data.digest import Digests
from jaxlm.data.sources import files


@dataclasses.dataclass(frozen=True)
class Config:
    """path: what the names of both files begin with, several separated by commas; source, target: how they end.

    path=data/train, source=en and target=de read data/train.en and data/train.de, or data/train.en.gz and data/train.de.gz.
    """
    path: str = ""
    source: str = "source"
    target: str = "target"

    pairs: ClassVar[bool] = True  # its documents are pairs

    def problems(self) -> list[str]:
        found = [] if self.path.strip() else [
            "source.path is empty: name what both files begin with, such as data/train of data/train.en and data/train.de"]
        found += [f"source.{name} is empty: name how its file ends, such as en of train.en" for name in ("source", "target")
                  if not getattr(self, name)]
        if self.source and self.source == self.target:
            found.append(f"source.source and source.target are both {self.source!r}: sources and targets are two files")
        return found


def documents(config: Config) -> Iterator[of.Pair]:
    """The pairs in the order of the lines; lines that are blank in both files are left out. UserError names the file and line."""
    count = 0
    for pair in _files(config):
        with files.opened(pair[0].path) as sources, files.opened(pair[1].path) as targets:
            lines = itertools.zip_longest(files.lines(sources), files.lines(targets))
            for number, both in enumerate(lines, start=1):
                if None in both:
                    raise _unequal(pair, number + sum(1 for _ in lines), number - 1, shorter=both.index(None))
                texts = [_decode(line, f"{file.path}:{number}", number == 1) for (_, line), file in zip(both, pair)]
                found = of.pair(*texts, f"line {number} of {pair[0].path} and {pair[1].path}")
                if found is not None:
                    count += 1
                    yield found
    if not count:
        raise UserError(f"no text under source.path={config.path!r}: its files hold no line that is not blank")


def fingerprint(config: Config, digests: Callable[[str], str] | None = None) -> dict:
    """What the documents depend on: both files' names and contents, the source first."""
    found = [file for pair in _files(config) for file in pair]
    known = files.identity(found, digests or Digests())
    if not any(file.path.endswith(".gz") for file in found):
        known["text_bytes"] = known["stored_bytes"]
    return {"source": "parallel"} | known


def _files(config: Config) -> list[tuple[files.File, files.File]]:
    begins = [os.path.expanduser(part.strip()) for part in config.path.split(",") if part.strip()]
    return [(_file(begin, config.source), _file(begin, config.target)) for begin in begins]


def _file(begin: str, end: str) -> files.File:
    wanted = f"{begin}.{end}"
    there = [path for path in (wanted, f"{wanted}.gz") if os.path.isfile(path)]
    if len(there) > 1:
        raise UserError(f"source.path: {wanted} is there plain and as .gz: remove one")
    if not there:
        folder, name = os.path.split(wanted)
        try:
            hint = nearest(name, os.listdir(folder or "."))
        except OSError:
            hint = ""
        raise UserError(f"source.path: neither {wanted} nor {wanted}.gz is there{hint} (looked from {os.getcwd()}): source.path is what "
                        "the names of both files begin with, source.source and source.target how they end")
    return files.File(os.path.basename(there[0]), there[0])


def _decode(line: bytes, where: str, first: bool) -> str:
    try:
        text = line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as e:
        raise UserError(f"{where} is not UTF-8 ({e.reason} at byte {e.start} of the line): convert the file to UTF-8") from e
    if "\0" in text:
        raise UserError(f"{where} holds a NUL byte, so it is a binary file or UTF-16: convert the file to UTF-8")
    return text


def _unequal(pair: tuple[files.File, files.File], longer: int, shorter_lines: int, shorter: int) -> UserError:
    counts = [shorter_lines if side == shorter else longer for side in (0, 1)]
    said = " and ".join(f"{file.path} has {count} lines" for file, count in zip(pair, counts))
    return UserError(f"{said}: line n of one must be the target of line n of the other; repair or fetch them again")

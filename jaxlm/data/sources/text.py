# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Plain text files: one document per file, line or paragraph.

The default `errors="strict"` stops at the first file that is not UTF-8 text and its place; nothing is silently altered.
"""
import dataclasses
from collections.abc import Callable, Iterator

from jaxlm.core.errors import UserError, nearest
from jaxlm.core.log import say
from jaxlm.data.digest import Digests
from jaxlm.data.sources import files

SPLITS = ("file", "line", "blank")
ERRORS = ("strict", "replace", "skip")


@dataclasses.dataclass(frozen=True)
class Config:
    """`path`: file, folder or glob, several separated by commas; {stdlib} is the folder of Python's standard library.

    split: one document per "file", per "line", or per paragraph ("blank" lines between). errors, for what is not UTF-8
    text: "strict" stops, "replace" puts U+FFFD in place, "skip" leaves the document out and says how many.
    """
    path: str = ""
    include: tuple = ("*.txt", "*.md", "*.py")
    exclude: tuple = (".*", "__pycache__")
    split: str = "file"
    errors: str = "strict"

    def problems(self) -> list[str]:
        found = []
        if not self.path.strip():
            found.append("source.path is empty: name a file, a folder or a glob ({stdlib} is Python's own library)")
        for name, value, known in (("split", self.split, SPLITS), ("errors", self.errors, ERRORS)):
            if value not in known:
                found.append(f"source.{name}={value!r} is unknown{nearest(value, known)}: use one of "
                             f"{', '.join(known)}")
        return found


def documents(config: Config) -> Iterator[str]:
    """The documents, in the order of the sorted files; empty ones are left out. Raises UserError."""
    count = 0
    skipped: list[str] = []
    for file in files.find(config.path, config.include, config.exclude):
        with files.opened(file.path) as f:
            for offset, raw in _pieces(f, config.split):
                text = _decode(raw, offset, file.path, config.errors, skipped)
                if text.strip():
                    count += 1
                    yield text
    if skipped:
        say(f"text source: skipped {len(skipped)} documents that are not UTF-8 text, the first in {skipped[0]}")
    if not count:
        raise UserError(f"no text under source.path={config.path!r}: its files are empty"
                        + (" or were all skipped" if skipped else ""))


def fingerprint(config: Config, digests: Callable[[str], str] | None = None) -> dict:
    """What the documents depend on: file names and contents, and how they are split."""
    found = files.find(config.path, config.include, config.exclude)
    known = files.identity(found, digests or Digests())
    if config.split == "file" and not any(f.path.endswith(".gz") for f in found):
        known["text_bytes"] = known["stored_bytes"]
    return {"source": "text", "split": config.split, "errors": config.errors} | known


def _pieces(f, split: str) -> Iterator[tuple[int, bytes]]:
    """(byte offset, raw document); the byte order mark some editors write is no text."""
    mark = b"\xef\xbb\xbf"
    if split == "file":
        raw = f.read()
        yield (3, raw[3:]) if raw.startswith(mark) else (0, raw)
        return
    start, paragraph = 0, []
    for offset, line in files.lines(f):
        if not offset and line.startswith(mark):
            offset, line = 3, line[3:]
        if split == "line":
            yield offset, line
        elif line.strip():
            if not paragraph:
                start = offset
            paragraph.append(line)
        elif paragraph:
            yield start, b"\n".join(paragraph)
            paragraph = []
    if paragraph:
        yield start, b"\n".join(paragraph)


def _decode(raw: bytes, offset: int, path: str, errors: str, skipped: list[str]) -> str:
    """Text of one document; "" for one skipped, whose place is added to `skipped`."""
    nul = raw.find(b"\0")
    try:
        text, wrong = raw.decode("utf-8"), None
    except UnicodeDecodeError as e:
        text, wrong = "", e
    if nul < 0 and wrong is None:
        return text
    if errors == "replace":
        return raw.decode("utf-8", "replace").replace("\0", "\ufffd")
    if nul >= 0 and (wrong is None or nul < wrong.start):
        what, at = "holds a NUL byte, so it is a binary file or UTF-16", offset + nul
    else:
        what, at = f"is not UTF-8 ({wrong.reason})", offset + wrong.start
    if errors == "skip":
        skipped.append(f"{path} at byte {at}")
        return ""
    raise UserError(f"{path} {what}, at byte {at}: convert it to UTF-8, add it to source.exclude, or set "
                    "source.errors='skip' or 'replace'")

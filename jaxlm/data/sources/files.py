# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""From the `path` a user wrote to the files it means, in a fixed order, and their lines; plain or gzip.

What is wrong with a file (missing, unreadable, damaged) is said with its name and the way out.
"""
import contextlib
import dataclasses
import fnmatch
import glob
import gzip
import os
import sysconfig
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

from jaxlm.core.errors import UserError, nearest
from jaxlm.data import digest


@dataclasses.dataclass(frozen=True)
class File:
    """A file to read: its name relative to where the search began (part of the corpus identity), and where it lies."""
    name: str
    path: str


def find(path: str, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> list[File]:
    """The files that `path` means: a file, folder or glob, or several separated by commas, each in its sorted order.

    `{stdlib}` stands for the folder of Python's standard library, `~` for the home folder. Inside a folder, `include`
    selects by globs on the file name or the relative path (`*.txt` also takes `a.txt.gz`), and `exclude` drops
    what matches in the relative path or any one of its parts, so it names folders too; a pattern with {stdlib} is
    held against the whole path, so that a page may leave out parts of that library and nothing of other folders.
    A file named outright is always taken.
    Raises UserError where a part of `path` names nothing or nothing is selected.
    """
    if not path.strip():
        raise UserError("source.path is empty: name a file, a folder or a glob ({stdlib} is Python's own library)")
    exclude = tuple(_expand(p) if "{stdlib}" in p else p for p in exclude)
    whole = _expand(path)
    parts = [whole] if os.path.exists(whole) else [_expand(p) for p in path.split(",") if p.strip()]
    found: dict[str, File] = {}
    for part in parts:
        for file in _part(part, include, exclude):
            found.setdefault(os.path.abspath(file.path), file)
    if not found:
        raise UserError(f"no file under {path!r} matches include={include} exclude={exclude}: change source.include or "
                        "source.exclude")
    return list(found.values())


def _expand(part: str) -> str:
    return os.path.expanduser(part.strip().replace("{stdlib}", sysconfig.get_paths()["stdlib"]))


def _part(part: str, include: tuple[str, ...], exclude: tuple[str, ...]) -> list[File]:
    if os.path.isfile(part):
        return [File(os.path.basename(part), part)]
    if os.path.isdir(part):
        return _folder(part, part, include, exclude)
    if os.path.exists(part):
        raise UserError(f"source.path {part} is neither a file nor a folder")
    if glob.has_magic(part):
        start = os.path.dirname(part[:min(part.find(c) for c in "*?[" if c in part)])
        files: list[File] = []
        for match in sorted(glob.glob(part, recursive=True)):
            name = os.path.relpath(match, start or ".").replace(os.sep, "/")
            if _excluded(name, match, exclude):
                continue
            files += _folder(match, start, include, exclude) if os.path.isdir(match) else [File(name, match)]
        if not files:
            raise UserError(f"source.path {part} matches no file")
        return files
    folder, name = os.path.split(part.rstrip(os.sep))
    while folder and not os.path.isdir(folder):
        folder, name = os.path.split(folder)
    try:
        hint = nearest(name, os.listdir(folder or "."))
    except OSError:
        hint = ""
    raise UserError(f"source.path {part} does not exist{hint} (looked from {os.getcwd()})")


def _folder(folder: str, start: str, include: tuple[str, ...], exclude: tuple[str, ...]) -> list[File]:
    """Files under `folder`, sorted by name; names are relative to `start`."""
    files = []

    def unreadable(error: OSError) -> None:
        raise UserError(f"cannot list {error.filename}: {error.strerror}; fix its permissions or add it to "
                        "source.exclude")

    for here, folders, names in os.walk(folder, onerror=unreadable):
        relative = os.path.relpath(here, start).replace(os.sep, "/")
        prefix = "" if relative == "." else relative + "/"
        folders[:] = [f for f in folders if not _excluded(prefix + f, os.path.join(here, f), exclude)]
        files += [File(prefix + n, os.path.join(here, n)) for n in names
                  if _included(prefix + n, include) and not _excluded(prefix + n, os.path.join(here, n), exclude)
                  and os.path.isfile(os.path.join(here, n))]
    return sorted(files, key=lambda file: file.name)


def _included(name: str, include: tuple[str, ...]) -> bool:
    plain = name.removesuffix(".gz")
    base = plain.rsplit("/", 1)[-1]
    return not include or any(fnmatch.fnmatchcase(n, p) for p in include for n in (base, plain, name))


def _excluded(name: str, path: str, exclude: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(n, p) for p in exclude for n in (name, *name.split("/"), path))


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """`with opened(path) as f`: the bytes of a file, gzip undone; what goes wrong while reading becomes a UserError."""
    try:
        with gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb") as f:
            yield f
    except (gzip.BadGzipFile, EOFError, zlib.error) as e:
        raise UserError(f"{path} is not a complete gzip file ({e}): fetch it again, or drop the .gz if it is not "
                        "compressed") from e
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror or e}; fix its permissions or add it to "
                        "source.exclude") from e


def identity(found: list[File], digests: Callable[[str], str]) -> dict:
    """Content identity of files: how many, their bytes as stored, one digest over all names and contents in order."""
    parts = []
    for file in found:
        try:
            parts += [file.name.encode("utf-8", "surrogateescape"), digests(file.path).encode()]
        except OSError as e:
            raise UserError(f"cannot read {file.path}: {e.strerror}; fix its permissions or leave it out") from e
    return {"files": len(found), "stored_bytes": sum(os.path.getsize(f.path) for f in found),
            "content": digest.of_bytes(*parts)}


def lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(byte offset, line without its line end) of an open file."""
    offset = 0
    for line in file:
        yield offset, line.rstrip(b"\r\n")
        offset += len(line)

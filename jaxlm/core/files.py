# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Files and folders that are whole or absent, whenever the process dies."""
import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from jaxlm.core.errors import UserError


def write_atomically(path: pathlib.Path, content: str) -> None:
    """Write beside `path`, then rename; processes that write the same file at once do not meet."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(content, encoding="utf-8")
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def new_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to fill beside `path`, which becomes `path` at the end, or vanishes. UserError where `path` is taken."""
    path = path.resolve()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path} is there already: name a new folder, or remove it")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            partial.mkdir(parents=True)
            yield partial
            partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from error

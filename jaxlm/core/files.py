# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Small files that are whole or absent, whenever the process dies."""
import os
import pathlib


def write_atomically(path: pathlib.Path, content: str) -> None:
    """Write beside `path`, then rename; processes that write the same file at once do not meet."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(content, encoding="utf-8")
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise

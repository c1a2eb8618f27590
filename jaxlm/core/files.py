# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Files and folders that are whole or absent, whenever the process dies, and that one process at a time writes."""
import contextlib
import errno
import fcntl
import os
import pathlib
import shutil
import socket
from collections.abc import Callable, Iterator

from jaxlm.core.errors import UserError


def write_atomically(path: pathlib.Path, content: str) -> None:
    """Write beside `path`, then rename; processes that write the same file at once do not meet."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a name may outlive a power cut that its content does not
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(path: pathlib.Path, taken: Callable[[str], None]) -> Iterator[bool]:
    """Hold the lock file `path`. Where another process holds it, taken("process PID on HOST") is called, which may raise, and then it
    is waited for. The kernel frees it when a process dies. False where the file system has no locks."""
    with open(path, "a+") as file:
        held = True
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                taken(file.read().strip() or "another process")
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
                raise
            held = False
        if held:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield held


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

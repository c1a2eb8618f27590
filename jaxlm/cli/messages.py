# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What the command line says: its help, and a library's error as one line that names the field."""
import errno
import logging
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from absl import flags

from jaxlm import build
from jaxlm.core.errors import UserError

FLAGS = flags.FLAGS


def usage(command: Callable) -> None:
    """What the command does, its flags, and every field of a config with its default."""
    print(command.__globals__["__doc__"].strip() + "\n")
    for module, found in FLAGS.flags_by_module_dict().items():
        if module.startswith("jaxlm") or module == sys.argv[0]:
            print("\n".join(f"  --{flag.name}: {flag.help} (default: {flag.default})" for flag in found))
    print("  --config: a page (configs/gpt_tiny.py) or the config.json of a run\n"
          "  --config.SECTION.FIELD=VALUE: one field; these are there, with the defaults of gpt on text:\n")
    print(build.show(build.defaults()))
    sys.exit(0)


def explain(error: Exception) -> str:
    """What the libraries behind the flags raise, as one line."""
    text = str(error.args[0]) if error.args else ""
    guess = re.search(r'Did you mean "(\w+)" instead of "(\w+)"', text)
    if guess:
        return f"--config: there is no field '{guess[2]}', did you mean '{guess[1]}'?"
    missing = isinstance(error, (AttributeError, KeyError)) and re.fullmatch(r"\W*(\w+)\W*", text)
    if missing:
        return f"--config: there is no field '{missing[1]}'"
    lines = [line for line in text.splitlines() if line.strip()]
    if "Traceback" in text:  # a page that raised: its last line says why
        return lines[-1].removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")
    return " ".join(lines) if isinstance(error, flags.Error) else f"--config: {type(error).__name__}: {' '.join(lines)}"


_ROOM = "What was written before is intact: make room and run the same command again"
_RIGHT = "Give this user the right to it, or name another folder"
_FOLDER = "A folder is needed there: name another"
_WAYS = {errno.ENOSPC: _ROOM, errno.EDQUOT: _ROOM, errno.EACCES: _RIGHT, errno.EPERM: _RIGHT, errno.EROFS: _RIGHT,
         errno.EEXIST: _FOLDER, errno.ENOTDIR: _FOLDER}


def of_disk(error: Exception, workdir: str | None) -> str:
    """What a disk refuses, with the way out; "" for another error."""
    way = _WAYS.get(error.errno) if isinstance(error, OSError) else None
    return f"{error.filename or workdir}: {error.strerror}. {way}" if way else ""


# TensorStore's callbacks of a failed save find their loop closed.
_LATE = "Event loop is closed"


def quiet_failed_saves() -> None:
    """Orbax raises a failed save, which is told in one line. Here go what it and the libraries below print of it besides, by five ways:
    its log, asyncio's of tasks that nobody waits for any more, both of Python's hooks, and warnings of what never began."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(lambda record: not (record.exc_info and _of_orbax(record)))
    warnings.filterwarnings("ignore", r"coroutine 'async_serialize", RuntimeWarning)
    sys.excepthook, sys.unraisablehook = _uncaught, _unraisable


def _of_orbax(record: logging.LogRecord) -> bool:
    """Orbax wrote it; or asyncio, of a task that is named after it or, of a bare future, of an error that passed through its code."""
    passed = "".join(frame.f_code.co_filename for frame, _ in traceback.walk_tb(record.exc_info[2])) if record.name == "asyncio" else ""
    return "orbax" in record.pathname + record.getMessage() + passed


def _uncaught(kind: type[BaseException], error: BaseException, trace: object) -> None:
    if str(error) != _LATE:
        sys.__excepthook__(kind, error, trace)


def _unraisable(found: Any) -> None:
    if str(found.exc_value) != _LATE:
        sys.__unraisablehook__(found)

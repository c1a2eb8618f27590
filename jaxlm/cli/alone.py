# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""One run at a time in a folder: two would take turns in writing checkpoints and figures, and each go on from the other's."""
import contextlib
import pathlib
from collections.abc import Iterator

from jaxlm.core import files
from jaxlm.core.errors import UserError
from jaxlm.core.log import say
from jaxlm.parallel import processes


@contextlib.contextmanager
def alone(workdir: pathlib.Path) -> Iterator[None]:
    """While open, no other run writes in that folder; UserError where one does. Of several processes the first holds it for all."""
    with contextlib.ExitStack() as held:
        processes.in_turn(lambda: held.enter_context(_locked(workdir)) if processes.first() else None)
        yield


@contextlib.contextmanager
def _locked(workdir: pathlib.Path) -> Iterator[None]:
    def taken(who: str) -> None:
        raise UserError(f"--workdir={workdir}: {who} trains in this folder. Wait until it has ended, or name another folder")

    workdir.mkdir(parents=True, exist_ok=True)
    with files.locked(workdir / ".running", taken) as locked:
        if not locked:
            say(f"the file system of {workdir} has no locks: nothing keeps another run from writing there")
        yield

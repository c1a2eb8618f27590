# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Deleting from a folder of checkpoints, so that no step is ever seen half there."""
import time

from etils import epath

_UNFINISHED = ".orbax-checkpoint-tmp"  # Orbax's mark on a step being written
_DROPPED = ".dropped"  # ours on a step being deleted


def dropped(step: epath.Path) -> epath.Path:
    """The name under which a step is deleted: one that is no step's."""
    return step.parent / f"{step.name}{_DROPPED}"


def sweep(path: epath.Path, seconds: float = 10.0) -> None:
    """Delete what a save or a deletion has left unfinished in `path`. OSError when it is still there after `seconds`.

    Orbax tells of a failed save while TensorStore still writes other arrays of it: the folder gains files while it is
    deleted (ENOTEMPTY), or comes back. So it is deleted until a later look finds nothing.
    """
    until = time.monotonic() + seconds
    while left := [item for item in path.iterdir() if _UNFINISHED in item.name or item.name.endswith(_DROPPED)]:
        for item in left:
            try:
                item.rmtree()
            except OSError:
                if time.monotonic() > until:
                    raise
        time.sleep(0.05)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What a save leaves unfinished goes, also while its last files are still arriving."""
import threading
import time

import jax.numpy as jnp
import pytest
from etils import epath

from jaxlm.checkpoints import folder
from jaxlm.checkpoints.manager import Checkpoints, Config
from jaxlm.core.errors import UserError


class Writer(threading.Thread):
    """Makes files, and their folders again where they have gone, as TensorStore does, for some seconds."""

    def __init__(self, path, seconds):
        super().__init__(daemon=True)
        self.path, self.until, self.made = path, time.monotonic() + seconds, 0

    def run(self):
        while time.monotonic() < self.until:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                (self.path / f"{self.made}").write_bytes(b"1")
                self.made += 1
            except OSError:  # its folder was deleted between the two
                pass


def test_it_stays_away_from_a_writer_that_ends(tmp_path):
    """Fails if `sweep` deletes each folder once, or passes on that one was not empty."""
    for attempt in range(3):
        writer = Writer(tmp_path / "2.orbax-checkpoint-tmp" / "state" / "d", seconds=0.4)
        writer.start()
        while not writer.made:
            time.sleep(0.001)
        folder.sweep(epath.Path(tmp_path))
        writer.join()
        assert not list(tmp_path.iterdir())
        assert writer.made > 10


def test_what_stays_is_told(tmp_path, monkeypatch):
    (tmp_path / "5.dropped").mkdir()

    def locked(path):
        raise OSError(39, "Directory not empty", str(path))

    monkeypatch.setattr(type(epath.Path(tmp_path)), "rmtree", locked)
    with pytest.raises(OSError, match="5.dropped"):
        folder.sweep(epath.Path(tmp_path), seconds=0.2)


def test_a_failed_save_whose_files_stay(tmp_path, monkeypatch, capsys):
    """Fails if `_unwritten` lets the error of the sweep out, or leaves the closed manager in place."""
    def stays(path):
        raise OSError(39, "Directory not empty", "2.orbax-checkpoint-tmp")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with Checkpoints(tmp_path, Config(every=1, latest=2)) as checkpoints:
        assert checkpoints.save(1, {"w": jnp.arange(3.0)}, {})
        checkpoints.wait()
        with monkeypatch.context() as patched:
            patched.setattr(folder, "sweep", stays)
            patched.setattr(checkpoints._manager, "save", full)
            with pytest.raises(UserError, match=r"checkpoint 2 could not be written.*No space left.*the newest is 1"):
                checkpoints.save(2, {"w": jnp.arange(3.0)}, {})
        assert "Directory not empty" in capsys.readouterr().err
        assert checkpoints.save(2, {"w": jnp.arange(3.0)}, {})
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2]

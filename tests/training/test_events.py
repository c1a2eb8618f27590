# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Event files: what tensorboardX's schema and checksums read in them is what was written, whole at every moment."""
import math
import struct
import subprocess
import sys

import pytest

from jaxlm.training import events
from tests import tiny


@pytest.fixture
def reader(monkeypatch):
    """(bytes -> masked checksum, the Event message): an implementation that is not ours."""
    monkeypatch.setitem(sys.modules, "torch", None)  # which it would import
    from tensorboardX import record_writer
    from tensorboardX.proto import event_pb2
    return record_writer.masked_crc32c, event_pb2.Event


def read(folder, reader):
    masked, event = reader
    (file,) = folder.iterdir()
    assert "tfevents" in file.name  # what TensorBoard looks for
    data, found = file.read_bytes(), []
    while data:
        (length,), (crc,) = struct.unpack("<Q", data[:8]), struct.unpack("<I", data[8:12])
        body = data[12:12 + length]
        assert crc == masked(data[:8]) and struct.unpack("<I", data[12 + length:16 + length])[0] == masked(body)
        found.append(event.FromString(body))
        data = data[16 + length:]
    return found


def test_events_are_what_was_written(tmp_path, reader):
    """Fails if a checksum, field or number is not the format's: `_number(3, step)` in Events.write, `> 128` in _varint,
    15 and 17 exchanged in masked_crc; or if a written event waits in memory: `buffering=0` left out of open()."""
    board = events.Events(tmp_path, 1)
    many = {f"train/{'x' * 200}{i}": float(i) for i in range(40)}
    rows = [(1, {"train/loss": 2.5, "eval/perplexity": 1e300}), (128, {"train/loss": math.nan}), (2 ** 40, many)]
    for number, (step, values) in enumerate(rows, 1):
        board.write(step, values)
        assert len(read(tmp_path, reader)) == 2 + number  # while it is open
    version, start, *found = read(tmp_path, reader)
    board.close()
    assert version.file_version == "brain.Event:2" and start.step == 1 and start.session_log.status == start.session_log.START
    assert abs(version.wall_time - found[-1].wall_time) < 60 and version.wall_time > 1.7e9
    assert [e.step for e in found] == [step for step, _ in rows]
    read_back = [{v.tag: v.simple_value for v in e.summary.value} for e in found]
    assert read_back[0] == {"train/loss": 2.5, "eval/perplexity": math.inf} and read_back[2] == many
    assert list(read_back[1]) == ["train/loss"] and math.isnan(read_back[1]["train/loss"])


def test_training_imports_no_other_framework():
    """A start that imports torch takes 3 s and 300 MB more. Fails if something imports it: `import tensorboardX` in training/metrics.py."""
    code = ("import sys; import jaxlm.cli.train, jaxlm.cli.generate; "
            "print([m for m in ('torch', 'tensorflow', 'transformers', 'matplotlib.pyplot') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tiny.ROOT)
    assert done.returncode == 0 and done.stdout.strip() == "[]", done.stdout + done.stderr

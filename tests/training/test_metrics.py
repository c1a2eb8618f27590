# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""metrics.jsonl: one row a write, numbers that are not finite stay JSON, a resumed run leaves no row twice."""
import json
import os

import pytest

from jaxlm.core.errors import UserError
from jaxlm.training import metrics, picture


def test_rows_after_the_resumed_step_are_dropped(tmp_path):
    """Fails if a resumed run appends to what the interrupted one wrote: drop the filter in Metrics.__init__."""
    with metrics.Metrics(tmp_path) as record:
        for step in (1, 2, 3):
            record.write(step, {"train/loss": step / 2})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "train/lo')  # cut by a crash
    with metrics.Metrics(tmp_path, step=2) as record:
        record.write(3, {"train/loss": float("nan"), "eval/bits_per_byte": 2.0})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1, "train/loss": 0.5}, {"step": 2, "train/loss": 1.0}, {"step": 3, "train/loss": "nan", "eval/bits_per_byte": 2.0}]
    assert picture.loss_curve(tmp_path, "test", ("baseline", 3.0)).stat().st_size > 5000


@pytest.mark.parametrize("line,words", [("not json", "is not JSON"), ("3", "is no row with a step"), ('{"loss": 1.0}', "is no row with a step")])
def test_a_broken_row_is_named(tmp_path, line, words):
    """Fails if a line is taken for a row unseen: drop the check of "step" from metrics.read."""
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(UserError, match=f"metrics.jsonl:2 {words}"):
        metrics.Metrics(tmp_path, tensorboard=False)


def test_rows_are_on_the_disk(tmp_path, monkeypatch):
    """Fails if `sync` leaves them to the system: `flush` for fsync; or a resumed run's file has its name before its content: drop fsync
    from files.write_atomically."""
    order = []
    monkeypatch.setattr(os, "fsync", lambda fd, real=os.fsync: (order.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b, real=os.replace: (order.append(str(a)), real(a, b)))
    with metrics.Metrics(tmp_path, tensorboard=False) as record:
        record.write(1, {"train/loss": 1.0})
        record.sync()
    assert order == [str(tmp_path / "metrics.jsonl")]
    metrics.Metrics(tmp_path, step=1, tensorboard=False).close()
    assert order[1] == order[2] and order[1].endswith(".partial")

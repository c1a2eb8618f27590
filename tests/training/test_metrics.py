# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""metrics.jsonl: one row a write, numbers that are not finite stay JSON, a resumed run leaves no row twice."""
import json

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


def test_a_broken_row_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnot json\n{"step": 3}\n')
    with pytest.raises(UserError, match="metrics.jsonl:2 is not JSON"):
        metrics.Metrics(tmp_path, tensorboard=False)

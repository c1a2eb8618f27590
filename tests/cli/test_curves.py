# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Several runs laid side by side: by tokens, whatever the shape of a step, and by the time that training steps took."""
import json

import pytest
from absl import flags

from jaxlm.cli import curves
from jaxlm.core.errors import UserError
from jaxlm.training import picture


def write(folder, batch: int, length: int, rate: float, losses: list, first: int = 2):
    """A run that recorded a row every `first` steps and evaluated at each."""
    folder.mkdir()
    rows = [row for i, loss in enumerate(losses, 1) for row in (
        {"step": first * i, "train/loss": loss, "train/tokens_per_second": rate}, {"step": first * i, "eval/bits_per_byte": loss / 2 if isinstance(loss, float) else loss})]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.json").write_text(json.dumps({"train": {"batch_size": batch}, "data": {"seq_len": length}}))
    return str(folder)


def test_the_same_tokens_and_the_same_time(tmp_path, capsys):
    """Fails if steps are taken for tokens (`row["step"]` alone in Curve.of), or a row's rate for that of the whole run (`seconds =`)."""
    fast = write(tmp_path / "fast", 4, 32, 128.0, [4.0, 3.0, 2.5, 2.25, "nan"])
    slow = write(tmp_path / "slow", 8, 32, 64.0, [3.5, 2.0], first=1)
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["test", f"--picture={tmp_path / 'new' / 'both.png'}"])
    curves.main(["curves", fast, slow])
    assert capsys.readouterr().out.splitlines()[:6] == [
        "after 512 tokens:",
        f"  {fast}  step 4, 512 tokens, 0.1 min: train/loss 3.0000, eval/bits_per_byte 1.5000",
        f"  {slow}  step 2, 512 tokens, 0.1 min: train/loss 2.0000, eval/bits_per_byte 1.0000",
        "after 0.1 minutes of training steps:",
        f"  {fast}  step 8, 1.02k tokens, 0.1 min: train/loss 2.2500, eval/bits_per_byte 1.1250",
        f"  {slow}  step 2, 512 tokens, 0.1 min: train/loss 2.0000, eval/bits_per_byte 1.0000"]
    assert (tmp_path / "new" / "both.png").read_bytes()[:4] == b"\x89PNG"
    points = picture.Curve.of("a", [{"step": 2, "train/tokens_per_second": 4.0}, {"step": 3, "train/tokens_per_second": 1.0}], 2).points
    assert [(p["tokens"], p["seconds"]) for p in points] == [(4, 1.0), (6, 3.0)]


def test_what_is_no_run(tmp_path):
    with pytest.raises(UserError, match="has no metrics.jsonl and no config.json"):
        curves.opened(str(tmp_path))
    with pytest.raises(UserError, match="name the folders of the runs"):
        curves.main(["curves"])

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Every suite's command runs on tiny shapes and its report can be read; nothing is asserted of time."""
import importlib.util
import json
import os

import pytest

from benchmarks import checkpoint, compile, decode, growth, memory, report, train
from benchmarks import input as pipeline

FEW = ["--rounds=1", "--steps=2", "--warm=1", "--side=64", "--bytes=4096"]
TORCH = importlib.util.find_spec("torch") is not None


@pytest.fixture(autouse=True)
def cores(monkeypatch):
    """Contenders are programs of their own: they see the machine as a user's would, not this session's 8 devices."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", "")])))


def run(suite, tmp_path, capsys, *arguments):
    """(cases, rows of all of them by contender, what was printed)."""
    out = tmp_path / "rows.json"
    cases = suite.main([*FEW, f"--out={out}", f"--scratch={tmp_path}", *arguments])
    document = json.loads(out.read_text())
    assert document["cases"] == json.loads(json.dumps(cases)) and document["machine"]["cores"] >= 1 and document["machine"]["commit"]
    printed = capsys.readouterr().out
    assert report.text(document).strip() == printed.strip()
    return cases, {row["contender"]: row for case in cases for row in case["rows"]}, printed


def check_rows(rows, *names):
    """Those ran, or say that their package is absent."""
    for name in names:
        row = rows[name]
        if name.startswith(("torch", "hf")) and not TORCH:
            assert row["status"] == "absent" and "torch" in row["reason"]
        else:
            assert row["status"] == "ok", row
            assert all(len(r["seconds"]) == 2 for r in row["rounds"][1:])


def test_train(tmp_path, capsys):
    """Fails if a contender's mathematics differ in float32: norm eps 1e-6 in torch_minimal; or if an absent one stops the suite."""
    _, rows, printed = run(train, tmp_path, capsys, "--shape=tiny", "--dtype=float32",
                           "--contenders=bare,jaxlm,torch_eager,levanter")
    check_rows(rows, "bare", "jaxlm", "torch_eager")
    assert rows["levanter"]["status"] == "absent" and "does not import" in printed
    assert rows["jaxlm"]["parity"] < 1e-5 and len(rows["jaxlm"]["rounds"][0]["losses"]) == 6
    # The stream is read again and again, and is learned: else the gate would not see what the optimizer does.
    assert rows["bare"]["rounds"][0]["losses"][5] < rows["bare"]["rounds"][0]["losses"][1]


@pytest.mark.parametrize("shape", ["tiny_bert", "tiny_t5"])
def test_train_with_masks_and_spans(shape, tmp_path, capsys):
    """jaxlm draws them in its loop, the others get what it draws: losses agree in float32, update after update.

    Fails if the batches that are kept are of another seed or order, and if a contender's mathematics differ: the scale of T5's
    logits left out of torch_encoders.py, or LayerNorm's eps 1e-5.
    """
    _, rows, _ = run(train, tmp_path, capsys, f"--shape={shape}", "--dtype=float32", "--contenders=bare,jaxlm,torch_eager,hf_trainer")
    check_rows(rows, "bare", "jaxlm", "torch_eager")
    assert len(rows["jaxlm"]["rounds"][0]["losses"]) == 6
    for row in rows.values():  # Trainer wants a package of its own
        assert row.get("parity", 0) < 1e-4, row


def test_train_with_dropout(tmp_path, capsys):
    """Losses are compared without it, and who has none is not timed. Fails if rates are not handed on: every contender would be timed."""
    cases, rows, _ = run(train, tmp_path, capsys, "--shape=tiny_bert:dropout=0.1", "--dtype=float32", "--contenders=bare,jaxlm_step")
    assert [case["shape"] for case in cases] == ["limits", "tiny_bert:dropout=0.1: parity without dropout", "tiny_bert:dropout=0.1"]
    assert rows["bare"]["status"] == "absent" and rows["jaxlm_step"]["status"] == "ok" and cases[1]["rows"][1]["parity"] < 1e-5


def test_train_as_on_an_accelerator(tmp_path, capsys):
    """Fails if the path of large models is broken: weights not exported, parity on two layers, a process each round."""
    exported = train.EXPORTED
    train.EXPORTED = 1
    try:
        cases, rows, _ = run(train, tmp_path, capsys, "--shape=tiny_llama", "--dtype=bfloat16", "--contenders=bare,jaxlm_step")
    finally:
        train.EXPORTED = exported
    check_rows(rows, "bare", "jaxlm_step")
    assert rows["jaxlm_step"]["rounds"][0]["losses"] and len(rows["jaxlm_step"]["rounds"]) == 2
    assert [case["shape"] for case in cases] == ["limits", "tiny_llama: parity with 2 layers", "tiny_llama"]


def test_decode(tmp_path, capsys):
    """Fails if torch's cache or positions are off: `at` not advanced in torch_decode."""
    _, rows, _ = run(decode, tmp_path, capsys, "--shape=tiny", "--dtype=float32", "--rows=2", "--prompt=4", "--new=8",
                     "--contenders=jaxlm_decode,torch_decode")
    check_rows(rows, "jaxlm_decode", "torch_decode")


def test_input(tmp_path, capsys):
    _, rows, _ = run(pipeline, tmp_path, capsys, "--shape=tiny", "--tokens=20000", "--contenders=jaxlm_pack,torch_loader")
    check_rows(rows, "jaxlm_pack", "torch_loader")


def test_checkpoint(tmp_path, capsys):
    _, rows, _ = run(checkpoint, tmp_path, capsys, "--shape=tiny")
    check_rows(rows, "jaxlm_checkpoint", "torch_checkpoint")
    assert len(rows["jaxlm_checkpoint"]["notes"]["restore"]) == 3


def test_compile_and_memory(tmp_path, capsys):
    cases, rows, _ = run(compile, tmp_path, capsys, "--shape=tiny", "--contenders=bare")
    assert [case["shape"].split(":")[1].split()[0] for case in cases] == ["cold", "warm"] and rows["bare"]["status"] == "ok"
    _, rows, _ = run(memory, tmp_path, capsys, "--shape=tiny", "--contenders=bare")
    assert rows["bare"]["rounds"][-1]["peak_bytes"] > 1e6


def test_growth(tmp_path, capsys):
    cases, _, _ = run(growth, tmp_path, capsys, "--shape=tiny", "--lengths=8", "--depths=0", "--devices=2", "--contenders=bare")
    assert [case["kind"] for case in cases] == ["growth", "collectives", "collectives"]

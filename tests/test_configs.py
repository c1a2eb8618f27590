# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Every page runs: shrunk to seconds it trains two steps, resumes for one, and its resolved config can be rerun."""
import importlib.util
import json
import pathlib

import jax
import pytest

from jaxlm import build
from jaxlm.cli import train
from jaxlm.core import tree
from jaxlm.core.errors import UserError
from jaxlm.training import metrics
from tests import tiny

PAGES = sorted((tiny.ROOT / "configs").rglob("*.py"))


def load(page: pathlib.Path, variant: str = ""):
    spec = importlib.util.spec_from_file_location(page.stem, page)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_page_trains_and_resumes(page, tmp_path, capsys):
    """Fails if a page names a field that does not exist, or a resumed run starts anew."""
    text = tiny.write_text(tmp_path / "text")
    config = tiny.shrink(load(page), text, tmp_path / "cache")
    with tiny.workdir(tmp_path / "run") as run:
        train.main(config)
        config.train.steps = 3
        train.main(config)
    steps = [row["step"] for row in metrics.read(run / "metrics.jsonl") if "train/loss" in row]
    assert steps == [1, 2, 3]
    stored = build.from_json((run / "config.json").read_text())
    assert build.differences(stored, config) == []
    build.validate(stored, jax.device_count())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_page_is_valid_and_locked(page):
    """Fails if a page is not locked: return c.unlock() from a page."""
    config = load(page)
    config_problems = None
    if config.tokenizer.name == "file":
        config.tokenizer.path = "x"
    if not config.source.path:
        config.source.path = "x"
    try:
        build.validate(config)
    except UserError as error:
        config_problems = str(error)
    assert config_problems is None
    with pytest.raises(AttributeError):
        config.model.layerz = 3
    assert json.loads(build.to_json(config))["model"]["name"] == config.model.name


def test_the_lstm_and_the_gpt_can_be_laid_side_by_side():
    """Parameters within 1 %, and the same text, tokenizer, tokens a step, steps, optimizer and schedule.

    Fails if one of the two pages changes alone: model.hidden = 512 in configs/lstm_tiny.py."""
    gpt, lstm = (load(tiny.ROOT / "configs" / f"{name}_tiny.py") for name in ("gpt", "lstm"))
    sizes = [tree.size(build.build(c, "model", vocab_size=c.tokenizer.vocab_size).abstract) for c in (gpt, lstm)]
    assert abs(sizes[1] / sizes[0] - 1) < 0.01, sizes
    free = ("model.", "data.packing", "data.shuffle", "data.seq_len", "train.batch_size")
    assert [d for d in build.differences(gpt, lstm) if not d.startswith(free)] == []
    assert gpt.train.batch_size * gpt.data.seq_len == lstm.train.batch_size * lstm.data.seq_len

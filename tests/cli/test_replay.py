# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A step of a run, run again: the same bits as were recorded, and the name of what was not finite first."""
import json
import pathlib

import pytest
from absl import flags

from jaxlm import build
from jaxlm.checkpoints.manager import Checkpoints
from jaxlm.cli import experiment, replay, train
from jaxlm.core import tree
from jaxlm.core.errors import UserError
from jaxlm.parallel import place
from jaxlm.training import flight
from jaxlm.data.tokenizers.tokenizer import ByteTokenizer
from tests import families, tiny
from tests.test_configs import load


def page(folder: pathlib.Path, **changes):
    """Checkpoints after steps 2 and 4 of 6, rows of two steps, dropout."""
    text = folder / "text"
    if not text.exists():
        tiny.write_text(text)
    config = tiny.shrink(load(tiny.ROOT / "configs" / "gpt_tiny.py"), text, folder / "cache")
    config.train.update(steps=6, batch_size=8, log_every=1, picture=False, baseline="", sample_tokens=0)
    config.model.residual_dropout = 0.1
    config.checkpoints.update(every=2, latest=3, best=0, async_save=False)
    config.update_from_flattened_dict(changes)
    return config


def trained(folder: pathlib.Path, name: str, **changes) -> pathlib.Path:
    with tiny.workdir(folder / name) as run:
        train.main(page(folder, **changes))
    return run


def replayed(run: pathlib.Path, at: int, look: bool = False) -> int:
    """The exit status of jaxlm replay --at=AT."""
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["test", f"--workdir={run}", f"--at={at}", f"--look={look}"])
    try:
        replay.main(build.from_json((run / "config.json").read_text()))
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("replay"), "run")


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory):
    """A run whose parameters, after step 2, have an infinity in the second layer's up-projection."""
    folder = tmp_path_factory.mktemp("spoiled")
    run = trained(folder, "run", **{"train.steps": 2})
    config = build.from_json((run / "config.json").read_text())
    here = experiment.experiment(config, ByteTokenizer().vocabulary)
    kept = build.section(config, "checkpoints")
    with place.use(here.layout):
        with Checkpoints(run / "checkpoints", kept, writing=False) as old:
            state, meta = old.restore(2, here.target), old.meta(2)
        (run / "checkpoints" / "2").rename(run / "sound")
        spoil = lambda path, x: x.at[1, 3, 5].set(float("inf")) if path == "blocks/mlp/up/kernel" else x
        state.params.update(tree.map_with_path(spoil, state.params))
        with Checkpoints(run / "checkpoints", kept) as new:
            new.save(2, state, meta, force=True)
    return trained(folder, "run", **{"train.steps": 4})


@pytest.mark.parametrize("at,origin", [(6, "checkpoint 4"), (2, "the start of the run")])
def test_a_replayed_step_is_the_recorded_one(run, at, origin, capsys):
    """Fails if the replay draws other data or other dropout than the run did: `run.batches(drawn, begin + 1, at + 1)` in
    cli/replay.py."""
    assert replayed(run, at, look=at == 6) == 0
    shown = capsys.readouterr().out
    assert f"replayed from {origin} " in shown and "DIFFERS" not in shown and ("every number of the step was finite" in shown) == (at == 6)
    assert shown.count("equal") >= 4


@pytest.mark.parametrize("family", [pytest.param(name, marks=[] if name == "transformer" else [pytest.mark.slow])
                                    for name in families.FAMILIES if name != "gpt"])
def test_every_family_is_replayed(family, tmp_path, capsys):
    """As above, with what another family draws, reads and adds to its loss."""
    config = tiny.shrink(families.config_of(family), tiny.write_text(tmp_path / "text"), tmp_path / "cache")
    for field in config.model:
        if field.endswith("dropout"):
            config.model[field] = 0.1
    config.train.update(steps=4, picture=False, baseline="", sample_tokens=0)
    config.checkpoints.update(every=2, best=0, async_save=False)
    with tiny.workdir(tmp_path / "run") as run:
        train.main(config)
    capsys.readouterr()
    assert replayed(run, 4) == 0
    shown = capsys.readouterr().out
    assert "replayed from checkpoint 2 " in shown and "DIFFERS" not in shown and shown.count("equal") >= 4


def test_a_row_of_several_steps_is_replayed_whole(run, capsys):
    """Fails if a row is compared with its last step alone: `previous = at - 1` in cli/replay.py."""
    path = run / "metrics.jsonl"
    rows = path.read_text()
    # Rows of log_every 2: the mean of two steps, weighed by their tokens (all rows here are full).
    kept = [json.loads(line) for line in rows.splitlines() if "train/loss" in line]
    kept[3]["train/loss"] = (kept[2]["train/loss"] + kept[3]["train/loss"]) / 2
    try:
        path.write_text("".join(json.dumps(row) + "\n" for number, row in enumerate(kept) if number != 2))
        replayed(run, 4)
        line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("  loss"))
        assert abs(float(line.split()[1]) - kept[3]["train/loss"]) < 1e-6
    finally:
        path.write_text(rows)


def test_a_difference_is_told(run, capsys):
    """Fails if any number passes as equal: `equal = True` in compared()."""
    path = run / "metrics.jsonl"
    rows = path.read_text()
    loss = next(json.loads(x)["train/loss"] for x in rows.splitlines() if '"step": 6' in x and "train/loss" in x)
    try:
        path.write_text(rows.replace(repr(loss), repr(loss * (1 + 1e-7))))
        assert replayed(run, 6) == 1
    finally:
        path.write_text(rows)
    shown = capsys.readouterr()
    assert shown.out.count("DIFFERS") == 2  # the loss and nll, the same number here
    assert "not what was recorded" in shown.err


def test_the_first_module_that_is_not_finite_is_named(spoiled, capsys):
    """Fails if the search takes the last culprit: `guilty[::-1]` in training/nonfinite.py."""
    assert replayed(spoiled, 3, look=True) == 0
    shown = capsys.readouterr().out
    assert "not finite before the step: blocks/mlp/up/kernel[1]\n" in shown
    assert "first not finite: blocks/mlp/up, layer 1: dot_general gave inf (forward, in block/mlp)" in shown
    assert "DIFFERS" not in shown and "flight record" in shown and "nan" in shown


def test_the_run_itself_recorded_it(spoiled):
    """What is needed to look into a step is there without a replay."""
    record = flight.read(spoiled / "flight", 3)
    assert record["loss"] == record["grad_norm"] == "nan" and record["step"] == 3 and record["checkpoint"] == 2
    assert len(record["documents"]) == 8 and all(isinstance(i, int) for row in record["documents"] for i in row)
    assert record["config"]["train"]["batch_size"] == 8 and f"--workdir={spoiled} --at=3" in record["replay"]
    look = record["look"]
    first = look["first_non_finite"][0]
    assert (first["module"], first["layer"], first["reads"]) == ("blocks/mlp/up", 1, "blocks/mlp/up/kernel")
    assert look["parameter_norms"]["blocks/mlp/up/kernel"][1] == "inf" and look["parameter_norms"]["blocks/mlp/up/kernel"][0] < 10
    assert len(look["gradient_norms"]["blocks/attention/q/kernel"]) == 2 and flight.read(spoiled / "flight", 4)


def test_a_learning_rate_that_overflows(tmp_path, capsys):
    """NaN at a known step without a hand in it: the same step, and NaN, from the start of the run.

    Fails if the look is taken after later updates: drop `row >= now - number + 1` in training/flight.py."""
    run = trained(tmp_path, "run", **{"optimizer.lr": 1e25, "optimizer.clip_norm": 0.0, "train.steps": 3, "checkpoints.every": 0})
    assert flight.read(run / "flight", 1) is None
    record = flight.read(run / "flight", 2)
    assert record["look"]["first_non_finite"] and not record["look"]["non_finite_parameters"]
    assert replayed(run, 2) == 0
    assert "DIFFERS" not in capsys.readouterr().out


def test_no_step_is_an_error(run):
    with pytest.raises(UserError, match="--at is missing"):
        replayed(run, 0)

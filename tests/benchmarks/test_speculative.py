# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What the benchmark of drafts counts, and what it refuses to count."""
import dataclasses
import json

import jax
import pytest

from benchmarks import machine, report, speculative
from jaxlm.cli import train
from jaxlm.generate.decode import Decoder
from jaxlm.generate.settings import Config
from jaxlm.models import gpt
from tests import tiny
from tests.test_configs import load

GREEDY = Config(max_new_tokens=13, temperature=0.0, stop_at_eot=False)
CASE = {"kind": "speculative", "models": [dict(name="gpt", layers=1, embed=16, parameters=9, dtype="float32")] * 2, "batch": 2,
        "temperature": 0.0, "new": 13}
BATCHES = [[[1, 2], [3]], [[4, 5], [6]]]


@pytest.fixture(scope="module")
def pair():
    model = gpt.build(gpt.Config(vocab_size=32, max_len=32, layers=1, heads=2, embed=16, init_std=0.5))
    return Decoder(model, 0), Decoder(model, 0, draft=model), jax.jit(model.init)(jax.random.key(2))


def test_a_model_that_drafts_for_itself_is_always_accepted(pair):
    """Fails if the prefill's token counts as one of a call (`config.max_new_tokens * count`)."""
    alone, drafted, params = pair
    none, three = speculative.measured(alone, drafted, (params, params), BATCHES, GREEDY, [3], 2)
    assert none["tokens_per_call"] == [1.0, 1.0] and three["tokens_per_call"] == [4.0, 4.0]
    assert [row["speculate"] for row in (none, three)] == [0, 3] and all(len(row["seconds"]) == 2 for row in (none, three))


def test_other_tokens_are_not_timed(pair):
    """Fails if tokens are not compared (`if False` for `if not apart <= tie`): what a draft of broken
    decoding gains would be a figure."""
    alone, drafted, params = pair
    broken = jax.tree.map(lambda x: -x, params)

    class Broken:
        def run(self, weights, batch, config):
            return drafted.run((broken, broken), batch, config)

    none, three = speculative.measured(alone, Broken(), (params, params), BATCHES, GREEDY, [3], 1)
    assert none["seconds"] and not three["seconds"] and "another one than without the draft" in three["reason"]
    assert report.text({"suite": "", "machine": machine.describe(), "cases": [CASE | {"rows": [none, three]}]}).count("failed: token") == 1
    # Drawn tokens are not the same ones, and need not be.
    drawn = dataclasses.replace(GREEDY, temperature=1.0)
    assert speculative.measured(alone, drafted, (params, params), BATCHES, drawn, [3], 1)[1]["seconds"]


def test_the_command(tmp_path, capsys):
    """Of a trained run that is its own draft: the JSON holds what the table says."""
    config = tiny.shrink(load(tiny.ROOT / "configs" / "gpt_tiny.py"), tiny.write_text(tmp_path / "text"), tmp_path / "cache")
    config.train.update(steps=1, sample_tokens=0, picture=False, baseline="")
    with tiny.workdir(tmp_path / "run") as run:
        train.main(config)
    capsys.readouterr()
    out = tmp_path / "rows.json"
    speculative.main([f"--workdir={run}", f"--draft={run}", "--new=4", "--rounds=1", "--speculate=2", "--rows=4", f"--out={out}"])
    document, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert report.text(document).strip() == printed.strip() and len(document["cases"]) == 2
    assert document["versions"]["jax"] == jax.__version__ and document["machine"]["cores"] >= 1
    assert [row["speculate"] for row in document["cases"][0]["rows"]] == [0, 2] and "gpt 2 x 32" in printed

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Twenty steps of every family against stored losses: a change of numbers anywhere below shows here first."""
import json
import pathlib
import sys

import jax
import numpy as np
import pytest

from jaxlm.optim import optimizers, schedules
from jaxlm.parallel import mesh, place, rules
from jaxlm.training import state, step
from tests import families

FOLDER = pathlib.Path(__file__).parent / "golden"
STEPS = 20
# Versions of jax and processors add in other orders; over 20 steps that stays below this, a changed constant does not.
TOLERANCE = 2e-4


def curve(family: str) -> list[float]:
    """Losses of 20 AdamW steps on two random batches, one device, float32."""
    model = families.model_of(family, scan=False)
    layout = place.Layout(mesh.make(mesh.Config(data=1), jax.devices()[:1]), rules.find("dp"))
    config = optimizers.Config(lr=3e-3, weight_decay=0.1)
    schedule = schedules.build(schedules.Config(warmup=4), config.lr, STEPS)
    tx = optimizers.build(config, schedule, model.abstract, model.axes())
    trainable = jax.tree.map(lambda _: True, model.abstract)
    objective = families.objective_of(family, z_loss=0.0, label_smoothing=0.0)
    made = step.make_step(model, objective, tx, schedule, trainable)
    losses = []
    with place.use(layout):
        target = state.abstract(model, tx, trainable, layout)
        now = state.initialise(model, tx, trainable, 0, target)
        batches = [place.put(families.batch_of(seed, family), layout, families.ROWS) for seed in range(2)]
        compiled = step.compile_step(made, now, batches[0], layout.replicated)
        for number in range(STEPS):
            now, metrics = compiled(now, batches[number % 2])
            loss = metrics["means"]["loss"]
            losses.append(float(loss.total / loss.weight))
    return losses


@pytest.mark.parametrize("family", sorted(families.FAMILIES))
def test_golden(family):
    """Fails if any number that training computes changes: a norm's epsilon, an initial scale, Adam's b2."""
    path = FOLDER / f"{family}.json"
    assert path.exists(), f"no golden curve of {family}: write it with  python -m tests.test_golden {family}"
    found, expected = curve(family), json.loads(path.read_text())
    assert found[-1] < found[0] - 0.2, "the model does not learn two batches by heart"
    np.testing.assert_allclose(
        found, expected, rtol=TOLERANCE,
        err_msg=f"\nThe losses of {family} are not what they were. If you did not mean to change what is computed, find the change: "
                f"`git stash`, run this test, `git stash pop`. If you did, say why in the commit message and write the curve anew: "
                f"`python -m tests.test_golden {family}`.")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or sorted(families.FAMILIES):
        (FOLDER / f"{name}.json").write_text(json.dumps([round(x, 7) for x in curve(name)]) + "\n")

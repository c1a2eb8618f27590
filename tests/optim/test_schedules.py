# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Learning rates at the steps that matter, against the formulas written out here."""
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.optim import schedules

PEAK, WARMUP, TOTAL = 0.5, 10, 110


def test_shapes_at_key_steps():
    """Fails if a curve begins anywhere but at the end of the warm-up (or, for wsd, of the stable part)."""
    expected = {
        "cosine": lambda s: 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1, (s - WARMUP) / (TOTAL - WARMUP)))),
        "linear": lambda s: 1 - 0.9 * min(1, (s - WARMUP) / (TOTAL - WARMUP)),
        "rsqrt": lambda s: 1 / math.sqrt(1 + (s - WARMUP) / 25),
        "wsd": lambda s: 1 - 0.9 * min(1, max(0, s - 82.5) / 27.5),
        "constant": lambda s: 1,
    }
    assert expected.keys() == schedules.SHAPES.keys()
    for name, curve in expected.items():
        config = schedules.Config(name=name, warmup=WARMUP, decay=0.25, timescale=25)
        schedule = jax.jit(schedules.build(config, PEAK, TOTAL))
        for step in (0, 1, 5, 9, 10, 11, 35, 82, 83, 100, 109, 110, 500):
            want = PEAK * ((step + 1) / WARMUP if step < WARMUP else curve(step))
            np.testing.assert_allclose(schedule(jnp.int32(step)), want, rtol=1e-5, err_msg=f"{name} at step {step}")


def test_first_step_moves_and_peak_is_reached_once_warm():
    """Fails if the warm-up counts from step / warmup: the first step would have rate 0."""
    schedule = schedules.build(schedules.Config(warmup=4), 1.0, 100)
    assert [round(float(schedule(s)), 6) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert float(schedules.build(schedules.Config(), 1.0, 100)(0)) == 1.0


def test_total_comes_from_the_config_before_the_run():
    assert float(schedules.build(schedules.Config(name="linear", total=50, final=0.0), 1.0, 100)(25)) == 0.5
    assert float(schedules.build(schedules.Config(name="linear", final=0.0), 1.0, 100)(25)) == 0.75


@pytest.mark.parametrize("bad, words", [
    (dict(name="cosin"), "did you mean 'cosine'"), (dict(warmup=-1), "schedule.warmup"),
    (dict(final=2.0), "schedule.final"), (dict(decay=0.0), "schedule.decay"), (dict(timescale=0), "schedule.timescale"),
    (dict(total=-2), "schedule.total"),
    (dict(warmup=100), "shorten schedule.warmup"), (dict(name="wsd", warmup=90, decay=0.2), "shorten schedule.warmup"),
])
def test_problems_name_the_field(bad, words):
    with pytest.raises(UserError, match=words):
        schedules.build(schedules.Config(**bad), 1.0, 100)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The clock: phases, quiet stretches, and that a contender stops when it is told to."""
import io
import json

import pytest

from benchmarks import clock, figures


def test_phases_end_after_their_steps():
    """Fails if warm-up steps are timed: judge(self._marks) in tick."""
    told = io.StringIO()
    watch = clock.Clock([(0, 2, 0.0), (1, 3, 0.0)], 0.0, told, io.StringIO("go\n"))
    with pytest.raises(clock.Done):
        for number in range(100):
            watch.tick(number)
    assert number == 5
    first, second = map(json.loads, told.getvalue().splitlines())
    assert first["losses"] == [0, 1] and len(first["seconds"]) == 2 and len(second["seconds"]) == 3 and second["losses"] == []


def test_it_ends_when_it_is_told():
    watch = clock.Clock([(0, 1, 0.0), (0, 1, 0.0)], 0.0, io.StringIO(), io.StringIO("stop\n"))
    with pytest.raises(clock.Done):
        watch.tick(0)


def test_a_stretch_with_others_is_not_quiet():
    """Fails if the process's own time counts as others' (leave out own), or a stretch is a single short step."""
    # (now, all cores busy, own): steps of 0.3 s; from the third on another program uses half a core.
    marks = [(0.3 * i, 0.6 * i + 0.15 * max(0, i - 2), 0.6 * i) for i in range(5)]
    seconds, quiet, own = clock.judge(marks)
    assert seconds == pytest.approx([0.3] * 4) and quiet == [True, True, False, False] and own == pytest.approx(2.4)


def test_steps_that_are_not_quiet_are_dropped_and_counted():
    """Fails if all steps are taken: `kept = every`."""
    row = {"rounds": [{}, {"seconds": [1.0, 9.0, 2.0], "quiet": [True, False, True]}]}
    assert figures.quiet(row) == ([1.0, 2.0], 1) and figures.median(row) == 1.5
    noisy = {"rounds": [{}, {"seconds": [1.0], "quiet": [False]}]}
    assert figures.quiet(noisy) == ([1.0], -1)
    assert figures.quantile([1.0, 2.0, 3.0], 0.95) == pytest.approx(2.9)

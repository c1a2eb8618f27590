# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Buckets of distances, against a written-out reference and the published edges."""
import math

import numpy as np
import pytest

from jaxlm.ops import relative


def reference(distance, count, furthest, both_ways):
    """The paper's words, one distance at a time: exact logarithms, an edge belongs to the farther bucket."""
    base = 0
    if both_ways:
        count //= 2
        base = count if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    single = count // 2
    if distance < single:
        return base + distance
    step = math.floor(round(math.log(distance / single) / math.log(furthest / single) * (count - single), 9))
    return base + min(single + step, count - 1)


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize("count,furthest", [(32, 128), (8, 7), (16, 50)])
def test_buckets(count, furthest, both_ways):
    """Fails if the sides are swapped (`distance < 0`), or a distance beyond the last has another bucket than the last."""
    distance = np.arange(-300, 301)
    want = [reference(int(d), count, furthest, both_ways) for d in distance]
    np.testing.assert_array_equal(relative.buckets(distance, count, furthest, both_ways), want)


def test_published_edges():
    """Distances at which T5's 32 buckets change: 8 single ones and logarithmic ones on each side, or 16 of one side."""
    before = lambda both: relative.table(32, 128, both)[128::-1]  # by distance 0 .. 128
    edges = lambda both: [d for d in range(1, 129) if before(both)[d] != before(both)[d - 1]]
    assert edges(True) == [*range(1, 9), 12, 16, 23, 32, 46, 64, 91]
    assert edges(False)[:17] == [*range(1, 17), 19]

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The dense mask against a loop that says what each field means."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops.masks import Mask, dense

B, T, S = 2, 4, 7
Q_SEGMENTS = np.array([[1, 1, 2, 0], [3, 3, 3, 3]])
K_SEGMENTS = np.array([[1, 1, 1, 2, 2, 0, 0], [3, 3, 1, 3, 3, 3, 3]])
Q_INDEX = np.array([2, 3, 4, 5])
PREFIX = np.array([0, 3])


CASES = list(itertools.product((True, False), (0, 2, "traced"), *[(False, True)] * 3))


@pytest.mark.parametrize("causal,window,prefix,segments,index", CASES)
def test_dense(causal, window, prefix, segments, index):
    """Fails if the window counts one key more, or a prefix opens another segment."""
    mask = Mask(
        causal,
        jnp.int32(2) if window == "traced" else window,
        prefix=jnp.asarray(PREFIX) if prefix else None,
        q_segments=jnp.asarray(Q_SEGMENTS) if segments else None,
        k_segments=jnp.asarray(K_SEGMENTS) if segments else None,
        q_index=jnp.asarray(Q_INDEX) if index else None,
    )
    got = np.broadcast_to(np.asarray(dense(mask, T, S)), (B, 1, T, S))
    size = 2 if window == "traced" else window
    for b, t, s in itertools.product(range(B), range(T), range(S)):
        q = Q_INDEX[t] if index else t
        seen = (q >= s or not causal) and (not size or (q - s < size and (causal or s - q < size)))
        if prefix and (causal or size):
            seen = seen or s < PREFIX[b]
        if segments:
            seen = seen and Q_SEGMENTS[b, t] == K_SEGMENTS[b, s]
        assert got[b, 0, t, s] == seen, (b, t, s)


def test_traced_zero_is_no_window():
    np.testing.assert_array_equal(dense(Mask(True, jnp.int32(0)), T, S), dense(Mask(True, 0), T, S))

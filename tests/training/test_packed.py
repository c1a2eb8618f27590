# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What a step tells, packed into one array and read on the host."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core.types import Mean
from jaxlm.training import packed


def test_every_bit_arrives():
    """Numbers that are none, zeros with a sign, denormal ones and integers. Fails if numbers are converted and not taken as they
    are: `x.astype(jnp.int32)` for the bitcast in packed.pack."""
    floats = np.array([0x7FC12345, 0xFF800000, 0x80000000, 0x00000001, 0x3F800001], np.uint32).view(np.float32)
    tree = {"means": {"loss": Mean(floats[0], floats[4])}, "skipped": np.array([2**31 - 1, -1], np.int32), "table": floats[:4].reshape(2, 2),
            "seed": np.uint32(2**32 - 1)}
    found = packed.read(jax.jit(packed.pack)(jax.tree.map(jnp.asarray, tree)))
    assert jax.tree.structure(found) == jax.tree.structure(tree)
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(tree), strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int8, jnp.bool_])
def test_other_numbers_are_refused(dtype):
    """Fails if a narrower number is taken for one of 32 bits: drop the check from packed.pack."""
    with pytest.raises(TypeError, match="32 bits.*" + jnp.dtype(dtype).name):
        packed.pack({"a": jnp.zeros(2, dtype), "b": jnp.float32(1)})

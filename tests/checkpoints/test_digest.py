# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The sum over an array's bits: by its definition, whole and split, short and long."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxlm.checkpoints import digest

LONG = digest._LEAST


def defined(x: np.ndarray) -> int:
    """sum of word[i] * (2 i + 1) modulo 2**32, in Python's and NumPy's own whole numbers."""
    words = np.frombuffer(x.tobytes(), f"uint{8 * min(x.dtype.itemsize, 4)}").astype(np.uint64)
    with np.errstate(over="ignore"):
        return int((words * (2 * np.arange(len(words), dtype=np.uint64) + 1)).sum() % 2**32)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.bool_, jnp.uint8])
@pytest.mark.parametrize("shape", [(), (7,), (LONG // 8, 8), (8, 3, (LONG + 8) // 8), (LONG + 5,)], ids=str)
def test_whole_and_split_are_the_definition(shape, dtype):
    """On one device, and over 8 where the first dimension can be split.

    Fails if what is over of a long array is left out (drop the second sum of _folded), if parts begin at the same place
    (`part(0, index)`), or if only one of the two forms is changed (`index + 1` in _one)."""
    x = np.random.default_rng(0).integers(0, 2, shape) if dtype == jnp.bool_ else 50 * np.random.default_rng(0).standard_normal(shape)
    x = np.asarray(x).astype(dtype)
    one = jax.device_put(x, jax.devices()[0])
    assert digest.digests({"x": one}) == {"x": defined(x)}
    if x.ndim and x.shape[0] % 8 == 0:
        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("i",))
        split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("i")))
        assert digest.digests({"x": split}) == {"x": defined(x)}


def test_one_changed_bit_is_seen():
    """Of every part. Fails if a part is left out: `range(_PARTS - 1)` in _folded."""
    x = np.random.default_rng(1).standard_normal(LONG + 3).astype(np.float32)
    before = digest.digests({"x": jnp.asarray(x)})
    for i in range(0, len(x), LONG // 16):
        changed = x.view(np.uint32).copy()
        changed[i] ^= 1 << (i % 32)
        assert digest.digests({"x": jnp.asarray(changed.view(np.float32))}) != before

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What dropout draws: Threefry's numbers, as often as asked for, the same however an array is split."""
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlm.ops.dropout import dropout, kept, threefry

KEY = jax.random.key(7)


def test_threefry_is_the_published_one():
    """Against the known answers of the authors' Random123 (kat_vectors: threefry 2x32, 20 rounds) and against jax's own.

    Fails with another rotation, with 16 rounds, or if the number of the turn is left out of the key.
    """
    word = lambda text: jnp.uint32(int(text, 16))
    for keys, counters, answer in ((("0", "0"), ("0", "0"), ("6b200159", "99ba4efe")),
                                   (("ffffffff", "ffffffff"), ("ffffffff", "ffffffff"), ("1cb996fc", "bb002be7")),
                                   (("13198a2e", "03707344"), ("243f6a88", "85a308d3"), ("c4923a9c", "483df7a0"))):
        assert tuple(map(int, threefry(*map(word, keys), *map(word, counters)))) == tuple(int(x, 16) for x in answer)
    data, counters = jax.random.key_data(KEY), jnp.arange(14, dtype=jnp.uint32) * jnp.uint32(0x9E3779B9)
    np.testing.assert_array_equal(jnp.concatenate(threefry(*data, counters[:7], counters[7:])), threefry_2x32(data, counters))


def test_both_forms_draw_the_same(monkeypatch):
    """Older jaxs get jax's primitive, newer ones the operations. Fails if one of them is given its counters in another order."""
    drawn = {}
    for version in ((0, 10, 2), (0, 12, 0)):
        monkeypatch.setattr(jax, "__version_info__", version)
        drawn[version] = np.asarray(kept(KEY, 0.3, (3, 5, 33)))
    assert len(drawn) == 2 and (drawn[0, 10, 2] == drawn[0, 12, 0]).all()


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_as_many_as_asked_for(rate):
    """Within 5 standard deviations, in all and along each dimension; and neighbours along each dimension decide for themselves.

    Fails if the rate is taken for the share that is kept, or rows draw alike: a row's number left out.
    """
    shape = (16, 64, 128)
    found = np.asarray(kept(KEY, rate, shape), np.float64) - (1 - rate)
    deviation = (rate * (1 - rate)) ** 0.5
    assert abs(found.mean()) < 5 * deviation / found.size**0.5
    for axis in range(3):
        others = found.size / shape[axis]
        assert np.abs(found.mean(tuple(a for a in range(3) if a != axis))).max() < 5 * deviation / others**0.5
        pairs = np.take(found, range(1, shape[axis]), axis) * np.take(found, range(shape[axis] - 1), axis)
        assert abs(pairs.mean()) < 5 * deviation**2 / pairs.size**0.5
    assert not np.array_equal(found, np.asarray(kept(jax.random.key(8), rate, shape)) - (1 - rate))


def test_the_mean_stays():
    """What is kept is scaled up, in x's type; without a key or a rate nothing is dropped. Fails if it is divided by the rate."""
    x = jnp.ones((64, 256), jnp.bfloat16)
    dropped = dropout(x, 0.25, KEY)
    assert dropped.dtype == x.dtype and set(np.unique(dropped.astype(jnp.float32))) == {0.0, float(jnp.bfloat16(1 / 0.75))}
    assert abs(float(jnp.mean(dropped.astype(jnp.float32))) - 1) < 0.03
    assert dropout(x, 0.25, None) is x and dropout(x, 0.0, KEY) is x
    one = dropout(jnp.ones((2, 50, 8)), 0.5, KEY, shared=(1,))
    assert (one == one[:, :1]).all() and 0 < float(jnp.mean(one)) < 2


@pytest.mark.parametrize("split", [("rows", None, None), ("rows", None, "features"), (None, "features", None)], ids=str)
def test_the_same_however_it_is_split(split):
    """On 8 devices each draws the fates of its own part and no other: the same as on one, and nothing is sent.

    Fails if a fate depends on the part's own numbering: an iota inside shard_map.
    """
    shape = (8, 6, 32)
    whole = np.asarray(kept(KEY, 0.4, shape))
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("rows", "features")), PartitionSpec(*split))
    program = jax.jit(lambda key: kept(key, 0.4, shape), out_shardings=sharding).lower(KEY).compile()
    np.testing.assert_array_equal(program(KEY), whole)
    assert not re.search(r"all-|collective-|reduce-scatter", program.as_text())


def test_keys_of_another_generator_and_many_at_once():
    """Fails if of a key of four words two are left out (words[:2] of it), or keys of a vmap are mixed."""
    for last in (1, 2):
        other = jax.random.wrap_key_data(jnp.array([1, 2, 3, last], jnp.uint32), impl="rbg")
        drawn = jax.random.wrap_key_data(jax.random.bits(other, (2,), jnp.uint32), impl="threefry2x32")
        np.testing.assert_array_equal(kept(other, 0.5, (64, 64)), kept(drawn, 0.5, (64, 64)))
    keys = jax.random.split(KEY, 3)
    many = jax.vmap(lambda key: kept(key, 0.5, (5, 7)))(keys)
    np.testing.assert_array_equal(many, np.stack([kept(key, 0.5, (5, 7)) for key in keys]))
    assert kept(KEY, 0.5, ()).shape == () and kept(KEY, 1e-12, (4,)).all()

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Regexes over paths choose what is meant, and say so when they choose nothing."""
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core import tree
from jaxlm.core.errors import UserError
from jaxlm.optim import masks

SHAPES = {
    "embed/tokens": ((8, 4), ("vocab", "embed")),
    "blocks/attention/q/kernel": ((3, 4, 2, 2), ("layers", "embed", "heads", "head_dim")),
    "blocks/norm/scale": ((3, 4), ("layers", None)),
    "norm/scale": ((4,), (None,)),
    "head/table": ((8, 4), ("vocab", "embed")),
}
PARAMS = tree.unflatten({path: jnp.ones(shape) for path, (shape, _) in SHAPES.items()})
AXES = {path: axes for path, (_, axes) in SHAPES.items()}


def test_a_pattern_without_a_match_is_an_error_that_helps():
    """Fails if chosen() returns its mask without looking at it."""
    with pytest.raises(UserError, match=r"optimizer.frozen 'atention' matches no parameter, did you mean 'attention'"):
        masks.trainable(PARAMS, "atention")
    with pytest.raises(UserError, match="not a regular expression"):
        masks.trainable(PARAMS, "(embed")
    with pytest.raises(UserError, match="nothing left to train"):
        masks.trainable(PARAMS, ".*")


def test_trainable():
    assert tree.flatten(masks.trainable(PARAMS, "")) == dict.fromkeys(tree.paths(PARAMS), True)
    frozen = [path for path, hit in tree.flatten(masks.trainable(PARAMS, "^embed|scale$")).items() if not hit]
    assert sorted(frozen) == ["blocks/norm/scale", "embed/tokens", "norm/scale"]


def test_the_first_rate_that_matches_wins():
    """Fails if a later rule overrides an earlier one."""
    got = tree.flatten(masks.rates(PARAMS, ("^blocks/attention=0.5", "^blocks=0.1", "tokens=2"), AXES))
    assert got == {"embed/tokens": 2, "blocks/attention/q/kernel": 0.5, "blocks/norm/scale": 0.1, "norm/scale": 1,
                   "head/table": 1}
    with pytest.raises(UserError, match="optimizer.rates 'nothing'"):
        masks.rates(PARAMS, ("nothing=2",), AXES)


@pytest.mark.parametrize("rule", ["kernel", "kernel=fast", "=2", "(=2", "kernel=0", "kernel=-1"])
def test_a_rate_has_a_form(rule):
    with pytest.raises(ValueError, match="regex=multiplier"):
        masks.parse_rate(rule)


def test_layer_decay():
    """Fails if layer l is multiplied by decay ** l, or the embeddings by decay ** (L - 1)."""
    got = tree.flatten(masks.rates(PARAMS, ("kernel=2",), AXES, layer_decay=0.5, embeddings="^embed"))
    assert got["embed/tokens"] == 0.125 and got["norm/scale"] == 1 and got["head/table"] == 1
    assert got["blocks/attention/q/kernel"].shape == (3, 1, 1, 1) and got["blocks/norm/scale"].shape == (3, 1)
    np.testing.assert_array_equal(got["blocks/attention/q/kernel"].ravel(), [0.5, 1, 2])
    np.testing.assert_array_equal(got["blocks/norm/scale"].ravel(), [0.25, 0.5, 1])
    with pytest.raises(UserError, match="stacked by layer"):
        masks.rates({"norm": PARAMS["norm"]}, (), AXES, layer_decay=0.5, embeddings="^embed")

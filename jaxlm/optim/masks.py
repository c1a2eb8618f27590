# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Which parameters are trained, decayed, and at what rate: regexes over paths, each of which must match something."""
import re
from typing import Any

import numpy as np

from jaxlm.core import tree
from jaxlm.core.errors import UserError, nearest
from jaxlm.core.types import Params


def chosen(params: Params, pattern: str, field: str) -> Any:
    """A tree of booleans: True where `pattern` is found in the path.

    UserError naming `field` when the pattern is no regex or matches nothing: a typing error would otherwise change
    the training silently. An empty pattern matches nothing, and may.
    """
    try:
        out = tree.match(params, pattern)
    except re.error as error:
        raise UserError(f"{field} '{pattern}' is not a regular expression: {error}") from error
    if pattern and not any(tree.flatten(out).values()):
        paths = tree.paths(params)
        word = re.sub(r"[^\w/]", "", pattern)
        near = nearest(word, [*paths, *{part for path in paths for part in path.split("/")}])
        shown = ", ".join(paths[:5]) + (f", ... ({len(paths)} in all)" if len(paths) > 5 else "")
        raise UserError(f"{field} '{pattern}' matches no parameter{near or '.'} There are: {shown}")
    return out


def trainable(params: Params, frozen: str) -> Any:
    """A tree of booleans: False where the path matches `frozen`; UserError when that is everything."""
    hit = tree.flatten(chosen(params, frozen, "optimizer.frozen"))
    if hit and all(hit.values()):
        raise UserError(f"optimizer.frozen '{frozen}' matches every parameter: there is nothing left to train")
    return tree.map_with_path(lambda path, _: not hit[path], params)


def parse_rate(rule: str) -> tuple[str, float]:
    """('regex', multiplier) from 'regex=multiplier'; ValueError otherwise."""
    pattern, equals, value = rule.rpartition("=")
    try:
        out = float(value)
        re.compile(pattern)
    except (ValueError, re.error) as error:
        raise ValueError(f"'{rule}' is not of the form regex=multiplier ({error})") from error
    if not equals or not pattern or not out > 0:
        raise ValueError(f"'{rule}' is not of the form regex=multiplier with a multiplier above 0 (to stop training "
                         "a parameter use optimizer.frozen)")
    return pattern, out


def rates(params: Params, rules: tuple[str, ...], axes: dict[str, tuple], layer_decay: float = 1.0,
          embeddings: str = "") -> Any:
    """A tree of learning-rate multipliers: floats, or float32 [L, 1, ...] on stacks of layers.

    `rules` are 'regex=multiplier', the first that matches wins, none is 1. With layer_decay < 1 layer l of a stack of L
    is multiplied by layer_decay ** (L - 1 - l), what matches `embeddings` by layer_decay ** L (BEiT, arXiv 2106.08254),
    everything else by 1. `axes` are the logical axes by path.
    """
    parsed = [parse_rate(rule) for rule in rules]
    hits = [tree.flatten(chosen(params, pattern, "optimizer.rates")) for pattern, _ in parsed]
    deepest = 0
    below = {}
    if layer_decay != 1:
        flat = tree.flatten(params)
        deepest = max((x.shape[axes[p].index("layers")] for p, x in flat.items() if "layers" in axes[p]), default=0)
        if not deepest:
            raise UserError("optimizer.layer_decay needs parameters that are stacked by layer and there are none: "
                            "set it to 1")
        below = tree.flatten(chosen(params, embeddings, "optimizer.embeddings"))

    def one(path: str, leaf: Any) -> Any:
        out = next((value for (_, value), hit in zip(parsed, hits) if hit[path]), 1.0)
        if layer_decay == 1:
            return out
        if "layers" in axes[path]:
            axis = axes[path].index("layers")
            layers = leaf.shape[axis]
            shape = [layers if i == axis else 1 for i in range(len(leaf.shape))]
            return (out * layer_decay ** np.arange(layers - 1, -1, -1.0)).astype(np.float32).reshape(shape)
        return out * layer_decay**deepest if below[path] else out

    return tree.map_with_path(one, params)

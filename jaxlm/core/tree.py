# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Paths of a parameter tree and what is chosen by regex over them; a parameter's path is its public name."""
import re
from collections.abc import Callable
from typing import Any

import jax


def path_str(path: tuple) -> str:
    """'blocks/attention/q/kernel' from a jax key path."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def paths(tree: Any) -> list[str]:
    """The path of every leaf, in leaf order."""
    return [path_str(p) for p, _ in jax.tree.leaves_with_path(tree)]


def flatten(tree: Any) -> dict[str, Any]:
    """{path: leaf}."""
    return {path_str(p): x for p, x in jax.tree.leaves_with_path(tree)}


def flatten_axes(axes: Any) -> dict[str, tuple]:
    """{path: tuple of logical axis names} of a model's axes()."""
    return {path_str(p): x for p, x in jax.tree.leaves_with_path(axes, is_leaf=lambda x: isinstance(x, tuple))}


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """The nested dict behind {path: leaf}."""
    out: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = out
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return out


def map_with_path(f: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """tree.map with the path as the first argument of f."""
    return jax.tree.map_with_path(lambda p, *x: f(path_str(p), *x), tree, *rest)


def match(tree: Any, pattern: str) -> Any:
    """The same tree with True where `pattern` is found in the path; an empty pattern matches nothing."""
    return map_with_path(lambda p, _: bool(pattern) and re.search(pattern, p) is not None, tree)


def partition(tree: Any, mask: Any) -> tuple[Any, Any]:
    """(selected, rest) by a tree of booleans: same structure, None where a leaf went to the other side."""
    return (
        jax.tree.map(lambda hit, x: x if hit else None, mask, tree),
        jax.tree.map(lambda hit, x: None if hit else x, mask, tree),
    )


def combine(first: Any, second: Any) -> Any:
    """The inverse of `partition`."""
    return jax.tree.map(lambda x, y: y if x is None else x, first, second, is_leaf=lambda x: x is None)


def size(tree: Any) -> int:
    """Number of scalars in the tree."""
    return sum(x.size for x in jax.tree.leaves(tree))


def nbytes(tree: Any) -> int:
    """Bytes of the tree's arrays (or shapes)."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

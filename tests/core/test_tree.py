# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Paths, partition and combine: the regexes that choose parameters everywhere rest on these."""
import jax
import numpy as np

from jaxlm.core import log, tree

TREE = {"a": {"kernel": np.ones((2, 3)), "bias": np.zeros(3)}, "b": [np.ones(4), {"kernel": np.ones(5)}]}


def test_paths_and_back():
    assert tree.paths(TREE) == ["a/bias", "a/kernel", "b/0", "b/1/kernel"]
    flat = tree.flatten({"a": TREE["a"], "c": np.ones(1)})
    assert jax.tree.structure(tree.unflatten(flat)) == jax.tree.structure({"a": TREE["a"], "c": np.ones(1)})
    assert tree.size(TREE) == 18 and tree.nbytes(TREE) == 18 * 8


def test_partition_and_combine_are_inverse():
    """Fails if a leaf is lost or taken twice: swap the two sides in tree.partition."""
    mask = tree.match(TREE, "kernel$")
    chosen, rest = tree.partition(TREE, mask)
    assert tree.paths(chosen) == ["a/kernel", "b/1/kernel"] and tree.paths(rest) == ["a/bias", "b/0"]
    assert jax.tree.all(jax.tree.map(lambda x, y: x is y, tree.combine(chosen, rest), TREE))
    assert not any(jax.tree.leaves(tree.match(TREE, "")))


def test_numbers_for_people():
    assert [log.count(x) for x in (5, 1234, 4.27e6, 8.03e9, 2.4e20)] == ["5", "1.23k", "4.27M", "8.03B", "2.4e+20"]
    assert [log.size(x) for x in (12, 2.5e3, 503e6, 1.01e9)] == ["12 B", "2.5 kB", "503 MB", "1.01 GB"]
    assert [log.clock(x) for x in (5, 65, 3723)] == ["00:05", "01:05", "1:02:03"]


def test_progress_without_a_terminal(capsys):
    """Plain lines, one every so often and one at the end."""
    with log.Progress(3, "work", "files", every=0.0) as bar:
        for _ in range(3):
            bar.note("loss 1.0")
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert "work: 1 of 3 files" in lines[0] and "left" in lines[0] and "loss 1.0" in lines[0] and "work: 3 of 3 files" in lines[2]

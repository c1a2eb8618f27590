# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Losses and gradients of two real processes = those of one device without a layout: every family, rows and weights split over processes."""
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from jaxlm.core import tree
from jaxlm.parallel import mesh, place, processes, rules
from tests import tiny
from tests.several import finish, free_port
from tests.test_equivalence import FAMILIES, OF_A_MICRO_BATCH, close, reference, run

# fsdp is the outermost axis with more than one part, so that weights are gathered and gradients summed across the processes.
MESH = {"data": 1, "fsdp": 2, "expert": 2, "tensor": 2}


def without(family: str) -> dict[str, float]:
    return OF_A_MICRO_BATCH.get(family, {})


def main(folder: pathlib.Path, address: str, index: int) -> None:
    """One of two processes: every family, one after the other; the first keeps what came out."""
    processes.initialise(address, 2, index, join_seconds=300)
    layout = place.Layout(mesh.make(mesh.Config(**MESH)), rules.find("fsdp_tp"))
    for family in FAMILIES:
        loss, grads, carry = run(family, layout, 4, **without(family))
        if processes.first():
            np.savez(folder / f"{family}.npz", loss=loss, **tree.flatten({"grads": grads, "carry": carry}))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What a pair of processes of 4 devices each made of all families."""
    folder, address = tmp_path_factory.mktemp("pair"), f"127.0.0.1:{free_port()}"
    code = "import pathlib, sys; from tests import test_equivalence_processes as t; t.main(pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
    logs = [open(folder / f"{index}.log", "w") for index in (0, 1)]
    started = [subprocess.Popen([sys.executable, "-c", code, str(folder), address, str(index)], stdout=log, stderr=log, cwd=tiny.ROOT,
                                env=environment) for index, log in enumerate(logs)]
    assert finish(started) == [0, 0], "\n".join((folder / f"{index}.log").read_text()[-3000:] for index in (0, 1))
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes(pair, family):
    """Fails if a process puts other rows than its own (`first = 0` in place.put)."""
    found = tree.unflatten(dict(np.load(pair / f"{family}.npz")))
    close((found["loss"], found["grads"], found.get("carry")), reference(family, tuple(without(family).items())))

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Losses and gradients of two real processes = those of one device without a layout: every family, every rule, rows and weights
split over the processes."""
import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxlm.core import tree
from jaxlm.parallel import mesh, place, processes, rules
from tests import tiny
from tests.several import finish, free_port
from tests.test_equivalence import FAMILIES, OF_A_MICRO_BATCH, close, reference, run

# Every axis that a rule splits over, in two; what is left of 8 devices is `data`, outermost. (Only rows: no experts.)
MESHES = {
    "dp": {"data": 8},
    "fsdp": {"data": 1, "fsdp": 4, "expert": 2},
    "fsdp_seq": {"data": 1, "fsdp": 2, "expert": 2, "seq": 2},
    "tp": {"data": 2, "expert": 2, "tensor": 2},
    "fsdp_tp": {"data": 1, "fsdp": 2, "expert": 2, "tensor": 2},
}
CASES = [(family, rule, n) for family in FAMILIES for rule in sorted(rules.RULES) for n in (1, 4)]
# Every rule with one family, and every family with the rule that moves most; the rest in slow ones.
QUICK = [case for case in CASES if case[0] == "gpt" or case[1:] == ("fsdp_tp", 4)]
EVERY = [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]


def without(family: str, micro_batches: int) -> dict[str, float]:
    return OF_A_MICRO_BATCH.get(family, {}) if micro_batches > 1 else {}


def layout_of(rule: str, micro_batches: int) -> place.Layout:
    """The outermost axis of the mesh crosses the processes, as it does in a run; with one micro-batch the innermost does, so that
    halves of a row or of a product's features lie in two processes."""
    devices = jax.devices()
    if micro_batches == 1:
        devices = [device for pair in zip(devices[:4], devices[4:], strict=True) for device in pair]
    layout = place.Layout(mesh.make(mesh.Config(**MESHES[rule]), devices), rules.find(rule))
    assert [device.id for device in layout.mesh.devices.flat] == [device.id for device in devices]
    return layout


def main(folder: pathlib.Path, address: str, index: int, quick: bool) -> None:
    """One of two processes: every case, one after the other; the first keeps what came out."""
    processes.initialise(address, 2, index, join_seconds=300)
    for case in [case for case in CASES if (case in QUICK) == quick]:
        family, rule, micro_batches = case
        loss, grads, carry = run(family, layout_of(rule, micro_batches), micro_batches, **without(family, micro_batches))
        if processes.first():
            np.savez(folder / f"{'-'.join(map(str, case))}.npz", loss=loss, **tree.flatten({"grads": grads, "carry": carry}))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What a pair of processes of 4 devices each made of the quick cases, or of the rest: a function of which."""
    return functools.cache(functools.partial(started, tmp_path_factory.mktemp("pair")))


def started(parent: pathlib.Path, quick: bool) -> pathlib.Path:
    folder, address = parent / ("quick" if quick else "rest"), f"127.0.0.1:{free_port()}"
    folder.mkdir()
    code = "import json, pathlib, sys; from tests import test_equivalence_processes as t; t.main(pathlib.Path(sys.argv[1]), *map(json.loads, sys.argv[2:]))"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
    logs = [open(folder / f"{index}.log", "w") for index in (0, 1)]
    running = [subprocess.Popen([sys.executable, "-c", code, str(folder), *map(json.dumps, (address, index, quick))], stdout=log, stderr=log,
                                cwd=tiny.ROOT, env=environment) for index, log in enumerate(logs)]
    assert finish(running) == [0, 0], "\n".join((folder / f"{index}.log").read_text()[-3000:] for index in (0, 1))
    return folder


@pytest.mark.parametrize("family,rule,micro_batches", EVERY)
def test_two_processes(pair, family, rule, micro_batches):
    """Fails if a process puts other rows than its own (`first = 0` in place.put)."""
    case = (family, rule, micro_batches)
    found = tree.unflatten(dict(np.load(pair(case in QUICK) / f"{'-'.join(map(str, case))}.npz")))
    close((found["loss"], found["grads"], found.get("carry")), reference(family, tuple(without(family, micro_batches).items())))

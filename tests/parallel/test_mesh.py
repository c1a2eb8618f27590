# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Mesh sizes: what is left goes to -1, impossible numbers are told with the way out, slices are joined by data alone."""
import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxlm.core.errors import UserError
from jaxlm.parallel import mesh
from jaxlm.parallel.mesh import Config


@dataclasses.dataclass(frozen=True)
class Device:
    """As much of a device as the arrangement of a mesh looks at."""

    id: int
    slice_index: int
    process_index: int = 0
    platform: str = "tpu-like"
    device_kind: str = "none"


@dataclasses.dataclass(frozen=True)
class Process:
    """A device that knows no slices."""

    id: int
    process_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"


@pytest.mark.parametrize("config,found", [
    (Config(), (8, 1, 1, 1, 1)),
    (Config(data=1, fsdp=-1), (1, 8, 1, 1, 1)),
    (Config(fsdp=2, tensor=2), (2, 2, 1, 1, 2)),
    (Config(data=1, expert=-1, seq=4), (1, 1, 2, 4, 1)),
    (Config(data=2, fsdp=1, expert=2, seq=1, tensor=2), (2, 1, 2, 1, 2)),
])
def test_sizes(config, found):
    """Fails if -1 takes all devices instead of what is left: return `devices` for it in mesh.sizes."""
    made = mesh.make(config)
    assert made.axis_names == mesh.AXES and made.devices.shape == found
    assert tuple(mesh.sizes(config, 8).values()) == found


def test_the_innermost_axis_holds_neighbours():
    """Fails if the axes come in another order: put tensor first in AXES."""
    ids = np.vectorize(lambda d: d.id)(mesh.make(Config(data=2, fsdp=2, tensor=2)).devices)
    np.testing.assert_array_equal(ids[0, 0, 0, 0], [0, 1])
    np.testing.assert_array_equal(ids[:, 0, 0, 0, 0], [0, 4])


def test_the_compiler_places_what_rules_do_not_state():
    """Fails if the mesh is made with jax.make_mesh's own default: drop axis_types."""
    assert set(mesh.make(Config()).axis_types) == {AxisType.Auto}


@pytest.mark.parametrize("config,part", [
    (Config(data=3), "needs 3 devices and there are 8: change a size, or set one to -1"),
    (Config(fsdp=3), "8 is not a multiple of 3"),
    (Config(data=-1, seq=-1), "more than one size of -1"),
    (Config(tensor=0), "mesh.tensor is 0: a size is 1 or more"),
    (Config(expert=-2), "mesh.expert is -2"),
    (Config(slices=0), "mesh.slices is 0"),
    (Config(data=3, slices=2), "mesh.data is 3, which is not a multiple of mesh.slices=2"),
    (Config(fsdp=8, slices=2), "data=1, which does not divide over mesh.slices=2"),
    (Config(slices=2), "the devices come in 1 processes of 8: set mesh.slices=1"),
])
def test_impossible_numbers(config, part):
    """Fails if a size is not checked: return [] from mesh.Config.problems, or drop the last check of mesh.sizes."""
    with pytest.raises(UserError) as caught:
        mesh.make(config)
    assert part in str(caught.value)


@pytest.mark.parametrize("device", [lambda i, slice: Device(i, slice), lambda i, slice: Process(i, slice)], ids=["slices", "processes"])
def test_data_runs_across_slices(device):
    """Fails if another axis crosses slices: give the 2 of `between` to fsdp in mesh.arrange."""
    # Handed over mixed: their own word counts, not their order.
    devices = [device(i, i % 2) for i in range(16)]
    made = mesh.arrange({"data": 4, "fsdp": 2, "expert": 1, "seq": 1, "tensor": 2}, 2, devices)
    assert made.shape == (4, 2, 1, 1, 2)
    slices = np.vectorize(lambda d: getattr(d, "slice_index", d.process_index))(made)
    assert [set(part.flat) for part in slices] == [{0}, {0}, {1}, {1}]


@pytest.mark.parametrize("slices,of,part", [(2, [0, 1, 2, 3] * 2, "come in 4 slices of 2, 2, 2, 2: set mesh.slices=4"),
                                            (2, [0] * 3 + [1] * 5, "of 3, 5: set mesh.slices=2 and use equal ones")])
def test_slices_that_are_not_there(slices, of, part):
    """Fails if the devices' own word is not asked: drop the check of mesh.arrange (then jax raises a plain ValueError)."""
    with pytest.raises(UserError, match=part):
        mesh.arrange({"data": 8, "fsdp": 1, "expert": 1, "seq": 1, "tensor": 1}, slices, [Device(i, s) for i, s in enumerate(of)])


def test_slices_that_were_forgotten():
    """Fails if any axis may cross slices of TPUs silently: drop the check of mesh.make."""
    devices = [Device(i, i // 4, platform="tpu") for i in range(8)]
    with pytest.raises(UserError, match="set mesh.slices=2"):
        mesh.make(Config(), devices)


def test_a_part_of_the_devices():
    assert mesh.make(Config(tensor=2), jax.devices()[:4]).devices.shape == (2, 1, 1, 1, 2)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Named device meshes: sizes in the config, one of which may be -1 for "all that are left"; several slices joined by `data`."""
import collections
import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from jaxlm.core.errors import UserError

# Outermost first: neighbours along the last axis are the closest, and tensor parallelism talks most.
AXES = ("data", "fsdp", "expert", "seq", "tensor")


@dataclasses.dataclass(frozen=True)
class Config:
    """Devices along each mesh axis, outermost first; at most one may be -1."""

    data: int = -1  # rows of the batch, parameters replicated
    fsdp: int = 1  # rows of the batch, parameters split
    expert: int = 1  # rows of the batch, experts split
    seq: int = 1  # positions of a row
    tensor: int = 1  # within a layer
    slices: int = 1  # groups of devices with a slower network between them; `data` runs across them, the rest within

    @property
    def sizes(self) -> dict[str, int]:
        return {axis: getattr(self, axis) for axis in AXES}

    def problems(self) -> list[str]:
        out = [f"mesh.{k} is {v}: a size is 1 or more, or -1 for what is left" for k, v in self.sizes.items()
               if v != -1 and v < 1]
        if list(self.sizes.values()).count(-1) > 1:
            out.append("mesh has more than one size of -1: only one axis can take what is left")
        if self.slices < 1:
            out.append(f"mesh.slices is {self.slices}: it must be 1 or more")
        elif self.data > 0 and self.data % self.slices:
            out.append(f"mesh.data is {self.data}, which is not a multiple of mesh.slices={self.slices}: rows are what "
                       "slices divide among them; make data a multiple, or -1")
        return out


def sizes(config: Config, devices: int) -> dict[str, int]:
    """The mesh's sizes with -1 resolved; UserError when they cannot hold exactly `devices`."""
    if config.problems():
        raise UserError("; ".join(config.problems()))
    out = config.sizes
    known = math.prod(v for v in out.values() if v != -1)
    shown = " x ".join(f"{k}={v}" for k, v in out.items())
    if -1 in out.values():
        if devices % known:
            raise UserError(f"mesh {shown} does not fit {devices} devices: {devices} is not a multiple of {known}")
        out = {k: devices // known if v == -1 else v for k, v in out.items()}
    elif known != devices:
        raise UserError(f"mesh {shown} needs {known} devices and there are {devices}: change a size, or set one to -1")
    if out["data"] % config.slices:
        raise UserError(f"mesh {shown} on {devices} devices has data={out['data']}, which does not divide over "
                        f"mesh.slices={config.slices}: make data a multiple of slices, or the other sizes smaller")
    return out


def make(config: Config, devices: list | None = None) -> Mesh:
    """The mesh over all (or the given) devices, in Auto mode: the compiler places what the rules do not state.

    With several slices the first factor of `data` runs across them. A slice is what the devices call one
    (slice_index); where they do not, as on CPU, it is a process. UserError when the numbers do not agree.
    """
    devices = jax.devices() if devices is None else devices
    shape = sizes(config, len(devices))
    # Auto is stated because jax.make_mesh defaults to Explicit, under which every contraction must name its output.
    auto = (AxisType.Auto,) * len(shape)
    if config.slices == 1:
        found = collections.Counter(getattr(device, "slice_index", 0) for device in devices)
        if len(found) > 1 and devices[0].platform == "tpu":
            raise UserError(f"mesh.slices is 1 and the devices come in {len(found)} slices: set mesh.slices={len(found)}, "
                            "so that only `data` crosses the network between them")
        return jax.make_mesh(tuple(shape.values()), tuple(shape), axis_types=auto, devices=devices)
    return Mesh(arrange(shape, config.slices, devices), tuple(shape), axis_types=auto)


def arrange(shape: dict[str, int], slices: int, devices: list[Any]) -> np.ndarray:
    """Devices as an array of this shape, whose first axis runs over the slices outermost."""
    by_slice = hasattr(devices[0], "slice_index")
    kind, name = ("slice_index", "slices") if by_slice else ("process_index", "processes")
    found = collections.Counter(getattr(device, kind) for device in devices)
    if len(found) != slices or len(set(found.values())) > 1:
        counts = ", ".join(str(found[k]) for k in sorted(found))
        raise UserError(f"mesh.slices is {slices} and the devices come in {len(found)} {name} of {counts}: "
                        f"set mesh.slices={len(found)}" + ("" if len(set(found.values())) == 1 else " and use equal ones"))
    within = {**shape, "data": shape["data"] // slices}
    between = {axis: slices if axis == "data" else 1 for axis in shape}
    return mesh_utils.create_hybrid_device_mesh(tuple(within.values()), tuple(between.values()), devices,
                                                process_is_granule=not by_slice)

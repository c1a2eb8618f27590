# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Named device meshes: sizes in the config, one of which may be -1 for "all that are left"."""
import dataclasses
import math

import jax
from jax.sharding import AxisType, Mesh

from jaxlm.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Config:
    """Devices along each mesh axis, outermost first; at most one may be -1."""

    data: int = -1  # rows of the batch, parameters replicated
    fsdp: int = 1  # rows of the batch, parameters split
    tensor: int = 1  # within a layer

    @property
    def sizes(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def problems(self) -> list[str]:
        out = [f"mesh.{k} is {v}: a size is 1 or more, or -1 for what is left" for k, v in self.sizes.items()
               if v != -1 and v < 1]
        if list(self.sizes.values()).count(-1) > 1:
            out.append("mesh has more than one size of -1: only one axis can take what is left")
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
        return {k: devices // known if v == -1 else v for k, v in out.items()}
    if known != devices:
        raise UserError(f"mesh {shown} needs {known} devices and there are {devices}: change a size, or set one to -1")
    return out


def make(config: Config, devices: list | None = None) -> Mesh:
    """The mesh over all (or the given) devices, in Auto mode: the compiler places what the rules do not state."""
    devices = jax.devices() if devices is None else devices
    shape = sizes(config, len(devices))
    # Auto is stated because jax.make_mesh defaults to Explicit, under which every contraction must name its output.
    return jax.make_mesh(tuple(shape.values()), tuple(shape), axis_types=(AxisType.Auto,) * len(shape), devices=devices)

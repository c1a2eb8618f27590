# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Weights of a Hugging Face model file as a table of rows: each tensor's name, our path, and how its numbers lie.

One table serves both directions: import reads it forwards, export backwards. Names are those of the *file*
(model.safetensors), which are not always those of the running model.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxlm.core import tree
from jaxlm.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor, or with {} in its name one tensor a layer, stacked in ours.

    hf      the name in the file
    ours    the path of our parameter
    inputs  0: the same numbers in the same order. n > 0: a torch Linear weight [out, in], transposed in ours, whose
            first n dimensions (after the layers) are the inputs
    part    (i, n): ours is the i-th of n equal parts of the tensor's last dimension
    """

    hf: str
    ours: str
    inputs: int = 0
    part: tuple[int, int] = (0, 1)

    @property
    def stacked(self) -> bool:
        return "{}" in self.hf


def to_params(
    tensors: Mapping[str, np.ndarray], rows: Sequence[Row], abstract: Any, *, prefix: str = "", ignore: str = ""
) -> dict[str, Any]:
    """The parameter tree of `abstract` (shapes and types) from a file's tensors.

    prefix: what a file may leave off all its names (files of a bare model without its head). ignore: a regex of names
    that carry no weights of ours. UserError with every tensor that is missing, left over, or of another shape.
    """
    wanted = tree.flatten(abstract)
    names = {name: name for name in tensors}
    if prefix and not any(name.startswith(prefix) for name in names):
        known = {r.hf.removeprefix(prefix) for r in rows if r.hf.startswith(prefix)}
        bare = lambda name: re.sub(r"(^|\.)\d+\.", r"\1{}.", name, count=1) in known
        names = {(prefix + name if bare(name) else name): name for name in names}
    rows = [r for r in rows if r.ours in wanted]
    missing, wrong, used, out = [], [], set(), {}
    for row in rows:
        shape, dtype = wanted[row.ours].shape, wanted[row.ours].dtype
        layers = [(row.hf.format(i), shape[1:]) for i in range(shape[0])] if row.stacked else [(row.hf, shape)]
        parts = []
        for name, one in layers:
            used.add(name)
            if name not in names:
                missing.append(name)
                continue
            tensor = np.asarray(tensors[names[name]])
            if tensor.shape != file_shape(row, one):
                wrong.append(
                    f"{name} is {list(tensor.shape)} and should be {list(file_shape(row, one))} for {row.ours}"
                )
                continue
            parts.append(_read(row, tensor, one).astype(dtype))
        if len(parts) == len(layers):
            out[row.ours] = np.stack(parts) if row.stacked else parts[0]
    extra = [n for n in names if n not in used and not (ignore and re.search(ignore, n))]
    unmapped = [path for path in wanted if path not in {r.ours for r in rows}]
    problems = [
        f"{what}: {_shown(found)}"
        for what, found in (
            ("not in the file", sorted(set(missing))),
            ("in the file but not in this model", sorted(extra)),
            ("of another shape", wrong),
            ("parameters that no name stands for", unmapped),
        )
        if found
    ]
    if problems:
        raise UserError("the checkpoint does not fit this model; " + "; ".join(problems))
    return tree.unflatten({path: out[path] for path in wanted})


def from_params(params: Any, rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """The tensors of a file from our parameters: the table read backwards. Arrays are contiguous."""
    flat, found = tree.flatten(params), {}
    for row in (r for r in rows if r.ours in flat):
        value = np.asarray(flat[row.ours])
        for i, one in enumerate(value) if row.stacked else [(0, value)]:
            found.setdefault(row.hf.format(i), {})[row.part[0]] = (row, _write(row, one))
    out = {}
    for name, parts in found.items():
        pieces = [parts[i][1] for i in sorted(parts)]
        out[name] = np.ascontiguousarray(pieces[0] if len(pieces) == 1 else np.concatenate(pieces, -1))
    unmapped = [path for path in flat if path not in {r.ours for r in rows}]
    if unmapped:
        raise UserError(f"parameters that no name of this format stands for: {_shown(unmapped)}")
    return out


def file_shape(row: Row, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The tensor's shape in the file when one layer of ours has `shape`."""
    if row.inputs:
        return math.prod(shape[row.inputs :]), math.prod(shape[: row.inputs])
    if row.part[1] > 1:  # [in, n * out], or [n * out] for a bias, whose own dimensions are all outputs
        lead = shape[:1] if row.ours.endswith("kernel") else ()
        return *lead, row.part[1] * math.prod(shape[len(lead) :])
    return _plain_shape(row, shape)


def _plain_shape(row: Row, shape: tuple[int, ...]) -> tuple[int, ...]:
    if row.ours.endswith("bias"):
        return (math.prod(shape),)
    if row.ours.endswith("kernel") and len(shape) > 2:  # only the o projection, whose inputs are heads of features
        return math.prod(shape[:-1]), shape[-1]
    return shape


def _read(row: Row, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if row.part[1] > 1:
        tensor = np.split(tensor, row.part[1], -1)[row.part[0]]
    return (tensor.T if row.inputs else tensor).reshape(shape)


def _write(row: Row, value: np.ndarray) -> np.ndarray:
    if row.inputs:
        return value.reshape(math.prod(value.shape[: row.inputs]), -1).T
    whole = file_shape(row, value.shape)
    return value.reshape(*whole[:-1], whole[-1] // row.part[1])


def _shown(names: Sequence[str], most: int = 6) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")

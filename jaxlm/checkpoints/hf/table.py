# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Weights of a Hugging Face model file as a table of rows: each tensor's name, our path, and how its numbers lie.

One table serves both directions: import reads it forwards, export backwards. Names are those of the *file*
(model.safetensors), which are not always those of the running model.
"""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxlm.checkpoints.safetensors import Tensor
from jaxlm.core import tree
from jaxlm.core.errors import UserError, nearest
from jaxlm.core.types import Params


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor, or with {} in its name one tensor a layer, stacked in ours; with two {}, one a layer and expert.

    hf      the name in the file
    ours    the path of our parameter
    inputs  0: the same numbers in the same order. n > 0: a torch Linear weight [out, in], transposed in ours, whose
            first n dimensions (after the layers) are the inputs
    part    (i, n): ours is the i-th of n equal parts of the tensor's last dimension
    ones    dimensions of size 1 that the tensor begins with
    """

    hf: str
    ours: str
    inputs: int = 0
    part: tuple[int, int] = (0, 1)
    ones: int = 0

    @property
    def stacked(self) -> int:
        """How many leading dimensions of ours are a tensor each in the file."""
        return self.hf.count("{}")


@dataclasses.dataclass(frozen=True)
class Format:
    """A table with what surrounds it in files.

    prefix: what a file may leave off all its names (files of a bare model without its head). ignore: a regex of names
    that carry no weights of ours. repeats: {name that a file may have beside: the name of the tensor that it repeats}. bare: files are written without the prefix. renamed: (regex, replacement) of older
    spellings in names.
    """

    rows: tuple[Row, ...]
    prefix: str = ""
    ignore: str = ""
    bare: bool = False
    renamed: tuple[tuple[str, str], ...] = ()
    repeats: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def spare(self, name: str) -> bool:
        """Whether a tensor carries nothing that others do not."""
        return name in self.repeats or bool(self.ignore and re.search(self.ignore, name))


def to_params(
    tensors: Mapping[str, np.ndarray], form: Format, abstract: Any, done: Callable[[], None] = lambda: None
) -> Params:
    """The parameter tree of `abstract` (shapes, types and shardings) from a file's tensors.

    Every device's part of a parameter is read by itself, from the parts of the tensors that it is made of: beside the
    parameters no more is held than one such part. `done` is called after each parameter. UserError, before anything
    is read, with every tensor that is missing, left over, or of another shape.
    """
    wanted = tree.flatten(abstract)
    found, problems = match({name: x.shape for name, x in tensors.items()}, form, {p: x.shape for p, x in wanted.items()})
    problems += unequal(tensors, form)
    if problems:
        raise UserError("the checkpoint does not fit this model; " + "; ".join(problems))
    out = {}
    for path, leaf in wanted.items():
        out[path] = place(tensors, *found[path], leaf)
        done()
    return tree.unflatten(out)


def match(
    there: Mapping[str, tuple[int, ...]], form: Format, wanted: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, tuple[Row, dict[tuple[int, ...], str]]], list[str]]:
    """({our path: (its row, {place among the stacked: name in the file})}, what does not fit in sentences)."""
    names = actual_names(there, form)
    rows = [r for r in form.rows if r.ours in wanted]
    missing, wrong, used, out = [], [], set(), {}
    for row in rows:
        shape = wanted[row.ours]
        one, sources = shape[row.stacked :], {}
        for at in itertools.product(*(range(n) for n in shape[: row.stacked])):
            name = row.hf.format(*at)
            used.add(name)
            if name not in names:
                missing.append(name)
            elif there[names[name]] != file_shape(row, one):
                wrong.append(f"{name} is {list(there[names[name]])} and should be {list(file_shape(row, one))} for {row.ours}")
            else:
                sources[at] = names[name]
        out[row.ours] = row, sources
    extra = [n for n in names if n not in used and not form.spare(n)]
    unmapped = [path for path in wanted if path not in out]
    problems = [
        f"{what}: {_shown(found)}"
        for what, found in (
            ("not in the file", sorted(set(missing))),
            ("in the file but not in this model", sorted(extra)),
            ("of another shape", list(dict.fromkeys(wrong))),
            ("parameters that no name stands for", unmapped),
        )
        if found
    ]
    return out, problems


def unequal(tensors: Mapping[str, np.ndarray], form: Format) -> list[str]:
    """A sentence for each tensor that should repeat another one and does not: which of them is meant cannot be told."""
    names = actual_names(tensors, form)
    pairs = [(names[name], names[of]) for name, of in form.repeats.items() if name in names and of in names]
    return [f"{name} differs from {of}, which it should repeat" for name, of in pairs
            if tensors[name].shape != tensors[of].shape or not np.array_equal(np.asarray(tensors[name]), np.asarray(tensors[of]))]


def known_architecture(hf: Mapping[str, Any], known: Sequence[str]) -> None:
    """UserError where a config.json names an architecture that is none of `known`."""
    for name in hf.get("architectures") or ():
        if name not in known:
            raise UserError(f"architecture '{name}' of this {hf['model_type']} config is not here{nearest(name, known)} There are: "
                            f"{', '.join(known)}")


def actual_names(there: Mapping[str, Any], form: Format) -> dict[str, str]:
    """{name in the table: name in the file}: they differ in files of a bare model and in older spellings."""
    spelled = {}
    for name in there:
        new = name
        for pattern, replacement in form.renamed:
            new = re.sub(pattern, replacement, new)
        spelled[new] = name
    if not form.prefix or any(name.startswith(form.prefix) for name in there):
        return spelled
    known = {_template(r.hf.removeprefix(form.prefix)) for r in form.rows if r.hf.startswith(form.prefix)}
    return {(form.prefix + name if _template(name) in known else name): old for name, old in spelled.items()}


def _template(name: str) -> str:
    return re.sub(r"(?<=\.)(\d+|\{\})(?=\.)", "*", "." + name)


def place(tensors: Mapping[str, np.ndarray], row: Row, sources: Mapping[tuple[int, ...], str], leaf: Any) -> jax.Array:
    """The parameter `leaf` on its devices (the first one without a sharding)."""
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    read = functools.partial(_part, tensors, row, sources, leaf)
    return jax.make_array_from_callback(leaf.shape, sharding, read)


def _part(tensors: Mapping[str, np.ndarray], row: Row, sources: Mapping[tuple[int, ...], str], leaf: Any, index: tuple) -> np.ndarray:
    """leaf[index]: always a copy, since a view would go on depending on the file."""
    spans = [range(*at.indices(n)) for at, n in zip(index, leaf.shape, strict=True)]
    out = _aligned(tuple(map(len, spans)), leaf.dtype)
    for place, at in zip(
        itertools.product(*(range(len(s)) for s in spans[: row.stacked])), itertools.product(*spans[: row.stacked]), strict=True
    ):
        out[place] = _read(row, tensors[sources[at]], leaf.shape[row.stacked :])[index[row.stacked :]]
    return out


def _aligned(shape: tuple[int, ...], dtype: Any, boundary: int = 64) -> np.ndarray:
    """An empty array that JAX on a CPU takes as it is: of one that begins elsewhere it makes a copy."""
    length = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(length + boundary, np.uint8)
    first = -raw.ctypes.data % boundary
    return raw[first : first + length].view(dtype).reshape(shape)


def from_params(params: Params, form: Format, dtype: Any = None) -> dict[str, Tensor]:
    """The tensors of a file from our parameters, to be read one by one: the table backwards. dtype: other than ours."""
    flat, found = tree.flatten(params), {}
    for row in (r for r in form.rows if r.ours in flat):
        for at in itertools.product(*(range(n) for n in flat[row.ours].shape[: row.stacked])):
            found.setdefault(row.hf.format(*at), {})[row.part[0]] = (row, at)
    unmapped = [path for path in flat if path not in {r.ours for r in form.rows}]
    if unmapped:
        raise UserError(f"parameters that no name of this format stands for: {_shown(unmapped)}")
    out = {}
    for name, parts in found.items():
        row, at = parts[0]
        leaf = flat[row.ours]
        kind = np.dtype(dtype or leaf.dtype)
        shape = file_shape(row, leaf.shape[len(at) :])
        read = functools.partial(_joined, flat, [parts[i] for i in sorted(parts)], kind)
        out[name.removeprefix(form.prefix) if form.bare else name] = Tensor(shape, kind, read)
    return out


def _joined(flat: Mapping[str, Any], parts: Sequence[tuple[Row, tuple[int, ...]]], dtype: np.dtype) -> np.ndarray:
    pieces = [_write(row, _on_host(flat[row.ours], at)) for row, at in parts]
    return (pieces[0] if len(pieces) == 1 else np.concatenate(pieces, -1)).astype(dtype, copy=False)


def _on_host(value: Any, at: tuple[int, ...]) -> np.ndarray:
    """value[at], from whichever devices hold it; no more than that is brought over, and JAX keeps no copy."""
    if not isinstance(value, jax.Array):
        return np.asarray(value)[at]
    out = np.empty(value.shape[len(at) :], value.dtype)
    for shard in value.addressable_shards:
        where = [range(*s.indices(n)) for s, n in zip(shard.index, value.shape, strict=True)]
        if shard.replica_id == 0 and all(i in span for i, span in zip(at, where)):
            out[shard.index[len(at) :]] = np.asarray(shard.data[tuple(i - span.start for i, span in zip(at, where))])
    return out


def either(hf: Mapping[str, Any], name: str, general: str) -> Any:
    """A field of a config.json by the family's own name or, where only that is there, by the one that all families share."""
    return hf[name] if name in hf or general not in hf else hf[general]


def their_name(names: Mapping[str, str], ours: str) -> str:
    """The first name in a file's spelling {theirs: ours} of one of ours; ours itself where there is none."""
    return next((name for name, own in names.items() if own == ours), ours)


def file_shape(row: Row, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The tensor's shape in the file when one layer of ours has `shape`."""
    if row.inputs:
        return math.prod(shape[row.inputs :]), math.prod(shape[: row.inputs])
    if row.ones:
        return (1,) * row.ones + tuple(shape)
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
    """One layer of ours as a view of the tensor: neither splitting, transposing nor cutting a dimension up copies."""
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

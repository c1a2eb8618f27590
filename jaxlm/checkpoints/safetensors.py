# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Safetensors files, one or in shards with an index: read where they lie, written one tensor at a time.

The format (github.com/huggingface/safetensors): 8 bytes of length, a JSON header, the numbers in C order. Written here
and not by the library, because the library wants a whole file's tensors at once, and its 0.8.0 writes the numbers of a
transposed array in the wrong order without an error.
"""
import json
import math
import mmap
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxlm.core import files
from jaxlm.core.errors import UserError

DTYPES = {name: np.dtype(kind) for name, kind in {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "U32": np.uint32, "I32": np.int32,
    "U64": np.uint64, "I64": np.int64, "F16": np.float16, "F32": np.float32, "F64": np.float64, "C64": np.complex64,
    "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu}.items()}
BY_NAME = {str(dtype): dtype for dtype in DTYPES.values()}  # "bfloat16" and so on
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9
_AGAIN = "copy or download it again"


class Tensor(NamedTuple):
    """One tensor to be written; `read` gives its numbers when its turn comes, in any memory order."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


class Weights(Mapping[str, np.ndarray]):
    """The tensors of a folder (or of one file) by name: arrays over the mapped files, of which nothing is read yet.

    What has been read of a file counts as this process's memory until `release`. UserError names the file, and a tensor
    in it, where a file is absent, cut off or not of this format.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        self.files: dict[str, pathlib.Path] = {}  # of every tensor
        self._arrays: dict[str, np.ndarray] = {}
        self._maps: list[mmap.mmap] = []
        wanted = _files(self.path)
        for file, names in wanted.items():
            found = self._open(file, names)
            lacking = [name for name in names if name not in found]
            if lacking:
                raise UserError(f"{file} does not hold {_some(lacking)}, which {INDEX} says: {_AGAIN}")
            for name, array in found.items():
                if name in self._arrays:
                    raise UserError(f"tensor {name} is in {self.files[name].name} and in {file.name} of {self.path}: remove one of them")
                self._arrays[name], self.files[name] = array, file

    def _open(self, file: pathlib.Path, names: Sequence[str]) -> dict[str, np.ndarray]:
        try:
            with open(file, "rb") as opened:
                there = os.fstat(opened.fileno()).st_size
                header, start = _header(opened, there, file)
                end = start + max((entry["data_offsets"][1] for entry in header.values()), default=0)
                if end != there:
                    cut = [name for name, entry in header.items() if start + entry["data_offsets"][1] > there]
                    raise UserError(f"{file} has {there:,} bytes and should have {end:,}"
                                    + (f": it is cut off, {_some(cut)} {'is' if len(cut) == 1 else 'are'} not whole" if cut else "")
                                    + f"; {_AGAIN}")
                mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise UserError(f"{INDEX} of {self.path} names {file.name}, which is not there"
                            + (f" ({_some(names)} should be in it)" if names else "") + f": {_AGAIN}") from error
        except OSError as error:
            raise UserError(f"cannot read {file}: {error}") from error
        self._maps.append(mapped)
        whole = np.frombuffer(mapped, np.uint8)
        out = {}
        for name, entry in header.items():
            first, last = (start + offset for offset in entry["data_offsets"])
            if entry["dtype"] not in DTYPES:
                raise UserError(f"tensor {name} in {file} is of type {entry['dtype']}, which is not read: convert it to one of "
                                f"{', '.join(DTYPES)}")
            dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
            if math.prod(shape) * dtype.itemsize != last - first:
                raise UserError(f"tensor {name} in {file} has {last - first} bytes, which is not {entry['dtype']}{list(shape)}: {_AGAIN}")
            out[name] = whole[first:last].view(dtype).reshape(shape)
        return out

    def release(self) -> None:
        """Give back the memory of what has been read; reading it once more reads the file again."""
        for mapped in self._maps:
            if hasattr(mmap, "MADV_DONTNEED"):
                mapped.madvise(mmap.MADV_DONTNEED)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def _files(path: pathlib.Path) -> dict[pathlib.Path, list[str]]:
    """The files that make up a checkpoint, with the tensors that the index promises of each."""
    if path.is_file():
        return {path: []}
    if not path.is_dir():
        raise UserError(f"there is no folder {path}")
    index = path / INDEX
    if index.is_file():
        try:
            placed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            out: dict[pathlib.Path, list[str]] = {}
            for name, file in placed.items():
                if pathlib.PurePath(file).name != file:
                    raise ValueError(f"{name} is in '{file}', which is not in this folder")
                out.setdefault(path / file, []).append(name)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index} is not an index of safetensors files ({error}): {_AGAIN}") from error
        return out
    if (path / FILE).is_file():
        return {path / FILE: []}
    found = sorted(file.name for file in path.iterdir() if file.suffix in (".safetensors", ".bin", ".h5", ".msgpack", ".gguf"))
    raise UserError(f"{path} holds neither {FILE} nor {INDEX}" + (f", but {', '.join(found)}: save the model with "
                    "save_pretrained(folder), which writes safetensors" if found else ": is it the folder of a Hugging Face model?"))


def _header(opened: Any, there: int, file: pathlib.Path) -> tuple[dict[str, Any], int]:
    """(what the file says of each tensor, where the numbers begin)."""
    begin = opened.read(8)
    length = int.from_bytes(begin, "little")
    if len(begin) < 8 or length > there - 8:
        what = "a Git LFS pointer, not the file itself" if begin == b"version " else "not a safetensors file, or only its beginning"
        raise UserError(f"{file} is {what} ({there:,} bytes): {_AGAIN}")
    try:
        header = json.loads(opened.read(length))
        header.pop("__metadata__", None)
        for entry in header.values():
            first, last = entry["data_offsets"]
            if not 0 <= first <= last or not isinstance(entry["dtype"], str) or not all(n >= 0 for n in entry["shape"]):
                raise ValueError(f"impossible entry {entry}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not a safetensors file (its header: {str(error)[:100]}): {_AGAIN}") from error
    return header, 8 + length


def _some(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def write(path: pathlib.Path, tensors: Mapping[str, Tensor]) -> None:
    """One file. Numbers are laid out in C order, whatever the array's order in memory."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        length = _bytes(tensor)
        header[name] = {"dtype": _NAMES[np.dtype(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": [at, at + length]}
        at += length
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # numbers begin at a multiple of 8
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors.items():
            value = np.asarray(tensor.read(), order="C")
            if value.shape != tuple(tensor.shape) or value.dtype != tensor.dtype:
                raise ValueError(f"{name} was announced as {tensor.dtype}{tensor.shape} and is {value.dtype}{value.shape}")
            file.write(value.reshape(-1).view(np.uint8))
        file.flush()
        os.fsync(file.fileno())


def write_folder(path: str | os.PathLike, tensors: Mapping[str, Tensor], texts: Mapping[str, str], shard_bytes: int = SHARD_BYTES) -> None:
    """A new folder, whole or absent: the tensors, in several files and an index where they pass `shard_bytes`, and text
    files by name. UserError where something is there already."""
    shards: list[dict[str, Tensor]] = [{}]
    room = shard_bytes
    for name in sorted(tensors):
        room -= _bytes(tensors[name])
        if room < 0 and shards[-1]:
            shards.append({})
            room = shard_bytes - _bytes(tensors[name])
        shards[-1][name] = tensors[name]
    names = [FILE] if len(shards) == 1 else [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    texts = dict(texts)
    if len(shards) > 1:
        placed = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        total = sum(map(_bytes, tensors.values()))
        texts[INDEX] = json.dumps({"metadata": {"total_size": total}, "weight_map": placed}, indent=2, sort_keys=True) + "\n"
    with files.new_folder(pathlib.Path(path)) as folder:
        for file, shard in zip(names, shards, strict=True):
            write(folder / file, shard)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")


def _bytes(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Safetensors both ways: every type, any memory order, shards; what is broken is named; what is written is whole or absent."""
import json

import numpy as np
import pytest
from safetensors import numpy as library

from jaxlm.checkpoints import safetensors
from jaxlm.checkpoints.safetensors import DTYPES, FILE, INDEX, Tensor, Weights
from jaxlm.core.errors import UserError


def ready(arrays):
    return {name: Tensor(x.shape, x.dtype, lambda x=x: x) for name, x in arrays.items()}


def bits(x):
    return np.asarray(x, order="C").reshape(-1).view(np.uint8).tolist()


@pytest.fixture
def arrays():
    draw = np.random.default_rng(0)
    return {f"layer.{i}.{name}": draw.normal(size=(3 + i, 5)).astype(np.float32) for i in range(4) for name in ("weight", "other")}


NAMES = {"BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32", "U64": "uint64",
         "I64": "int64", "F16": "float16", "F32": "float32", "F64": "float64", "C64": "complex64", "BF16": "bfloat16",
         "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"}


@pytest.mark.parametrize("name", NAMES)
def test_every_type(tmp_path, name):
    """Fails if a type goes under another's name: swap the types of F8_E4M3 and F8_E5M2."""
    assert str(DTYPES[name]) == NAMES[name] and len(DTYPES) == len(NAMES)
    raw = np.random.default_rng(1).integers(0, 2 if name == "BOOL" else 256, 7 * 6 * DTYPES[name].itemsize).astype(np.uint8)
    arrays = {"x": raw.view(DTYPES[name]).reshape(7, 6), "scalar": raw.view(DTYPES[name])[0], "none": np.zeros((0, 3), DTYPES[name])}
    safetensors.write_folder(tmp_path / "out", ready(arrays), {})
    found = Weights(tmp_path / "out")
    assert list(found) == sorted(arrays)
    for key, value in arrays.items():
        assert (found[key].dtype, found[key].shape, bits(found[key])) == (value.dtype, value.shape, bits(value))


def test_any_order_in_memory(tmp_path):
    """Fails if order="C" is dropped in `write`. The reference is the library's reader, and what it reads must be right."""
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    arrays = {"transposed": x.T, "strided": x[::2, 1::2], "reversed": x[::-1], "cut": x[:, 2:3]}
    safetensors.write_folder(tmp_path / "out", ready(arrays), {"config.json": "{}"})
    theirs, ours = library.load_file(tmp_path / "out" / FILE), Weights(tmp_path / "out")
    for name, value in arrays.items():
        np.testing.assert_array_equal(theirs[name], value)
        np.testing.assert_array_equal(ours[name], value)


def test_shards(tmp_path, arrays):
    """Fails if a shard passes the size, a tensor is in none or in two, or the total is not that of all."""
    safetensors.write_folder(tmp_path / "out", ready(arrays), {"config.json": "{}"}, shard_bytes=250)
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert files == sorted(set(index["weight_map"].values())) and len(files) > 2
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in arrays.values())
    for file in files:
        held = library.load_file(tmp_path / "out" / file)
        assert sum(x.nbytes for x in held.values()) <= 250
        assert set(held) == {name for name, where in index["weight_map"].items() if where == file}
    found = Weights(tmp_path / "out")
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value)
    found.release()  # and is read again from the file
    np.testing.assert_array_equal(found["layer.0.weight"], arrays["layer.0.weight"])


def shorten(path, by=8):
    path.write_bytes(path.read_bytes()[:-by])


@pytest.mark.parametrize("shards", [False, True])
def test_half_downloaded(tmp_path, arrays, shards):
    """Fails if the length of a file is not compared with what its header says."""
    safetensors.write_folder(tmp_path / "out", ready(arrays), {}, 250 if shards else 10**9)
    last = sorted((tmp_path / "out").glob("*.safetensors"))[-1]
    shorten(last)
    with pytest.raises(UserError, match=rf"{last.name} has .* layer.3.weight is not whole; copy or download it again"):
        Weights(tmp_path / "out")
    last.write_bytes(last.read_bytes()[:30])
    with pytest.raises(UserError, match=rf"{last.name} is not a safetensors file, or only its beginning .30 bytes"):
        Weights(tmp_path / "out")
    last.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 90868376\n")
    with pytest.raises(UserError, match="Git LFS pointer"):
        Weights(tmp_path / "out")


def test_index_and_files_that_do_not_agree(tmp_path, arrays):
    """One error each: a file that is absent, a tensor that is not in its file, one that is in two, an index that is none."""
    out = tmp_path / "out"
    safetensors.write_folder(out, ready(arrays), {}, 250)
    text = (out / INDEX).read_text()
    index = json.loads(text)
    first, second = sorted(set(index["weight_map"].values()))[:2]
    (out / second).rename(out / "kept")
    with pytest.raises(UserError, match=rf"names {second}, which is not there .layer\.\d\.\w+ and \d more should be in it"):
        Weights(out)
    (out / "kept").rename(out / second)
    (out / INDEX).write_text(text.replace("layer.0.weight", "layer.9.weight"))
    with pytest.raises(UserError, match="does not hold layer.9.weight, which"):
        Weights(out)
    (out / INDEX).write_text(text)
    held = library.load_file(out / first) | {"layer.3.weight": np.zeros(2, np.float32)}
    library.save_file(held, out / first)
    with pytest.raises(UserError, match="tensor layer.3.weight is in .* and in "):
        Weights(out)
    for broken in ("{", "[]", '{"weight_map": {"a": "../b.safetensors"}}'):
        (out / INDEX).write_text(broken)
        with pytest.raises(UserError, match="is not an index of safetensors files"):
            Weights(out)


def test_a_folder_without_safetensors(tmp_path):
    """The way out is named: fails if pickles are mentioned nowhere."""
    with pytest.raises(UserError, match="is it the folder of a Hugging Face model"):
        Weights(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"but pytorch_model.bin: save the model with save_pretrained"):
        Weights(tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        Weights(tmp_path / "absent")


def test_whole_or_absent(tmp_path, arrays):
    """Fails if files are written where they will lie: `partial = path` in write_folder."""
    broken = ready(arrays)

    def fails():
        raise RuntimeError("the device is gone")

    broken["layer.3.weight"] = broken["layer.3.weight"]._replace(read=fails)
    with pytest.raises(RuntimeError):
        safetensors.write_folder(tmp_path / "out", broken, {"config.json": "{}"})
    assert not list(tmp_path.iterdir())
    safetensors.write_folder(tmp_path / "out", ready(arrays), {"config.json": "{}"})
    with pytest.raises(UserError, match="is there already"):
        safetensors.write_folder(tmp_path / "out", ready(arrays), {})

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Event files for TensorBoard, written without a package: those that write them import all of torch where it is installed."""
import contextlib
import os
import pathlib
import socket
import struct
import time

import numpy as np

_START = 1  # tensorflow/core/util/event.proto, SessionLog.START


class Events:
    """A file of named numbers in the format of TensorBoard (TFRecords of tensorflow/core/util/event.proto), written at once."""

    def __init__(self, folder: pathlib.Path, first: int):
        """Events of step `first` and later in older files of the folder are no longer shown."""
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(folder / name, "ab", buffering=0)
        self._put(_bytes(3, b"brain.Event:2"))
        self._put(_number(2, first) + _bytes(7, _number(1, _START)))

    def write(self, step: int, values: dict[str, float]) -> None:
        """OSError when the disk is full."""
        with np.errstate(over="ignore"):  # a perplexity that float32 has no number for is its infinity
            found = b"".join(_bytes(1, _bytes(1, name.encode()) + b"\x15" + np.asarray(value, "<f4").tobytes()) for name, value in values.items())
        self._put(_number(2, step) + _bytes(5, found))

    def _put(self, fields: bytes) -> None:
        event = b"\x09" + struct.pack("<d", time.time()) + fields
        length = struct.pack("<Q", len(event))
        record = memoryview(length + struct.pack("<I", masked_crc(length)) + event + struct.pack("<I", masked_crc(event)))
        while record:  # a disk that is nearly full takes a part, and refuses the rest
            record = record[self._file.write(record):]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _crc_of(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC = [_crc_of(byte) for byte in range(256)]


def masked_crc(data: bytes) -> int:
    """CRC-32C (Castagnoli) of the data, rotated and shifted as TFRecords have it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF

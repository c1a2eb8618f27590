# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What Linux says of the processor."""
import functools
import pathlib

CPUINFO = pathlib.Path("/proc/cpuinfo")


def about() -> dict[str, str]:
    """The lines of its first core: "model name" and "flags" among them on an x86 processor, "Features" on an Arm. Empty where the
    system has no such file."""
    return _read(CPUINFO)


def flags() -> frozenset[str]:
    """What an x86 processor has, by Linux's names ("avx512f", "amx_bf16"); empty for others."""
    return frozenset(about().get("flags", "").split())


@functools.cache
def _read(file: pathlib.Path) -> dict[str, str]:
    lines = file.read_text().split("\n\n")[0].splitlines() if file.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}

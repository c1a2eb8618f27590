# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Where and with what a measurement was made: the machine, its load, versions and the revision of the code."""
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import time

from jaxlm.core import processor

ROOT = pathlib.Path(__file__).resolve().parents[1]
# What decides how fast a CPU multiplies.
FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "amx_tile", "asimd", "bf16", "sve")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch", "transformers", "accelerate")


def describe() -> dict:
    """The machine as the runner sees it, now."""
    cpu = processor.about()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": cpu.get("model name", platform.processor()), "family": f"{cpu.get('cpu family', '?')}/{cpu.get('model', '?')}",
            "cores": len(os.sched_getaffinity(0)), "flags": [f for f in FLAGS if f in processor.flags()],
            "memory_gib": round(memory / 2**30, 1), "load_average": list(os.getloadavg()), "system": platform.platform(),
            "gpus": _gpus(), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "commit": commit()}


def versions() -> dict[str, str]:
    """Of the interpreter that calls it: a worker's are its own."""
    out = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return out


def commit() -> str:
    """The revision, with + where files that git knows have been changed."""
    ask = lambda *command: subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    found = ask("rev-parse", "--short=12", "HEAD")
    return (found + ("+" if ask("status", "--porcelain", "--untracked-files=no", "--", "jaxlm", "benchmarks") else "")) or "unknown"


def _gpus() -> list[str]:
    try:
        query = subprocess.run(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"],
                               capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return query.stdout.strip().splitlines() if query.returncode == 0 else []

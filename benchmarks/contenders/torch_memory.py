# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What torch contenders say of memory: which allocator serves the process, and the most a GPU has held."""
import os

import torch

from benchmarks.clock import Clock


def allocator() -> str:
    """The C allocator of this process and its settings."""
    preload = os.environ.get("LD_PRELOAD", "")
    if "jemalloc" in preload:
        return f"{os.path.basename(preload)} {os.environ.get('MALLOC_CONF', '')}".strip()
    return f"glibc {os.environ.get('GLIBC_TUNABLES', '')}".strip()


def note(clock: Clock, device: str) -> None:
    if device == "cuda":
        clock.note(device_peak_bytes=torch.cuda.max_memory_allocated())

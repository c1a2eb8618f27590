# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What torch contenders say of memory: which allocator serves the process, and the most that a GPU has held."""
import os

import torch


def allocator() -> str:
    """The C allocator of this process and its settings."""
    preload = os.environ.get("LD_PRELOAD", "")
    if "jemalloc" in preload:
        return f"{os.path.basename(preload)} {os.environ.get('MALLOC_CONF', '')}".strip()
    return f"glibc {os.environ.get('GLIBC_TUNABLES', '')}".strip()


def device_peak() -> int | None:
    """Bytes; None without a GPU."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None

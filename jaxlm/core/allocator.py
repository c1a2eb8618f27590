# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""glibc's malloc told to keep what it has been given, before jax is imported: for training on CPUs.

XLA:CPU allocates a step's working memory anew in each step, hundreds of megabytes, which glibc by default maps from the
system and gives back, so that every page is faulted in and zeroed again: a quarter of a small model's step. What else is
kept then, the compiler's and an evaluation's, goes back when `give_back` is called.
"""

import ctypes
import glob
import os
import sys

SWITCH = "JAXLM_MALLOC"  # 0: leave the allocator as it is
# <malloc.h>: the parameters' numbers, and what each is set to.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_SETTINGS = (
    (_M_MMAP_MAX, 0),  # no allocation gets a mapping of its own, which freeing would undo
    (_M_TRIM_THRESHOLD, -1),  # what is freed at the end of the heap stays
    (_M_ARENA_MAX, 1),  # one heap for all threads: the buffers are allocated by worker threads, each with its own else
)
_kept = False  # the settings are in force
_ACCELERATORS = ("/dev/nvidia[0-9]*", "/dev/accel*", "/dev/vfio/[0-9]*", "/dev/kfd")


def keep_memory() -> bool:
    """Set the allocator; False, and nothing done, where it would not help or cannot be done.

    That is where JAXLM_MALLOC=0, where there is an accelerator (unless JAX_PLATFORMS=cpu), whose memory is not malloc's
    while one heap for all threads has a price, and anywhere but with glibc on Linux.
    """
    if os.environ.get(SWITCH) == "0" or not sys.platform.startswith("linux"):
        return False
    if accelerated():
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    global _kept
    _kept = all([libc.mallopt(name, value) for name, value in _SETTINGS])
    return _kept


def accelerated() -> bool:
    """Whether there is an accelerator that jax may use."""
    return os.environ.get("JAX_PLATFORMS") != "cpu" and any(glob.glob(pattern) for pattern in _ACCELERATORS)


def give_back() -> None:
    """Give back to the system every page that is free now, where memory is kept; nothing elsewhere.

    For when something is over that a step does not need: the next step faults its own memory in anew.
    """
    if _kept:
        ctypes.CDLL(None).malloc_trim(0)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""How a CPU is given its programs."""
import os
from collections.abc import Callable

import jax

from jaxlm.core import allocator, processor

# Tokens of a step from which memory is worth more than the millisecond a step in which a CPU then waits for the next one.
LARGE = 1024
# Floating-point operations of a step below which a second thread costs more than it does, as every operation then waits for the
# slower of both: where bfloat16 products are the processor's own, and elsewhere (4 layers of 128, 768 tokens, 3.8e9 operations:
# 17.6 ms on one thread and 20.0 on two in bfloat16, 44 and 31 in float32; 2 layers of 64, 3.5e8 in float32: 8.4 and 9.0).
SMALL = {"bfloat16": 5e9, "float32": 5e8}
# What XLA takes as the number of processors.
PROCESSORS = "NPROC"


def prepare(tokens: int, parameters: Callable[[], int], dtype: str) -> None:
    """Settle how a CPU runs steps of so many tokens of a model of that many parameters; to be called before a device is used.

    With LARGE tokens or more it runs a program in the thread that calls it. XLA:CPU else runs it in one of its own threads, each
    of which keeps what it ran last, and with it that program's whole working memory, until it is given another: of a training
    step two to four are held at once, where one is enough. A SMALL step gets one thread, unless NPROC is set already; never
    where there is an accelerator, whose compiler counts by the same variable.
    """
    if tokens >= LARGE:
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    elif not allocator.accelerated() and 6.0 * tokens * parameters() <= SMALL[dtype if _native(dtype) else "float32"]:
        os.environ.setdefault(PROCESSORS, "1")


def _native(dtype: str) -> bool:
    """Whether products of that type are quicker than float32's here: bfloat16 on a processor with tiles, by a jax that uses them."""
    return dtype == "bfloat16" and jax.__version_info__ >= (0, 12) and "amx_bf16" in processor.flags()

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""How a CPU is given its programs."""
import jax

# Tokens of a step from which memory is worth more than the millisecond a step in which a CPU then waits for the next one.
LARGE = 1024


def inline(tokens: int) -> None:
    """With LARGE tokens a step or more CPUs run a program in the thread that calls it; to be called before a device is used.

    XLA:CPU else runs it in one of its own threads, each of which keeps what it ran last, and with it that program's whole
    working memory, until it is given another: of a training step two to four are held at once, where one is enough.
    """
    if tokens >= LARGE:
        jax.config.update("jax_cpu_enable_async_dispatch", False)

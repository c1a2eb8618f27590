# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A CPU computes one training step at a time: counted in memory of a process of its own."""
import ctypes
import os
import subprocess
import sys
import types

import pytest

from jaxlm.cli import train
from jaxlm.parallel import dispatch

# A step with 64 MiB of working memory, ten times, each read before the next is started: MiB that are in use after one at most.
COUNT = """
import ctypes, sys
from jaxlm.parallel import dispatch
import jax, jax.numpy as jnp
class Info(ctypes.Structure):  # <malloc.h>
    _fields_ = [(name, ctypes.c_size_t) for name in "arena a b c mapped d e used free top".split()]
info = ctypes.CDLL(None).mallinfo2
info.restype = Info
used = lambda: info().mapped + info().used >> 20
dispatch.inline(int(sys.argv[1]))
x = jnp.ones((4096,))
before = used()
step = jax.jit(lambda x: jnp.tanh(x[:, None] * x) @ x, donate_argnums=0).lower(x).compile()
assert 60 << 20 < step.memory_analysis().temp_size_in_bytes < 70 << 20, step.memory_analysis()
held = []
for _ in range(10):
    x = step(x)
    float(x[0])
    held.append(used() - before)
print(max(held))
"""


def held(tokens: int) -> int:
    done = subprocess.run([sys.executable, "-c", COUNT, str(tokens)], env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc's count of what is in use")
def test_no_working_memory_is_held():
    """Fails if XLA's threads keep the working memory of the steps that they ran: drop the update from inline."""
    assert held(dispatch.LARGE) < 32


def test_training_says_so_before_it_uses_a_device(monkeypatch):
    """Fails if the number of devices is asked for first, after which nothing can be said: inline below build.validate."""
    done = []
    monkeypatch.setattr(train, "FLAGS", types.SimpleNamespace(workdir="somewhere"))
    monkeypatch.setattr(train.dispatch, "inline", done.append)
    monkeypatch.setattr(train.jax, "device_count", lambda: pytest.fail("a device was used") if not done else sys.exit())
    config = types.SimpleNamespace(train=types.SimpleNamespace(batch_size=12), data=types.SimpleNamespace(seq_len=256))
    with pytest.raises(SystemExit):
        train.main(config)
    assert done == [12 * 256]

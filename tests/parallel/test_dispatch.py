# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Which threads a CPU computes training steps in, seen from processes of their own."""
import os
import pathlib
import subprocess
import sys
import types

import jax
import pytest

from jaxlm.cli import experiment, train
from jaxlm.parallel import dispatch
from tests import tiny
from tests.test_configs import load

# Ten steps, and the share of their processor time that is the calling thread's.
SHARE = """
import sys, time
from jaxlm.parallel import dispatch
import jax, jax.numpy as jnp
dispatch.prepare(int(sys.argv[1]), lambda: 10**12, "float32")
layer = lambda _, x: jnp.tanh(x) @ jnp.ones((64, 64))
step = jax.jit(lambda x: jax.lax.fori_loop(0, 300, layer, x)).lower(jnp.ones((256, 64))).compile()
x = jax.block_until_ready(step(jnp.ones((256, 64))))
mine, every = time.thread_time(), time.process_time()
for _ in range(10):
    x = step(x)
jax.block_until_ready(x)
print((time.thread_time() - mine) / (time.process_time() - every))
"""


@pytest.mark.parametrize("tokens,most,least", [(dispatch.LARGE, 1.1, 0.5), (dispatch.LARGE - 1, 0.2, 0.0)])
def test_a_large_step_runs_in_the_calling_thread(tokens, most, least):
    """Where it holds one working memory; a smaller one runs while the next batch is made. Fails if neither is told apart: drop the
    update from prepare, or its condition."""
    done = subprocess.run([sys.executable, "-c", SHARE, str(tokens)], env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert least <= float(done.stdout) <= most


@pytest.mark.parametrize("parameters,threads", [(1e5, 1), (1e6, None)])
def test_a_small_step_gets_one_thread(parameters, threads):
    """Counted among the threads of a process that has computed. Fails if small steps wait for a second thread, or if large ones do
    without: turn `<=` round in prepare; or if what is said comes too late: read SMALL after a device is used."""
    program = ("import sys, pathlib, jax; from jaxlm.parallel import dispatch\n"
               "dispatch.prepare(700, lambda: float(sys.argv[1]), 'float32')\n"
               "jax.numpy.ones(3).block_until_ready()\n"
               "print(sum('XLAEigen' in (task / 'comm').read_text() for task in pathlib.Path('/proc/self/task').iterdir()))")
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", dispatch.PROCESSORS)}
    done = subprocess.run([sys.executable, "-c", program, str(parameters)], env={**environment, "JAX_PLATFORMS": "cpu"},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if os.cpu_count() == 1 or not pathlib.Path("/proc/self/task").exists():
        pytest.skip("one processor, or no list of threads")
    assert int(done.stdout) == (threads or len(os.sched_getaffinity(0)))


def test_a_thread_is_taken_from_no_accelerator(monkeypatch):
    """Nor from who has said how many there are. Fails if either is not asked: drop `not allocator.accelerated()`, or `setdefault`."""
    monkeypatch.delenv(dispatch.PROCESSORS, raising=False)
    monkeypatch.setattr(dispatch.allocator, "accelerated", lambda: True)
    dispatch.prepare(8, lambda: 1, "bfloat16")
    assert dispatch.PROCESSORS not in os.environ
    monkeypatch.setattr(dispatch.allocator, "accelerated", lambda: False)
    monkeypatch.setenv(dispatch.PROCESSORS, "7")
    dispatch.prepare(8, lambda: 1, "bfloat16")
    assert os.environ[dispatch.PROCESSORS] == "7"


def test_training_says_so_before_it_uses_a_device(monkeypatch):
    """Fails if the number of devices is asked for first, after which nothing can be said: prepare last in experiment.settle; or if the
    model is made on a device to be counted."""
    done = []
    monkeypatch.setattr(train, "FLAGS", types.SimpleNamespace(workdir="somewhere"))
    monkeypatch.setattr(dispatch, "prepare", lambda tokens, parameters, dtype: done.append((tokens, parameters(), dtype)))
    monkeypatch.setattr(jax, "device_count", lambda: pytest.fail("a device was used") if not done else sys.exit())
    config = load(tiny.ROOT / "configs" / "gpt_tiny.py")
    with pytest.raises(SystemExit):
        train.main(config)
    (tokens, parameters, dtype), = done
    assert (tokens, dtype) == (config.train.batch_size * config.data.seq_len, config.model.dtype)
    assert parameters > 12 * config.model.layers * config.model.embed**2


@pytest.mark.parametrize("page,sides", [("gpt_tiny", 1), ("transformer_multi30k", 2), ("t5_small", 1 + 512 / 114)])
def test_the_positions_of_sources_count(page, sides):
    """Fails if only targets are counted: a step of T5's is then taken for a short one."""
    config = load(tiny.ROOT / "configs" / f"{page}.py")
    assert experiment.positions(config) == pytest.approx(config.train.batch_size * config.data.seq_len * sides)

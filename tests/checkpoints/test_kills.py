# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A run that is killed while it saves, or whose disk is full, loses the new checkpoint and nothing else."""
import random
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.checkpoints.manager import Checkpoints

CHILD = """
import os, sys, resource
os.environ["JAX_PLATFORMS"] = "cpu"
sys.path[:0] = [{root!r}]
import numpy as np, jax
from jaxlm.checkpoints.manager import Checkpoints, Config
from jaxlm.core.errors import UserError
def state(step):
    big = np.arange(2_000_000, dtype=np.float32) * step
    return {{"step": np.int32(step), "w": big, "b": np.full(7, step, np.uint32)}}
"""

KILLED = CHILD + """
with Checkpoints({path!r}, Config(every=1, latest=2)) as checkpoints:
    found = checkpoints.restore_latest(jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, state(1))))
    step = 0 if found is None else found[1]
    if found is not None:
        for name, x in state(step).items():
            assert np.asarray(found[0][name]).tobytes() == x.tobytes(), name
    print("from", step, flush=True)
    while True:
        step += 1
        checkpoints.save(step, jax.tree.map(jax.numpy.asarray, state(step)), {{"step": step}})
        print("saving", step, flush=True)
"""

FULL = CHILD + """
with Checkpoints({path!r}, Config(every=1, latest=2)) as checkpoints:
    one = lambda step: jax.tree.map(jax.numpy.asarray, state(step))
    checkpoints.save(1, one(1), {{}})
    checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    try:
        checkpoints.save(2, one(2), {{}})
        checkpoints.wait()
    except UserError as error:
        print("told:", error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert checkpoints.steps() == [1], checkpoints.steps()
    assert checkpoints.save(2, one(2), {{}})
    checkpoints.wait()
    print("then:", checkpoints.steps())
"""


def child(code, root, path):
    return [sys.executable, "-c", code.format(root=str(root), path=str(path))]


def test_killed_in_the_middle_of_a_save(tmp_path, root):
    """Fails if the state that comes back is not that of a step that had begun to be saved, exactly."""
    rng = random.Random(1)
    last = 0
    for attempt in range(3):
        process = subprocess.Popen(child(KILLED, root, tmp_path), text=True, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        begun = process.stdout.readline()
        assert begun.startswith("from"), process.stderr.read()
        assert int(begun.split()[1]) >= last
        for _ in range(3):
            last = int(process.stdout.readline().split()[1])
        time.sleep(rng.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        last -= 1  # the one before was complete when the next began
    with Checkpoints(tmp_path, writing=False) as checkpoints:
        newest = checkpoints.latest()
        assert newest >= last
        shapes = {"step": jax.ShapeDtypeStruct((), jnp.int32), "w": jax.ShapeDtypeStruct((2_000_000,), jnp.float32),
                  "b": jax.ShapeDtypeStruct((7,), jnp.uint32)}
        got = checkpoints.restore(newest, shapes)
        assert np.asarray(got["w"]).tobytes() == (np.arange(2_000_000, dtype=np.float32) * newest).tobytes()
        assert checkpoints.meta(newest) == {"step": newest}


def test_a_full_disk_costs_only_the_new_one(tmp_path, root):
    """Fails if a failed save leaves its step in the list, or the manager unusable."""
    done = subprocess.run(child(FULL, root, tmp_path), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "told: checkpoint 2 could not be written" in done.stdout and "the newest is 1" in done.stdout
    assert "then: [1, 2]" in done.stdout

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The allocator keeps memory: counted in page faults of a process of its own, which no neighbour disturbs."""
import os
import subprocess
import sys

import pytest

from jaxlm.cli import main
from jaxlm.core import allocator

# 64 MiB taken, written and given back, four times, by a thread: page faults of the last time.
COUNT = """
import ctypes, resource, threading
from jaxlm.cli import main
from jaxlm.core import allocator
print(allocator.keep_memory())
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def once():
    global faults
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(64 << 20)
    ctypes.memset(block, 1, 64 << 20)
    libc.free(block)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(4):
    thread = threading.Thread(target=once)
    thread.start(); thread.join()
print(faults)
"""

# 128 MiB in pieces with a used one after each, freed: what is resident before they are given back, and after.
PIECES = """
import ctypes, pathlib
from jaxlm.core import allocator
assert allocator.keep_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096
pieces = [(libc.malloc(1 << 20), libc.malloc(64)) for _ in range(128)]
for piece, _ in pieces:
    ctypes.memset(piece, 1, 1 << 20)
for piece, _ in pieces:
    libc.free(piece)
print(resident())
allocator.give_back()
print(resident())
"""


def measured(**env: str) -> tuple[str, int]:
    environment = {k: v for k, v in os.environ.items() if k != allocator.SWITCH}
    done = subprocess.run([sys.executable, "-c", COUNT], env={**environment, "JAX_PLATFORMS": "cpu", **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept, faults = done.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_memory_is_kept():
    """Fails if a setting is left out: memory is mapped anew without M_MMAP_MAX, given back without M_TRIM_THRESHOLD."""
    assert measured(JAXLM_MALLOC="0") == ("False", pytest.approx(1 << 14, rel=0.2))
    kept, faults = measured()
    assert kept == "True" and faults < 100


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_what_is_over_is_given_back():
    """Fails if it stays with the process: drop malloc_trim from give_back."""
    environment = {k: v for k, v in os.environ.items() if k != allocator.SWITCH}
    done = subprocess.run([sys.executable, "-c", PIECES], env={**environment, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert before - after > 120 << 20


def test_left_alone_beside_an_accelerator(monkeypatch):
    """Fails if a GPU host gets one heap for all threads: drop the look for devices from keep_memory."""
    monkeypatch.delenv(allocator.SWITCH, raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setattr(allocator.glob, "glob", lambda pattern: [pattern] if "nvidia" in pattern else [])
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("the allocator was touched"))
    assert not allocator.keep_memory()


@pytest.mark.parametrize("command", ["train", "evaluate", "generate"])
def test_set_for_training_and_before_jax(command, monkeypatch):
    """Fails if main sets it for every command, or after the command's module (and with it jax) is loaded."""
    done = []
    monkeypatch.setattr(main.sys, "argv", ["jaxlm", command])
    monkeypatch.setattr(main.allocator, "keep_memory", lambda: done.append("allocator"))
    monkeypatch.setattr(main.runpy, "run_module", lambda name, **_: done.append(name))
    main.main()
    assert done == ["allocator"] * (command == "train") + [f"jaxlm.cli.{command}"]

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Every test sees 8 virtual CPU devices and fails on an implicit rank promotion; real data is found, never copied."""
import ctypes
import gc
import os
import pathlib
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Tests compile much and compute little: without LLVM's optimisations they take less than half the time.
# On a machine that has more to do, a device may be late: the process is not to be ended for that after 40 s.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
                                   "--xla_cpu_collective_call_terminate_timeout_seconds=300")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
# What one test compiled, another (or a command that a test runs) need not compile again.
CACHE = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="jaxlm-tests-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Tracing makes many objects and few cycles: with the default of 700 a twentieth of a test's time goes into looking for them.
gc.set_threshold(50_000, 20, 50)

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Public data sets laid beside the checkout; a test that needs them is skipped where they are absent."""
    path = pathlib.Path(os.environ.get("JAXLM_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip("no public test data: set JAXLM_TEST_DATA to its folder")
    return path


def forget_programs(limit: int) -> None:
    """Lets go of all compiled programs where this process holds more bytes than that. glibc gives back only when it is told to."""
    status = pathlib.Path("/proc/self/statm")
    if status.exists() and int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > limit:
        jax.clear_caches()
        gc.collect()
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)


@pytest.fixture(autouse=True, scope="module")
def _bounded():
    """A worker does not fill the memory with programs of modules that are done; until then it keeps them, as what many modules use
    is compiled once so."""
    yield
    forget_programs(3 << 30)

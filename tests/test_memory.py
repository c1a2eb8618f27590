# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What keeps a worker of the tests from filling the memory."""
import pathlib

import jax
import pytest

from tests import conftest


@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="the memory of a process is read from Linux' /proc")
def test_a_full_worker_forgets_its_programs():
    """Fails if programs stay (drop jax.clear_caches()) or always go (`> 0` for `> limit`)."""
    double = jax.jit(lambda x: 2 * x)
    double(1.0)
    conftest.forget_programs(1 << 50)
    assert double._cache_size() == 1
    conftest.forget_programs(0)
    assert double._cache_size() == 0

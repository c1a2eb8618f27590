# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Every test sees 8 virtual CPU devices and fails on an implicit rank promotion; real data is found, never copied."""
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

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

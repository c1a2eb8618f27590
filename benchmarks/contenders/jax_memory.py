# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What jax contenders say of memory: the most that a device has held."""
import jax


def device_peak() -> int | None:
    """Bytes; None on a CPU, whose memory is the process's."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")

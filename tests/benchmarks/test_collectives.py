# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What fully sharded training sends is what the formula says, within 2 %, on any number of devices."""
import pytest

from benchmarks import collectives


@pytest.fixture(scope="module")
def seen():
    return {devices: collectives.measure(devices) for devices in (2, 4)}


@pytest.mark.parametrize("devices", [2, 4])
def test_bytes_are_the_formulas(seen, devices):
    """Fails if a weight is kept on every device or gathered twice: `"embed": ()` in rules._FSDP_PARAMS, or
    _split_product without its custom gradient (then the backward pass gathers nothing)."""
    found = seen[devices]
    for part in ("gathered", "summed"):
        assert abs(found[part] / found["expected"][part] - 1) <= 0.02, found
    assert found["other"] == 0, found


def test_counts_do_not_grow_with_devices(seen):
    assert seen[2]["count"] == seen[4]["count"]


def test_payloads():
    """Fails if an array of a bundle is missed, or a reduce-scatter counts as its part."""
    text = """
  %all-gather.1 = f32[8,4]{1,0} all-gather(%p), dimensions={0}
  ROOT %all-reduce = (f32[2]{0}, bf16[3,5]{1,0}) all-reduce(%a, %b), to_apply=%add
  %rs = f32[4]{0} reduce-scatter(%x), dimensions={0}, metadata={op_name="jit(step)/while/body/dot"}
"""
    assert collectives.payloads(text, 2, 2) == [("all-gather", 128), ("all-reduce", 8), ("all-reduce", 30), *[("reduce-scatter", 32)] * 2]

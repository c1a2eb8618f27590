# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The gate before timing refuses a contender whose mathematics are wrong."""
import math

import pytest

from benchmarks import parity


def rows(*losses, contender="jaxlm"):
    made = lambda name, values: {"contender": name, "status": "ok", "rounds": [{"losses": list(values)}]}
    return {"reference": made("bare", losses[0]), "other": made(contender, losses[1])}


def test_equal_losses_pass():
    found = rows((4.0, 3.9), (4.0, 3.90001))
    parity.check(found, "float32")
    assert found["other"]["status"] == "ok" and found["other"]["parity"] == pytest.approx(1e-5 / 3.9)


@pytest.mark.parametrize("losses", [(4.0, 3.91), (4.0, math.nan), (4.0,)], ids=["wrong update", "not finite", "too few"])
def test_other_losses_are_refused(losses):
    """Fails if a NaN passes (compare with > instead of not <=) or only the first loss is looked at (losses[:1])."""
    found = rows((4.0, 3.9), losses)
    parity.check(found, "float32")
    assert found["other"]["status"] == "refused" and "bare" in found["other"]["reason"] or found["other"]["reference"] == "reference"
    assert found["reference"]["status"] == "ok"


def test_a_wider_tolerance_is_the_contenders_own():
    """Fails if nanodo, which has no biases, is held to float32's tolerance, or if others get its tolerance."""
    found = rows((4.0, 3.9), (4.0, 3.91), contender="nanodo")
    parity.check(found, "float32")
    assert found["other"]["status"] == "ok"

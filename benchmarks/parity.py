# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The gate before timing: contenders that start from the same weights and tokens must have the same losses, update after update."""
import math
from typing import Any

from benchmarks import contenders

# Relative difference of a loss. float32: the order of sums, grown by six updates. bfloat16: products have 8 bits.
TOLERANCE = {"float32": 2e-4, "bfloat16": 2e-2}
# What the others are held against: hand-written, with no framework behind it; else the first that runs.
REFERENCE = "bare"


def check(rows: dict[str, dict[str, Any]], dtype: str) -> None:
    """Marks as "refused" every row whose first losses are not the reference's."""
    ran = {entrant: row for entrant, row in rows.items() if row["status"] == "ok"}
    if not ran:
        return
    chosen = next((e for e, row in ran.items() if row["contender"] == REFERENCE), next(iter(ran)))
    expected = ran[chosen]["rounds"][0]["losses"]
    for entrant, row in ran.items():
        row["parity"] = worst = difference(row["rounds"][0]["losses"], expected)
        row["reference"] = chosen
        allowed = max(TOLERANCE[dtype], contenders.find(row["contender"]).tolerance)
        if not worst <= allowed:
            row |= {"status": "refused", "reason": f"its losses differ from {chosen}'s by {worst:.2g}, more than {allowed:.0e}: "
                    f"{_shown(row['rounds'][0]['losses'])} and {_shown(expected)}"}


def difference(losses: list[float], expected: list[float]) -> float:
    """The largest relative difference of two lists of losses; infinite when they are not both finite or not as many."""
    if len(losses) != len(expected) or not all(map(math.isfinite, [*losses, *expected])):
        return math.inf
    return max(abs(a - b) / max(abs(b), 1e-12) for a, b in zip(losses, expected))


def _shown(losses: list[float]) -> str:
    return ", ".join(f"{x:.4f}" for x in losses[:6])

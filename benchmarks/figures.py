# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Statistics of a case's rows: which steps count, quantiles, the rate that this run's products had."""
import statistics
from typing import Any

Row = dict[str, Any]


def quiet(row: Row) -> tuple[list[float], int]:
    """(seconds of the timed rounds' quiet steps, how many were dropped); where none was quiet, all steps and -1."""
    rounds = row["rounds"][1:]
    every = [s for r in rounds for s in r["seconds"]]
    kept = [s for r in rounds for s, good in zip(r["seconds"], r["quiet"]) if good]
    return (kept, len(every) - len(kept)) if kept else (every, -1)


def quantile(values: list[float], q: float) -> float:
    """By linear interpolation."""
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def median(row: Row) -> float:
    return statistics.median(quiet(row)[0])


def label(row: Row) -> str:
    """The contender and the version of its framework."""
    v = row.get("versions", {})
    frame = "torch" if row["contender"].startswith(("torch", "hf", "limits_torch")) else "jax"
    return f"{row['contender']} ({frame} {v[frame]})" if frame in v else row["contender"]


def rate(document: dict[str, Any], dtype: str) -> float:
    """The best matmul rate of this run, FLOP/s; 0 when it was not measured, or other programs ran meanwhile."""
    rows = [row for case in document["cases"] if case["kind"] == "limits" for row in case["rows"] if row["rounds"]]
    found = [row["notes"].get(f"matmul_{dtype}", 0) for row in rows if all(row["rounds"][0]["quiet"])]
    return max(found, default=0)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Tables with ratios from the JSON that suites write: python -m benchmarks.report FILE... (markdown on standard output)"""
import json
import pathlib
import statistics
import sys
from collections.abc import Callable
from typing import Any

Row, Case = dict[str, Any], dict[str, Any]
# Of the tables by kind of case: kind -> f(case, document) -> lines.
TABLES: dict[str, Callable[[Case, dict], list[str]]] = {}


def main(paths: list[str]) -> None:
    for path in paths:
        print(text(json.loads(pathlib.Path(path).read_text())))


def text(document: dict[str, Any]) -> str:
    """The whole report of one file."""
    m = document["machine"]
    lines = [f"## {document['suite']}: {m['cpu']}, {m['cores']} cores, {m['memory_gib']} GiB{''.join(', ' + g for g in m['gpus'])}",
             f"{', '.join(m['flags'])}; load {m['load_average'][0]:.2f} at the start; revision {m['commit']}; {m['time']}", ""]
    for case in document["cases"]:
        lines += [*TABLES.get(case["kind"], generic)(case, document), ""]
    return "\n".join(lines)


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
    """The best matmul rate of this run, FLOP/s; 0 when it was not measured."""
    found = [row["notes"].get(f"matmul_{dtype}", 0) for case in document["cases"] if case["kind"] == "limits" for row in case["rows"]]
    return max(found, default=0)


def limits(case: Case, document: dict) -> list[str]:
    out = ["| limits | float32 product | bfloat16 product | copy | read |", "|---|---|---|---|---|"]
    for row in case["rows"]:
        n = row.get("notes", {})
        if row["status"] != "ok":
            out.append(f"| {label(row)} | {row['status']}: {row['reason'][:80]} | | | |")
            continue
        out.append(f"| {label(row)} | {n['matmul_float32'] / 1e9:,.0f} GFLOP/s | {n['matmul_bfloat16'] / 1e9:,.0f} GFLOP/s | "
                   f"{n['copy_bytes_per_second'] / 1e9:.1f} GB/s | {n['read_bytes_per_second'] / 1e9:.1f} GB/s |")
    return out


def train(case: Case, document: dict) -> list[str]:
    """Milliseconds, rates and the ratio to jaxlm: above 1.00 jaxlm is faster."""
    timed = [row for row in case["rows"] if row["status"] == "ok" and len(row["rounds"]) > 1]
    ours = next((median(row) for row in timed if row["contender"] == "jaxlm"), 0.0)
    roof = rate(document, case["dtype"])
    head = f"{case['shape']}, {case['dtype']}, {case['parameters'] / 1e6:.1f}M parameters, {case['tokens']:,} tokens a step, "            f"{case['flops_per_token'] / 1e6:,.1f} MFLOPs a token ({case['flops_per_token_whole_attention'] / 1e6:,.1f} with whole attention)"
    out = [head, "", "| contender | ms: median | p95 | p99 | tokens/s | GFLOP/s | of the product rate | time / jaxlm's | first step, s | "
           "peak, GB | steps kept (dropped) | rounds' medians, ms | parity |", "|" + "---|" * 13]
    for row in case["rows"]:
        if row["status"] != "ok":
            out.append(f"| {label(row)} | {row['status']}: {row['reason'][:160].replace('|', '/')} |" + " |" * 11)
            continue
        if row not in timed:
            out.append(f"| {label(row)} | losses compared only |" + " |" * 10 + f" {row.get('parity', 0):.1e} |")
            continue
        steps, dropped = quiet(row)
        middle = statistics.median(steps)
        flops = case["flops_per_token"] * case["tokens"] / middle
        notes = row.get("notes", {})
        peak = notes.get("device_peak_bytes") or max(r["peak_bytes"] for r in row["rounds"][1:])
        cells = [label(row), f"{middle * 1e3:.1f}", *(f"{quantile(steps, q) * 1e3:.1f}" for q in (0.95, 0.99)), f"{case['tokens'] / middle:,.0f}",
                 f"{flops / 1e9:,.0f}", f"{flops / roof:.1%}" if roof else "", f"{middle / ours:.2f}" if ours else "",
                 f"{row['rounds'][0]['first']:.1f}", f"{peak / 1e9:.2f}", f"{len(steps)} ({'none quiet' if dropped < 0 else dropped})",
                 ", ".join(f"{statistics.median(r['seconds']) * 1e3:.1f}" for r in row["rounds"][1:]), f"{row.get('parity', 0):.1e}"]
        out.append("| " + " | ".join(cells) + " |")
    return out


def generic(case: Case, document: dict) -> list[str]:
    """Whatever a contender noted, a line each."""
    out = [f"{case['kind']}, {case['shape']}, {case['dtype']}"]
    for row in case["rows"]:
        told = row.get("reason") or ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.get("notes", {}).items())
        out.append(f"- {label(row)}: {row['status']}; {told}")
    return out


TABLES |= {"limits": limits, "train": train}

if __name__ == "__main__":
    main(sys.argv[1:])

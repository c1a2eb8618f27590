# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A table for each kind of case, as lines of markdown."""
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.figures import Row, label, median, quantile, quiet, rate

Case = dict[str, Any]


def header(*names: str) -> list[str]:
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]


def line(*cells: Any) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def told(row: Row, width: int) -> str:
    """The row of a contender without figures: what became of it."""
    return line(label(row), f"{row['status']}: {row.get('reason', '')[:160].replace('|', '/')}", *[""] * (width - 2))


def limits(case: Case, document: dict) -> list[str]:
    out = header("limits", "float32 product", "bfloat16 product", "copy", "read")
    for row in case["rows"]:
        n = row.get("notes", {})
        if row["status"] != "ok":
            out.append(told(row, 5))
            continue
        out.append(f"| {label(row)} | {n['matmul_float32'] / 1e9:,.0f} GFLOP/s | {n['matmul_bfloat16'] / 1e9:,.0f} GFLOP/s | "
                   f"{n['copy_bytes_per_second'] / 1e9:.1f} GB/s | {n['read_bytes_per_second'] / 1e9:.1f} GB/s |")
    return out


def train(case: Case, document: dict) -> list[str]:
    """Milliseconds, rates and the ratio to jaxlm: above 1.00 jaxlm is faster."""
    timed = measured(case)
    ours = next((median(row) for row in timed if row["contender"] == "jaxlm"), 0.0)
    roof = rate(document, case["dtype"])
    head = f"{case['shape']}, {case['dtype']}, {case['parameters'] / 1e6:.1f}M parameters, {case['tokens']:,} tokens a step, " \
           f"{case['flops_per_token'] / 1e6:,.1f} MFLOPs a token " \
           f"({case['flops_per_token_whole_attention'] / 1e6:,.1f} with whole attention)"
    out = [head, "", *header("contender", "ms: median", "p95", "p99", "tokens/s", "GFLOP/s", "of the product rate", "time / jaxlm's",
                             "first step, s", "peak, GB", "steps kept (dropped)", "rounds' medians, ms", "parity")]
    for row in case["rows"]:
        if row["status"] != "ok":
            out.append(told(row, 13))
            continue
        if row not in timed:
            out.append(line(label(row), "losses compared only", *[""] * 10, f"{row.get('parity', 0):.1e}"))
            continue
        steps, dropped = quiet(row)
        middle = statistics.median(steps)
        flops = case["flops_per_token"] * case["tokens"] / middle
        peak = max(r.get("device_peak_bytes") or r["peak_bytes"] for r in row["rounds"][1:])
        cells = [label(row), f"{middle * 1e3:.1f}", *(f"{quantile(steps, q) * 1e3:.1f}" for q in (0.95, 0.99)),
                 f"{case['tokens'] / middle:,.0f}",
                 f"{flops / 1e9:,.0f}", f"{flops / roof:.1%}" if roof else "", f"{middle / ours:.2f}" if ours else "",
                 f"{row['rounds'][0]['first']:.1f}", f"{peak / 1e9:.2f}", f"{len(steps)} ({'none quiet' if dropped < 0 else dropped})",
                 ", ".join(f"{statistics.median(r['seconds']) * 1e3:.1f}" for r in row["rounds"][1:]), f"{row.get('parity', 0):.1e}"]
        out.append(line(*cells))
    return [*out, *overhead(timed)]


def overhead(timed: list[Row]) -> list[str]:
    """What jaxlm's loop costs over its own step and over the hand-written one, how even its steps are, how long it waits for data."""
    rows = {row["contender"]: row for row in timed if not row["python"]}
    if "jaxlm" not in rows:
        return []
    steps, waits = quiet(rows["jaxlm"])[0], rows["jaxlm"].get("notes", {}).get("data_wait", [])
    told = [f"p99 / p50 {quantile(steps, 0.99) / statistics.median(steps):.3f}"]
    told += [f"data wait {statistics.median(waits):.2%} of the time"] if waits else []
    told += [f"{median(rows['jaxlm']) / median(rows[other]) - 1:+.1%} over {other}" for other in ("jaxlm_step", "bare") if other in rows]
    return ["", "jaxlm: " + ", ".join(told)]


def measured(case: Case) -> list[Row]:
    """The rows of contenders that were timed."""
    return [row for row in case["rows"] if row["status"] == "ok" and len(row["rounds"]) > 1]


def undisturbed(case: Case) -> list[Row]:
    """Those of them with steps that no other program disturbed: the others' figures say nothing."""
    return [row for row in measured(case) if quiet(row)[1] >= 0]


def decode(case: Case, document: dict) -> list[str]:
    """Tokens a second after the prefill, of all rows together; reads are all weights, and keys and values so far, once a token."""
    options, rows, read, needed = case["options"], case["fields"]["batch"], read_rate(document), read_bytes(case)
    out = [f"{case['shape']} streams, {case['dtype']}, prompt {options['prompt']}, {options['new']} new tokens, "
           f"{needed / 1e9:.2f} GB read a token", "",
           *header("contender", "tokens/s", "ms a token", "of the read rate", "prefill, ms", "time / jaxlm's", "steps kept (dropped)",
                   "parity")]
    ok = measured(case)
    ours = next((a_token(row, case) for row in ok if row["contender"] == "jaxlm_decode"), 0)
    for row in case["rows"]:
        if row not in ok:
            out.append(told(row, 8))
            continue
        t, (steps, dropped) = a_token(row, case), quiet(row)
        out.append(line(label(row), f"{rows / t:,.1f}", f"{t * 1e3:.2f}", f"{needed / t / read:.0%}" if read else "",
                        f"{row['notes']['prefill_seconds'] * 1e3:.1f}", f"{t / ours:.2f}" if ours else "",
                        f"{len(steps)} ({'none quiet' if dropped < 0 else dropped})", f"{row.get('parity', 0):.1e}"))
    return out


def read_rate(document: dict) -> float:
    """The most bytes a second that this run read; 0 where it did not measure that."""
    limits = [row["notes"] for c in document["cases"] if c["kind"] == "limits" for row in c["rows"]]
    return max((n.get("read_bytes_per_second", 0) for n in limits), default=0)


def read_bytes(case: Case) -> float:
    """What a token must read: all weights, and the keys and values of its context, on average."""
    options, fields = case["options"], case["fields"]
    context = options["prompt"] + options["new"] / 2
    kv = 2 * fields["layers"] * (fields["kv_heads"] or fields["heads"]) * (fields["embed"] // fields["heads"]) * context * fields["batch"]
    return (4 if case["dtype"] == "float32" else 2) * (case["matmul_parameters"] + kv)


def a_token(row: Row, case: Case) -> float:
    """Seconds of one token of every stream, after the prefill."""
    return max(median(row) - row["notes"]["prefill_seconds"], 1e-9) / (case["options"]["new"] - 1)


def pipeline(case: Case, document: dict) -> list[str]:
    out = [f"input, {case['shape']}: batches of {case['fields']['batch']} rows of {case['fields']['length']} tokens", "",
           *header("contender", "rows/s", "tokens/s", "ms a batch")]
    for row in case["rows"]:
        if row["status"] != "ok":
            out.append(told(row, 4))
            continue
        batch = median(row) / case["options"]["batches"]
        rows = case["fields"]["batch"] / batch
        out.append(line(label(row), f"{rows:,.0f}", f"{rows * case['fields']['length']:,.0f}", f"{batch * 1e3:.3f}"))
    return out


def checkpoint(case: Case, document: dict) -> list[str]:
    out = [f"checkpoint, {case['shape']}", "",
           *header("contender", "GB", "training stands still, s", "until whole, s", "restore, s", "stands still, s for 16 GB")]
    for row in case["rows"]:
        if row["status"] != "ok":
            out.append(told(row, 6))
            continue
        n = row["notes"]
        middle = {k: statistics.median(n[k][1:] or n[k]) for k in ("blocking", "complete", "restore")}
        out.append(line(label(row), f"{n['bytes'] / 1e9:.2f}", *(f"{middle[k]:.3f}" for k in ("blocking", "complete", "restore")),
                        f"{middle['blocking'] * 16e9 / n['bytes']:.2f}"))
    return out


def compile_time(case: Case, document: dict) -> list[str]:
    out = [f"{case['shape']}, {case['dtype']}: seconds of a new process", "",
           *header("contender", "imports", "imports done to the first step's loss")]
    for row in case["rows"]:
        if row["status"] != "ok":
            out.append(told(row, 3))
            continue
        started = row["notes"].get("import_seconds", 0)
        out.append(line(label(row), f"{started:.1f}", f"{row['rounds'][0]['first'] - started:.1f}"))
    return out


def peak(row: Row) -> int:
    """Bytes of the device where it has memory of its own, else of the process."""
    return row["rounds"][-1].get("device_peak_bytes") or row["rounds"][-1]["peak_bytes"]


def memory(case: Case, document: dict) -> list[str]:
    """A process's peak, and on a CPU the part of it that importing the framework does not explain."""
    own = lambda row: peak(row) - (0 if row["rounds"][-1].get("device_peak_bytes") else row["notes"].get("import_bytes", 0))
    ok = [row for row in case["rows"] if row["status"] == "ok"]
    ours = next((row for row in ok if row["contender"] == "jaxlm"), None)
    out = [f"memory, {case['shape']}, {case['dtype']}, {case['tokens']:,} tokens a step, state {case['parameters'] * 12 / 1e9:.2f} GB", "",
           *header("contender", "peak, GB", "without imports, GB", "jaxlm's / this", "jaxlm's / this, without imports")]
    for row in case["rows"]:
        if row not in ok:
            out.append(told(row, 5))
            continue
        ratios = [f"{f(ours) / f(row):.2f}" for f in (peak, own)] if ours else ["", ""]
        out.append(line(label(row), f"{peak(row) / 1e9:.2f}", f"{own(row) / 1e9:.2f}", *ratios))
    return out


def growth(case: Case, document: dict) -> list[str]:
    out = [f"{case['shape']}, {case['dtype']}, {case['tokens']:,} tokens a step", "",
           *header("contender", "ms a step", "microseconds a token", "GFLOP/s", "imports done to the first step, s")]
    for row in case["rows"]:
        if row["status"] != "ok":
            out.append(told(row, 5))
            continue
        t, first = median(row), row["rounds"][0]["first"] - row["notes"].get("import_seconds", 0)
        flops = case["flops_per_token"] * case["tokens"] / t
        out.append(line(label(row), f"{t * 1e3:.1f}", f"{t / case['tokens'] * 1e6:.2f}", f"{flops / 1e9:,.0f}", f"{first:.1f}"))
    return out


def collectives(case: Case, document: dict) -> list[str]:
    counts = ", ".join(f"{n} {kind}" for kind, n in case["count"].items()) or "none"
    against = lambda name: f" = {case[name] / case['expected'][name]:.4f} of the formula's" if case["expected"][name] else ""
    part = lambda name: f"{case[name]:,} bytes {name}{against(name)}"
    layers = "scanned" if case["scan"] else "unrolled"
    return [f"- {case['devices']} devices, {case['shape']}, fsdp, {layers}: {counts}; {part('gathered')}; {part('summed')}; "
            f"{case['other']:,} otherwise; state {case['state_bytes_per_device']:,} bytes a device"]


def speculative(case: Case, document: dict) -> list[str]:
    big, small = (f"{m['name']} {m['layers']} x {m['embed']} ({m['parameters'] / 1e6:.1f}M)" for m in case["models"])
    alone = statistics.median(case["rows"][0]["seconds"])
    out = [f"{big} with the draft {small}, {case['models'][0]['dtype']}, {case['batch']} rows, temperature {case['temperature']:g}, "
           f"{case['new']} new tokens", "",
           *header("tokens ahead", "tokens of a call", "ms a token: median", "rounds, ms", "times as fast")]
    for row in case["rows"]:
        ahead = row["speculate"] or "no draft"
        if row["status"] != "ok":
            out.append(line(ahead, f"{row['status']}: {row['reason']}", "", "", ""))
            continue
        t = statistics.median(row["seconds"])
        out.append(line(ahead, f"{statistics.mean(row['tokens_per_call']):.2f}", f"{t * 1e3:.2f}",
                        ", ".join(f"{s * 1e3:.2f}" for s in row["seconds"]), f"{alone / t:.2f}"))
    return out


TABLES: dict[str, Callable[[Case, dict], list[str]]] = {
    "limits": limits, "train": train, "decode": decode, "input": pipeline, "checkpoint": checkpoint, "compile": compile_time,
    "memory": memory, "growth": growth, "collectives": collectives, "speculative": speculative,
}

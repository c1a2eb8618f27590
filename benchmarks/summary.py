# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A table for each suite over all documents, one line a case, as README has them."""
import statistics
from collections.abc import Callable

from benchmarks.figures import median
from benchmarks.tables import Case, a_token, header, line, measured, peak, read_bytes, read_rate, undisturbed

# A column's heading and the contenders of which the fastest stands in it.
COLUMNS = {"jaxlm": ("jaxlm",), "hand-written jit step": ("bare",), "torch as installed": ("torch_eager", "torch_compiled"),
           "torch, tuned allocator": ("torch_eager_tuned", "torch_compiled_tuned"), "Trainer": ("hf_trainer", "hf_trainer_compiled"),
           "nanodo": ("nanodo",)}


def of(kind: str, documents: list[dict]) -> list[Case]:
    return [case for document in documents for case in document["cases"] if case["kind"] == kind]


def _size(fields: dict) -> str:
    """Rows and positions of a batch."""
    source = f"{fields['source']} to " if fields.get("source") else ""
    return f"{fields['batch']} x {source}{fields['length']}"


def steps(documents: list[dict]) -> list[str]:
    """One line a shape and type over all documents: milliseconds, and in brackets how many times jaxlm's."""
    cases = of("train", documents)
    jax_of = lambda row: f"jaxlm, jax {row.get('versions', {}).get('jax', '')}"
    if not cases:
        return []
    # The same under other interpreters, for what another jax makes of it.
    others = sorted({jax_of(row) for case in cases for row in case["rows"] if row["contender"] == "jaxlm" and row["python"]})
    out = header("step of", "type", *(f"{heading}, ms" for heading in (*COLUMNS, *others)))
    for case in cases:
        timed = undisturbed(case)
        best = {h: min((median(r) for r in timed if r["contender"] in names and not r["python"]), default=0.0) for h, names in COLUMNS.items()}
        best |= {h: min((median(r) for r in timed if r["python"] and jax_of(r) == h), default=0.0) for h in others}
        if not best["jaxlm"]:
            continue
        shown = lambda t: f"{t * 1e3:,.0f} ({t / best['jaxlm']:.2f}x)" if t else ""
        f = case["fields"]
        out.append(line(f"{case['shape'].replace(':', ', ')}, {_size(f)}", case["dtype"], f"{best['jaxlm'] * 1e3:,.0f}",
                        *(shown(t) for h, t in best.items() if h != "jaxlm")))
    return out


def streams(documents: list[dict]) -> list[str]:
    """One line a case of decoding: milliseconds a token, and in brackets how many times jaxlm's."""
    cases = [(case, document) for document in documents for case in document["cases"] if case["kind"] == "decode"]
    if not cases:
        return []
    out = header("streams", "type", "jaxlm, ms a token", "of the read rate", "torch, ms", "Hugging Face generate, ms", "prefill: jaxlm, ms",
                 "torch, ms", "Hugging Face, ms")
    for case, document in cases:
        ok = {row["contender"]: row for row in undisturbed(case)}
        if "jaxlm_decode" not in ok:
            continue
        times = {name: a_token(row, case) for name, row in ok.items()}
        ours, others = times["jaxlm_decode"], ("torch_decode", "hf_generate")
        read = read_rate(document)
        out.append(line(case["shape"], case["dtype"], f"{ours * 1e3:.1f}", f"{read_bytes(case) / ours / read:.0%}" if read else "",
                        *(f"{times[n] * 1e3:.1f} ({times[n] / ours:.2f}x)" if n in times else "" for n in others),
                        *(f"{ok[n]['notes']['prefill_seconds'] * 1e3:.0f}" if n in ok else "" for n in ("jaxlm_decode", *others))))
    return out


def drafts(documents: list[dict]) -> list[str]:
    """One line a case of decoding with drafts: milliseconds a token, and in brackets how many times as fast as without."""
    cases = of("speculative", documents)
    if not cases:
        return []
    every = sorted({row["speculate"] for case in cases for row in case["rows"]} - {0})
    out = header("type", "temperature", "no draft, ms a token", *(f"{n} ahead" for n in every))
    for case in cases:
        ok = {row["speculate"]: row for row in case["rows"] if row["status"] == "ok"}
        times = {n: statistics.median(row["seconds"]) for n, row in ok.items()}
        shown = lambda n: f"{times[n] * 1e3:.2f} ({times[0] / times[n]:.2f}x, {statistics.mean(ok[n]['tokens_per_call']):.1f} a call)"
        out.append(line(case["models"][0]["dtype"], f"{case['temperature']:g}", f"{times[0] * 1e3:.2f}",
                        *(shown(n) if n in ok else "" for n in every)))
    return out


def peaks(documents: list[dict]) -> list[str]:
    """One line a shape and type over all documents: gigabytes at the peak, and in brackets how many times jaxlm's."""
    cases = of("memory", documents)
    shown = {h: names for h, names in COLUMNS.items() if any(row["contender"] in names for case in cases for row in case["rows"])}
    out = header("step of", "type", *(f"{heading}, GB" for heading in shown)) if cases else []
    for case in cases:
        best = {h: min((peak(row) / 1e9 for row in case["rows"] if row["status"] == "ok" and row["contender"] in names), default=0.0)
                for h, names in shown.items()}
        f, ours = case["fields"], best["jaxlm"]
        told = (f"{gb:.2f} ({gb / ours:.2f}x)" if gb and ours else "" for h, gb in best.items() if h != "jaxlm")
        out.append(line(f"{case['shape'].partition(':')[0]}, {_size(f)}", case["dtype"], f"{ours:.2f}", *told))
    return out


def pipelines(documents: list[dict]) -> list[str]:
    """Rows a second that an input pipeline makes ready, and in brackets how many times jaxlm's windows. Of a loader with workers no
    stretch is quiet: they are processes of their own, and count as others."""
    names = {"jaxlm_windows": "jaxlm, windows", "jaxlm_pack": "jaxlm, documents packed", "torch_loader": "torch DataLoader",
             "torch_loader_workers": "torch DataLoader, 2 workers"}
    cases = of("input", documents)
    out = header("rows of", *(f"{name}, rows/s" for name in names.values())) if cases else []
    for case in cases:
        found = {row["contender"]: case["fields"]["batch"] * case["options"]["batches"] / median(row) for row in measured(case)}
        ours = found.get("jaxlm_windows")
        told = (f"{found[n]:,.0f} ({found[n] / ours:.2f}x)" if ours and n in found else "" for n in names if n != "jaxlm_windows")
        out.append(line(f"{case['fields']['length']} tokens, batches of {case['fields']['batch']}", f"{ours or 0:,.0f}", *told))
    return out


def saves(documents: list[dict]) -> list[str]:
    """Seconds of a checkpoint of a training state, for jaxlm and torch."""
    cases = of("checkpoint", documents)
    parts = {"blocking": "training stands still, s", "complete": "until whole, s", "restore": "restore, s"}
    out = header("state of", "GB", *(f"{who}: {what}" for what in parts.values() for who in ("jaxlm", "torch"))) if cases else []
    for case in cases:
        notes = {row["contender"]: row["notes"] for row in case["rows"] if row["status"] == "ok"}
        middle = lambda who, part: statistics.median(notes[who][part][1:] or notes[who][part]) if who in notes else 0.0
        each = (middle(who, part) for part in parts for who in ("jaxlm_checkpoint", "torch_checkpoint"))
        out.append(line(case["shape"], f"{max(n['bytes'] for n in notes.values()) / 1e9:.2f}", *(f"{t:.2f}" if t else "" for t in each)))
    return out


def starts(documents: list[dict]) -> list[str]:
    """Seconds from a new process to its first step's loss, imports included, with an empty and with a filled cache: medians of rounds."""
    names = {"jaxlm": "jaxlm", "bare": "hand-written jit step", "torch_eager": "torch, eager", "torch_compiled": "torch.compile"}
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for case in of("compile", documents):
        shape, _, rest = case["shape"].partition(": ")
        for row in (row for row in case["rows"] if row["status"] == "ok"):
            found.setdefault((shape, rest.split(" ")[0]), {}).setdefault(row["contender"], []).append(row["rounds"][0]["first"])
    out = header("first step of", "cache", *(f"{name}, s" for name in names.values())) if found else []
    for (shape, which), seconds in found.items():
        out.append(line(shape, which, *(f"{statistics.median(seconds[n]):.1f}" if n in seconds else "" for n in names)))
    return out


def growths(documents: list[dict]) -> list[str]:
    """Milliseconds of a step with growing length and depth, and in brackets torch's in times of jaxlm's."""
    cases = of("growth", documents)
    out = header("step of", "tokens", "jaxlm, ms", "microseconds a token", "torch, eager, ms", "jaxlm: to the first step, s") if cases else []
    for case in cases:
        rows = {row["contender"]: row for row in undisturbed(case)}
        if "jaxlm" not in rows:
            continue
        ours, first = median(rows["jaxlm"]), rows["jaxlm"]["rounds"][0]["first"]
        theirs = f"{median(rows['torch_eager']) * 1e3:,.0f} ({median(rows['torch_eager']) / ours:.2f}x)" if "torch_eager" in rows else ""
        out.append(line(case["shape"].replace(":", ","), f"{case['tokens']:,}", f"{ours * 1e3:,.0f}", f"{ours / case['tokens'] * 1e6:.0f}",
                        theirs, f"{first:.1f}"))
    return out


# By how their files in results/ begin; amd and amd5 are a second and a third machine, without AMX, and amd3 a fourth, with AVX2 only.
SUMMARIES: dict[str, Callable[[list[dict]], list[str]]] = {
    "cpu_train": steps, "amd_train": steps, "amd5_train": steps, "amd3_train": steps, "cpu_memory": peaks, "cpu_decode": streams,
    "cpu_speculative": drafts, "cpu_input": pipelines, "cpu_checkpoint": saves, "cpu_compile": starts, "cpu_growth": growths,
}

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Runs contenders side by side: each in its own process, A B C A B C, losses compared before any time counts."""
import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from benchmarks import contenders, data, machine, parity
from benchmarks.job import Job
from benchmarks.shapes import CONVENTION, Shape, find

ROOT = machine.ROOT


class Process:
    """A contender's process. `phase` lets it run to the end of its next phase; `end` ends it."""

    def __init__(self, job: Job, python: str, environment: dict[str, str]):
        scratch = pathlib.Path(job.scratch)
        scratch.mkdir(parents=True, exist_ok=True)
        path = scratch / "job.json"
        path.write_text(json.dumps(dataclasses.asdict(job)))
        read, write = os.pipe()
        self.log = open(scratch / "log.txt", "w")
        self._started, self.ended = False, None
        self._process = subprocess.Popen([python, "-m", "benchmarks.job", str(path), str(write)], stdin=subprocess.PIPE, text=True,
                                         stdout=self.log, stderr=self.log, pass_fds=[write], cwd=ROOT, env=environment)
        os.close(write)
        self._pipe = os.fdopen(read)

    def phase(self) -> dict[str, Any]:
        """The report of the next phase, or {"absent" | "failed": why}."""
        if self._started:
            self._say("go")
        self._started = True
        return self._read()

    def end(self) -> dict[str, Any]:
        """Its notes and versions."""
        if self.ended is None:
            self._say("stop")
            while self.ended is None:
                self._read()
        self._process.wait()
        self._pipe.close()
        self.log.close()
        return self.ended

    def _say(self, word: str) -> None:
        try:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass

    def _read(self) -> dict[str, Any]:
        line = self._pipe.readline()
        if not line:
            self.ended = self.ended or {"notes": {}, "versions": {}}
            code = self._process.wait()
            tail = pathlib.Path(self.log.name).read_text()[-300:].strip()
            return {"failed": f"its process ended with status {code}: {tail}"}
        message = json.loads(line)
        if message.get("end"):
            self.ended = message
            return {"failed": "it ended early"}
        return message


class Runner:
    """The arguments that all suites share, and what has been measured so far."""

    def __init__(self, suite: str, arguments: argparse.Namespace):
        self.suite, self.arguments, self.cases = suite, arguments, []
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="jaxlm-bench-", dir=arguments.scratch or None))
        self.machine = machine.describe()

    def __enter__(self) -> "Runner":
        print(f"# {self.suite} on {self.machine['cpu']}, {self.machine['cores']} cores, {self.machine['memory_gib']} GiB, "
              f"{', '.join(self.machine['gpus']) or 'no GPU'}, revision {self.machine['commit']}\n# {CONVENTION}", file=sys.stderr)
        return self

    def __exit__(self, *error: Any) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)

    def case(self, kind: str, name: str, shape: Shape, dtype: str, entrants: list[str], *, phases: list[tuple[int, int, float]],
             compare: bool = True, fresh: bool = False, weights: bool = True, options: dict[str, Any] | None = None,
             environment: dict[str, str] | None = None, table: str = "",
             prepare: Callable[[pathlib.Path], None] | None = None) -> dict[str, Any]:
        """Measures the entrants on one shape; the first phase's losses are compared. Adds and returns the case.

        table: how it is shown, if not by its kind; prepare(folder) lays further files beside weights and tokens.
        """
        inputs = self.scratch / f"inputs-{len(self.cases)}"
        (data.write if weights else data.write_tokens)(inputs, shape)
        if prepare:
            prepare(inputs)
        made = lambda entrant, which: self._start(kind, entrant, shape, dtype, which, inputs, options, environment)
        rows = {e: {"contender": e.partition("@")[0], "python": e.partition("@")[2], "status": "ok", "rounds": []} for e in entrants}
        running: dict[str, Process] = {}
        # A process each round, and nothing to compare: the first phase is then a part of the first round.
        for entrant in entrants if compare or not fresh or len(phases) == 1 else ():
            running[entrant] = made(entrant, phases)
            self._take(rows[entrant], running[entrant].phase(), entrant)
            if fresh:
                self._finish(rows[entrant], running.pop(entrant))
        if compare:
            parity.check(rows, dtype)
        for entrant, row in rows.items():
            if row["status"] != "ok" and entrant in running:
                self._finish(row, running.pop(entrant))
        for number in range(1, len(phases)):
            for entrant in [e for e in entrants if rows[e]["status"] == "ok"]:
                if fresh:
                    running[entrant] = made(entrant, [phases[0], phases[number]])
                    begun = running[entrant].phase()
                    if not rows[entrant]["rounds"]:
                        self._take(rows[entrant], begun, entrant)
                if rows[entrant]["status"] == "ok":
                    self._take(rows[entrant], running[entrant].phase(), entrant)
                if fresh:
                    self._finish(rows[entrant], running.pop(entrant))
        for entrant, process in running.items():
            self._finish(rows[entrant], process)
        shutil.rmtree(inputs, ignore_errors=True)
        case = {"kind": table or kind, "shape": name, "fields": dataclasses.asdict(shape), "dtype": dtype, "options": options or {},
                "tokens": shape.tokens, "parameters": shape.parameters, "matmul_parameters": shape.matmul_parameters,
                "flops_per_token": shape.flops_per_token(),
                "flops_per_token_whole_attention": shape.flops_per_token(False), "rows": list(rows.values())}
        return self.add(case)

    def add(self, case: dict[str, Any]) -> dict[str, Any]:
        """Takes a case in and writes the document."""
        self.cases.append(case)
        self.write()
        return case

    def limits(self) -> None:
        """What the machine can do, in the same run as what is compared with it."""
        sizes = {"side": self.arguments.side, "bytes": self.arguments.bytes}
        self.case("limits", "limits", find("tiny"), "float32", ["limits_jax", "limits_torch"], phases=[(0, 1, 0.0)], compare=False,
                  weights=False, options={k: v for k, v in sizes.items() if v})

    def _start(self, kind, entrant, shape, dtype, phases, inputs, options, extra) -> Process:
        name, _, python = entrant.partition("@")
        scratch = self.scratch / f"{len(self.cases)}-{name}-{len(list(self.scratch.iterdir()))}"
        job = Job(kind, name, shape, dtype, self.arguments.platform, phases, str(inputs), str(scratch), time.time(),
                  options=options or {})
        own = contenders.environment(contenders.find(name), self.arguments.jemalloc)
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH", "")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TF_CPP_MIN_LOG_LEVEL": "2",
                       "JAX_PLATFORMS": {"cpu": "cpu", "gpu": "cuda"}[self.arguments.platform], **own, **(extra or {})}
        # A cache from elsewhere would hide compilation; suites that want one give it.
        if "JAX_COMPILATION_CACHE_DIR" not in (extra or {}):
            environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        return Process(job, python or sys.executable, environment)

    def _take(self, row: dict[str, Any], report: dict[str, Any], entrant: str) -> None:
        for status in ("absent", "failed"):
            if status in report:
                row |= {"status": status, "reason": report[status]}
                print(f"# {entrant}: {status}: {report[status][:200]}", file=sys.stderr)
                return
        row["rounds"].append(report)
        if report.get("seconds"):
            middle = sorted(report["seconds"])[len(report["seconds"]) // 2]
            print(f"# {entrant}: phase {report['phase']}, {middle * 1e3:.1f} ms, {sum(report['quiet'])} of {len(report['quiet'])} quiet",
                  file=sys.stderr)

    def _finish(self, row: dict[str, Any], process: Process) -> None:
        ended = process.end()
        row["notes"] = {**row.get("notes", {}), **ended["notes"]}
        row["versions"] = ended["versions"] or row.get("versions", {})

    def document(self) -> dict[str, Any]:
        """Everything so far."""
        kept = {k: v for k, v in vars(self.arguments).items() if k in ("platform", "rounds", "steps", "warm", "seconds")}
        return {"suite": self.suite, "machine": self.machine, "arguments": kept, "convention": CONVENTION, "cases": self.cases}

    def write(self) -> None:
        """The document as JSON; after every case, so that an interrupted suite keeps what it has."""
        if self.arguments.out:
            path = pathlib.Path(self.arguments.out)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.document(), separators=(",", ":")) + "\n")


def arguments(suite: str, doc: str, *, shapes: str = "", contenders: str = "", dtypes: str = "float32,bfloat16") -> argparse.ArgumentParser:
    """The flags that every suite has, with the suite's defaults."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{suite}", description=doc)
    parser.add_argument("--shape", default=shapes, help="names of benchmarks/shapes.py; gpt_6x384:batch=4/length=512 changes one")
    parser.add_argument("--contenders", default=contenders, help="names, each may be NAME@PYTHON to run under another interpreter")
    parser.add_argument("--dtype", default=dtypes)
    parser.add_argument("--platform", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm", type=int, default=2, help="steps at the start of each round that are not timed")
    parser.add_argument("--steps", type=int, default=0, help="timed steps of each round; 0 = enough for --seconds")
    parser.add_argument("--seconds", type=float, default=5.0, help="about how long a round of one contender is")
    parser.add_argument("--out", default="", help="file of the JSON with all rows")
    parser.add_argument("--scratch", default=os.environ.get("BENCHMARKS_SCRATCH", ""), help="folder for weights and records while it runs")
    parser.add_argument("--side", type=int, default=0, help="of the square product that the rate is measured with")
    parser.add_argument("--bytes", type=int, default=0, help="of the array that is copied and read")
    parser.add_argument("--jemalloc", default=os.environ.get("BENCHMARKS_JEMALLOC", ""), help="libjemalloc.so.2 for tuned contenders")
    return parser

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""How cost grows: step time with length, step and compile time with depth, what crosses devices with their number.

python -m benchmarks.growth [--shape=...] [--platform=gpu]
"""
import dataclasses
import json
import os
import subprocess
import sys

from benchmarks import collectives, machine, report, run, shapes

ENTRANTS = "jaxlm,torch_eager"


def main(arguments: list[str] | None = None) -> list[dict]:
    parser = run.arguments("growth", __doc__, contenders=ENTRANTS, dtypes="bfloat16")
    parser.add_argument("--lengths", default="", help="at a constant number of tokens a step")
    parser.add_argument("--depths", default="2,4,8,16")
    parser.add_argument("--devices", default="1,2,4,8", help="virtual CPU devices")
    a = parser.parse_args(arguments)
    gpu = a.platform == "gpu"
    name = a.shape or ("llama_1b3_gpu" if gpu else "gpt_6x384")
    base = shapes.find(name)
    lengths = a.lengths or ("1024,2048,4096,8192,16384" if gpu else "64,128,256,512,1024")
    rounds = [(a.warm, a.steps, a.seconds)] * a.rounds
    entrants, numbers = a.contenders.split(","), lambda text: [int(x) for x in text.split(",") if x and x != "0"]
    with run.Runner("growth", a) as runner:
        for length in numbers(lengths):
            shape = dataclasses.replace(base, length=length, batch=max(1, base.tokens // length))
            runner.case("train", f"{name}: length {length}", shape, a.dtype, entrants, phases=[(0, 2, 0.0), *rounds], fresh=gpu,
                        weights=shape.parameters < 1e9, compare=shape.parameters < 1e9, table="growth")
        for depth in numbers(a.depths):
            shape = dataclasses.replace(base, layers=depth)
            runner.case("train", f"{name}: depth {depth}", shape, a.dtype, entrants, phases=[(0, 2, 0.0), *rounds], fresh=gpu,
                        weights=shape.parameters < 1e9, compare=shape.parameters < 1e9, table="growth")
        for found in measured(a.devices) if a.devices else ():
            runner.add({"kind": "collectives", "shape": collectives.NAME, "dtype": "float32", "rows": [], **found})
    print(report.text(runner.document()))
    return runner.cases


def measured(devices: str) -> list[dict]:
    """`collectives.measure` for each number of virtual devices, scanned and unrolled, in a process of its own."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    ran = subprocess.run([sys.executable, "-m", "benchmarks.collectives", devices], cwd=machine.ROOT, capture_output=True, text=True,
                         env=environment)
    if ran.returncode:
        raise RuntimeError(ran.stderr[-2000:])
    return [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]


if __name__ == "__main__":
    main()

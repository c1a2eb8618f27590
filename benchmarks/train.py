# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The training step, side by side: python -m benchmarks.train [--shape=...] [--contenders=...] [--platform=gpu] [--out=...]

With --platform=gpu and one shape it is one command of less than ten minutes: gpt2_124m_gpu, llama_1b3_gpu, llama2_7b_gpu (141 GB).
"""
import dataclasses
import sys

from benchmarks import report, run, shapes

CPU_SHAPES = "gpt_4x128,gpt_6x384,gpt2_124m"
CONTENDERS = "bare,jaxlm,jaxlm_step,torch_eager,torch_eager_tuned,torch_compiled,hf_trainer,nanodo"
GPU_SHAPES, GPU_CONTENDERS = "llama_1b3_gpu", "bare,jaxlm,torch_compiled,hf_trainer_compiled"
# Above so many parameters weights are not exported: losses are compared on the same shape with two layers.
EXPORTED = 1e9


def main(arguments: list[str] | None = None) -> list[dict]:
    """The cases that were measured."""
    parser = run.arguments("train", __doc__)
    parser.add_argument("--parity_steps", type=int, default=6, help="first steps whose losses are compared")
    parser.add_argument("--fresh", type=int, default=-1, help="1: a new process each round, so that contenders never share memory; "
                        "0: processes wait for their turn. By default 1 on a GPU")
    a = parser.parse_args(arguments)
    gpu = a.platform == "gpu"
    chosen = {name: shapes.find(name) for name in (a.shape or (GPU_SHAPES if gpu else CPU_SHAPES)).split(",")}
    entrants = (a.contenders or (GPU_CONTENDERS if gpu else CONTENDERS)).split(",")
    dtypes = a.dtype.split(",") if not gpu else ["bfloat16"]
    with run.Runner("train", a) as runner:
        runner.limits()
        for name, shape in chosen.items():
            for dtype in dtypes:
                one(runner, name, shape, dtype, entrants, a, gpu)
    print(report.text(runner.document()))
    return runner.cases


def one(runner: run.Runner, name: str, shape: shapes.Shape, dtype: str, entrants: list[str], a, gpu: bool) -> None:
    fresh = gpu if a.fresh < 0 else bool(a.fresh)
    rounds = [(a.warm, a.steps, a.seconds)] * a.rounds
    parity = (0, a.parity_steps, 0.0)
    # A new process each round need not compile again.
    folders = {"JAX_COMPILATION_CACHE_DIR": "jax", "TORCHINDUCTOR_CACHE_DIR": "torch"} if fresh else {}
    cache = {variable: str(runner.scratch / folder) for variable, folder in folders.items()}
    if shape.dropout:  # no two drop the same: their losses are compared without
        refused = gated(runner, f"{name}: parity without dropout", dataclasses.replace(shape, dropout=0.0), dtype, entrants, [parity])
        runner.case("train", name, shape, dtype, [e for e in entrants if e not in refused], phases=[(0, 1, 0.0), *rounds], fresh=fresh,
                    compare=False, environment=cache)
        return
    if shape.parameters < EXPORTED:
        runner.case("train", name, shape, dtype, entrants, phases=[parity, *rounds], fresh=fresh, environment=cache)
        return
    small = dataclasses.replace(shape, layers=2, batch=1)
    refused = gated(runner, f"{name}: parity with 2 layers", small, dtype, entrants, [parity])
    runner.case("train", name, shape, dtype, [e for e in entrants if e not in refused], phases=[(0, 1, 0.0), *rounds], fresh=True,
                compare=False, weights=False, environment=cache)


def gated(runner: run.Runner, name: str, shape: shapes.Shape, dtype: str, entrants: list[str], phases: list) -> set[str]:
    """Those whose losses are not the others' on this shape, in place of the one that is timed."""
    gate = runner.case("train", name, shape, dtype, entrants, phases=phases, fresh=True)
    refused = {e for e, row in zip(entrants, gate["rows"]) if row["status"] != "ok"}
    print(f"# not timed: {', '.join(sorted(refused)) or 'none'}", file=sys.stderr)
    return refused


if __name__ == "__main__":
    main()

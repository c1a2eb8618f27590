# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Time to the first step of a new process, with an empty and with a filled cache: python -m benchmarks.compile [--shape=...]"""
from benchmarks import report, run, shapes

ENTRANTS = "bare,jaxlm,torch_eager,torch_compiled"


def main(arguments: list[str] | None = None) -> list[dict]:
    parser = run.arguments("compile", __doc__, contenders=ENTRANTS, dtypes="bfloat16")
    a = parser.parse_args(arguments)
    gpu = a.platform == "gpu"
    names = (a.shape or ("llama_1b3_gpu" if gpu else "gpt_6x384,gpt2_124m")).split(",")
    with run.Runner("compile", a) as runner:
        for name in names:
            shape = shapes.find(name)
            for number in range(a.rounds):
                cache = runner.scratch / f"cache-{name}-{number}".replace(":", "-").replace("/", "-")
                environment = {"JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
                               "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                               "TORCHINDUCTOR_CACHE_DIR": str(cache / "torch"), "TORCHINDUCTOR_FX_GRAPH_CACHE": "1"}
                for which in ("cold", "warm"):
                    runner.case("train", f"{name}: {which} cache, round {number + 1}", shape, a.dtype, a.contenders.split(","),
                                fresh=True, phases=[(0, 1, 0.0)], compare=False, weights=shape.parameters < 1e9,
                                environment=environment, table="compile")
    print(report.text(runner.document()))
    return runner.cases


if __name__ == "__main__":
    main()

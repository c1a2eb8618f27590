# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Peak memory of training, each contender in a new process: python -m benchmarks.memory [--shape=...] [--platform=gpu]

On a CPU the most that was resident after the weights had been loaded; on a GPU the most that the device held.
"""
from benchmarks import report, run, shapes

ENTRANTS = "bare,jaxlm,torch_eager,torch_eager_tuned,hf_trainer"


def main(arguments: list[str] | None = None) -> list[dict]:
    parser = run.arguments("memory", __doc__, contenders=ENTRANTS, dtypes="bfloat16")
    a = parser.parse_args(arguments)
    names = (a.shape or ("llama_1b3_gpu" if a.platform == "gpu" else "gpt_6x384,gpt2_124m,gpt2_124m:batch=4")).split(",")
    with run.Runner("memory", a) as runner:
        for name in names:
            shape = shapes.find(name)
            for dtype in a.dtype.split(","):
                runner.case("train", name, shape, dtype, a.contenders.split(","), fresh=True, phases=[(0, 2, 0.0), (0, a.steps or 3, 0.0)],
                            weights=shape.parameters < 1e9, compare=shape.parameters < 1e9, table="memory")
    print(report.text(runner.document()))
    return runner.cases


if __name__ == "__main__":
    main()

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Saving and restoring a training state, side by side: python -m benchmarks.checkpoint [--shape=...] [--platform=gpu]"""
from benchmarks import report, run, shapes

ENTRANTS = "jaxlm_checkpoint,torch_checkpoint"


def main(arguments: list[str] | None = None) -> list[dict]:
    parser = run.arguments("checkpoint", __doc__, shapes="gpt2_124m", contenders=ENTRANTS, dtypes="float32")
    a = parser.parse_args(arguments)
    with run.Runner("checkpoint", a) as runner:
        for name in a.shape.split(","):
            # The first save of a process makes threads and folders: it is not counted.
            runner.case("checkpoint", name, shapes.find(name), a.dtype, a.contenders.split(","), compare=False, weights=False,
                        phases=[(0, 1, 0.0), *[(0, a.steps or 2, 0.0)] * a.rounds], fresh=a.platform == "gpu")
    print(report.text(runner.document()))
    return runner.cases


if __name__ == "__main__":
    main()

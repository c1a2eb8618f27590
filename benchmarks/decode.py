# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Greedy decoding, one stream and a batch: python -m benchmarks.decode [--shape=...] [--rows=1,8] [--new=64] [--platform=gpu]

Tokens per second of a stream after the prefill, against the rate at which this run could read memory.
"""
import dataclasses

from benchmarks import report, run, shapes

ENTRANTS = "jaxlm_decode,torch_decode,hf_generate"


def main(arguments: list[str] | None = None) -> list[dict]:
    parser = run.arguments("decode", __doc__, contenders=ENTRANTS)
    parser.add_argument("--rows", default="1,8", help="streams decoded together")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=64)
    a = parser.parse_args(arguments)
    gpu = a.platform == "gpu"
    names = (a.shape or ("llama_1b3_decode,llama3_8b_decode" if gpu else "gpt2_124m_decode")).split(",")
    with run.Runner("decode", a) as runner:
        runner.limits()
        for name in names:
            for rows in map(int, a.rows.split(",")):
                shape = dataclasses.replace(shapes.find(name), batch=rows)
                exported = shape.parameters < 1e9
                for dtype in a.dtype.split(",") if not gpu else ["bfloat16"]:
                    runner.case("decode", f"{name} x {rows}", shape, dtype, a.contenders.split(","),
                                phases=[(0, 1, 0.0), *[(min(a.warm, 1), a.steps, a.seconds)] * a.rounds], compare=exported,
                                weights=exported, fresh=gpu, options={"prompt": a.prompt, "new": a.new})
    print(report.text(runner.document()))
    return runner.cases


if __name__ == "__main__":
    main()

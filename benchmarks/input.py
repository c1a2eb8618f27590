# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The input pipeline: rows a second on their own, of a memory-mapped store of random documents: python -m benchmarks.input"""
import pathlib

import numpy as np

from benchmarks import report, run, shapes

ENTRANTS = "jaxlm_windows,jaxlm_pack,torch_loader,torch_loader_workers"


def main(arguments: list[str] | None = None) -> list[dict]:
    parser = run.arguments("input", __doc__, shapes="gpt_6x384,gpt2_124m:batch=32", contenders=ENTRANTS, dtypes="float32")
    parser.add_argument("--tokens", type=int, default=20_000_000, help="of the store")
    parser.add_argument("--batches", type=int, default=32, help="that are timed together: what is made ahead comes in bursts")
    a = parser.parse_args(arguments)
    with run.Runner("input", a) as runner:
        for name in a.shape.split(","):
            shape = shapes.find(name)
            runner.case("input", name, shape, a.dtype, a.contenders.split(","), options={"batches": a.batches},
                        phases=[(0, 4, 0.0), *[(a.warm, a.steps, a.seconds)] * a.rounds], compare=False, weights=False,
                        prepare=lambda folder: write(folder, a.tokens, shape.vocab))
    print(report.text(runner.document()))
    return runner.cases


def write(folder: pathlib.Path, tokens: int, vocab: int) -> None:
    """stream.bin, uint16 `eot d1 eot d2 ... eot`, and offsets.npy: documents of 1 to 2,000 random tokens."""
    random = np.random.default_rng(0)
    lengths = random.integers(2, 2001, size=2 * tokens // 1000)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    offsets = offsets[:np.searchsorted(offsets, tokens, "right")]
    stream = random.integers(1, vocab, offsets[-1] + 1).astype(np.uint16)
    stream[offsets] = 0
    stream.tofile(folder / "stream.bin")
    np.save(folder / "offsets.npy", offsets)


if __name__ == "__main__":
    main()

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Decoding with a draft against decoding without, of trained runs: python -m benchmarks.speculative --workdir=RUN --draft=RUN [--out=FILE]

How often drafts are accepted depends on what both models learned, so random weights would measure nothing. All ways take
turns in one process, the same prompts each; before any time counts, greedy tokens with the draft must be those without,
but for ties.

The rows of benchmarks/results/cpu_speculative.json are of these (the first was interrupted after 117 of 300 steps and went on to 200
under allow_changes, so its learning rate has a bend), with --speculate=2,3,4,6 --new=96:

jaxlm train --config=configs/gpt_tiny.py --config.optimizer.name=adamw --config.optimizer.lr=1.5e-3 --config.model.dtype=bfloat16
  --config.model.scan=false --config.model.layers=8 --config.model.embed=512 --config.model.heads=8 --config.model.mlp=2048
  --config.train.steps=200 --workdir=runs/target
jaxlm train --config=configs/gpt_tiny.py --config.optimizer.name=adamw --config.optimizer.lr=4e-3 --config.model.dtype=bfloat16
  --config.model.scan=false --config.model.layers=1 --config.model.embed=128 --config.model.heads=2 --config.train.steps=200
  --workdir=runs/small
"""
import argparse
import dataclasses
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import machine, report
from jaxlm import build
from jaxlm.cli import experiment
from jaxlm.generate.batch import prompt_ids
from jaxlm.generate.decode import Decoder, Generated
from jaxlm.generate.settings import Config

# Nats by which two tokens are equally probable: the last places of a logit of 10 to 20.
TIE = {"float32": 1e-4, "bfloat16": 0.1}
PROMPTS = ("def main(", "import os\n", "class Reader:\n    def __init__(self", "    for i in range(")


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser("python -m benchmarks.speculative", description=__doc__)
    parser.add_argument("--workdir", required=True, help="run of the model")
    parser.add_argument("--draft", required=True, help="run of the draft, with the same tokenizer")
    parser.add_argument("--rows", default="1", help="prompts decoded together")
    parser.add_argument("--speculate", default="2,4,6", help="tokens that the draft writes ahead")
    parser.add_argument("--temperature", default="0,1")
    parser.add_argument("--dtype", default="", help="of products, where it is not the runs' own")
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default="", help="file of the JSON with all rows")
    a = parser.parse_args(arguments)
    where, runs = machine.describe(), [opened(path, a.dtype) for path in (a.workdir, a.draft)]
    run, draft = runs
    if run.tokenizer.fingerprint != draft.tokenizer.fingerprint:
        parser.error("the draft was trained with another vocabulary")
    limits = [n for one in runs if (n := getattr(one.run.config.model, "max_len", 0))]
    common = dict(eot=run.tokenizer.eot, vocab=run.tokenizer.vocab_size, max_len=min(limits, default=0), layout=run.run.layout)
    alone, drafted = Decoder(run.run.model, **common), Decoder(run.run.model, **common, draft=draft.run.model)
    params = drafted.ready((run.params, draft.params))
    prompts = [prompt_ids(run.tokenizer, text) for text in PROMPTS]
    numbers = lambda text, kind: [kind(x) for x in text.split(",")]
    document = {"suite": "speculative", "machine": where, "versions": machine.versions(), "cases": [],
                "arguments": {k: v for k, v in vars(a).items() if k not in ("workdir", "draft", "out")}}
    for count in numbers(a.rows, int):
        batches = [prompts[i : i + count] for i in range(0, len(prompts), count)]
        for temperature in numbers(a.temperature, float):
            config = Config(max_new_tokens=a.new, temperature=temperature, stop_at_eot=False)
            rows = measured(alone, drafted, params, batches, config, numbers(a.speculate, int), a.rounds,
                            run.run.config.model.dtype)
            document["cases"].append({"kind": "speculative", "models": [described(one) for one in runs], "batch": count,
                                      "temperature": temperature, "new": a.new, "rows": rows})
            if a.out:
                path = pathlib.Path(a.out)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(document, separators=(",", ":")) + "\n")
    print(report.text(document))
    return document["cases"]


def opened(workdir: str, dtype: str = "") -> experiment.Trained:
    path = pathlib.Path(workdir) / "config.json"
    config = build.from_json(path.read_text(), str(path))
    if dtype:
        config.model.dtype = dtype
    return experiment.open_run(config, workdir)


def described(run: experiment.Trained) -> dict[str, Any]:
    """What a table says of a run's model."""
    c = run.run.config.model
    size = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(run.params))
    return {"name": c.name, "layers": c.layers, "embed": c.embed, "parameters": size, "dtype": c.dtype, "steps": run.step}


def measured(alone: Decoder, drafted: Decoder, params: tuple[Any, Any], batches: Sequence[Sequence[Any]], config: Config,
             ahead: Sequence[int], rounds: int, dtype: str = "float32") -> list[dict[str, Any]]:
    """A row without the draft, and one for each number of tokens ahead: seconds of each round for one token of all prompts, and
    the tokens that one call of the model gave. Where greedy tokens are not the same, a row has no seconds but the reason; `ties`
    are rows that part where two tokens are equally probable by the rounding of dtype."""
    ways = {0: (alone, params[0], config)} | {n: (drafted, params, dataclasses.replace(config, speculate=n)) for n in ahead}
    count = sum(map(len, batches))
    run = lambda way, seed: [way[0].run(way[1], batch, dataclasses.replace(way[2], seed=seed)) for batch in batches]
    greedy = config.temperature == 0
    first = {n: run(way, 0) for n, way in ways.items()}  # compiles
    rows = {n: {"speculate": n, "status": "ok", "seconds": [], "tokens_per_call": []} for n in ways}
    for n in ahead:
        why, ties = differ(first[n], first[0], TIE[dtype]) if greedy else ("", 0)
        rows[n] |= {"status": "failed", "reason": why} if why else {"ties": ties} if greedy else {}
    for seed in range(1, rounds + 1):
        for n in (n for n, row in rows.items() if row["status"] == "ok"):
            begin = time.perf_counter()
            out = run(ways[n], seed)
            rows[n]["seconds"].append(float(f"{(time.perf_counter() - begin) / (config.max_new_tokens * count):.5g}"))
            # The prefill gives each row its first token.
            rows[n]["tokens_per_call"].append((config.max_new_tokens - 1) * count / int(sum(one.rounds.sum() for one in out)))
    return list(rows.values())


def differ(found: list[Generated], expected: list[Generated], tie: float) -> tuple[str, int]:
    """(where greedy tokens part from the expected ones, "" where nowhere; in how many rows they part where two tokens are as
    probable, to `tie` nats: several tokens at once and one at a time are summed in another order)."""
    ties = 0
    for batch, (one, two) in enumerate(zip(found, expected, strict=True)):
        for row, tokens in enumerate(one.tokens != two.tokens):
            if not tokens.any():
                continue
            at = int(tokens.argmax())
            apart = abs(float(one.logprobs[row, at] - two.logprobs[row, at]))
            if not apart <= tie:
                return f"token {at} of row {row} in batch {batch} is another one than without the draft, by {apart:.2g} nats", ties
            ties += 1
    return "", ties


if __name__ == "__main__":
    main()

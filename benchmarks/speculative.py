# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Decoding with a draft against decoding without, of trained runs: python -m benchmarks.speculative --workdir=RUN --draft=RUN

How often drafts are accepted depends on what both models learned, so random weights would measure nothing. Both ways take
turns in one process; a time is the least of its turns.
"""
import argparse
import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import machine
from jaxlm import build
from jaxlm.cli import experiment
from jaxlm.generate.batch import prompt_ids
from jaxlm.generate.decode import Decoder
from jaxlm.generate.settings import Config

PROMPTS = ("def main(", "import os\n", "class Reader:\n    def __init__(self", "    for i in range(")


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser("benchmarks.speculative", description=__doc__)
    parser.add_argument("--workdir", required=True, help="run of the model")
    parser.add_argument("--draft", required=True, help="run of the draft, with the same tokenizer")
    parser.add_argument("--rows", default="1,4")
    parser.add_argument("--speculate", default="2,4,6")
    parser.add_argument("--temperature", default="0,0.8")
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--turns", type=int, default=3)
    a = parser.parse_args(arguments)
    run, draft = map(opened, (a.workdir, a.draft))
    if run.tokenizer.fingerprint != draft.tokenizer.fingerprint:
        parser.error("the draft was trained with another vocabulary")
    limits = [n for one in (run, draft) if (n := getattr(one.run.config.model, "max_len", 0))]
    common = dict(eot=run.tokenizer.eot, vocab=run.tokenizer.vocab_size, max_len=min(limits, default=0), layout=run.run.layout)
    alone, drafted = Decoder(run.run.model, **common), Decoder(run.run.model, **common, draft=draft.run.model)
    prompts = [prompt_ids(run.tokenizer, text) for text in PROMPTS]
    numbers = lambda text, kind: [kind(x) for x in text.split(",")]
    print(f"{machine.describe()['cpu']}, {a.new} new tokens\n\n"
          "| rows | temperature | speculate | tokens of a call | tokens/s alone | drafted | ratio |\n|---|---|---|---|---|---|---|")
    rows = []
    for count in numbers(a.rows, int):
        for temperature in numbers(a.temperature, float):
            for ahead in numbers(a.speculate, int):
                config = Config(max_new_tokens=a.new, temperature=temperature, stop_at_eot=False, speculate=ahead)
                rows.append(r := measured(alone, drafted, (run.params, draft.params), (prompts * count)[:count], config, a.turns))
                print(f"| {count} | {temperature} | {ahead} | {r['accepted']:.2f} | {r['alone']:.1f} | {r['drafted']:.1f} "
                      f"| {r['drafted'] / r['alone']:.2f} |", flush=True)
    return rows


def opened(workdir: str) -> experiment.Trained:
    path = pathlib.Path(workdir) / "config.json"
    return experiment.open_run(build.from_json(path.read_text(), str(path)), workdir)


def measured(alone: Decoder, drafted: Decoder, params: tuple[Any, Any], prompts: Sequence[Any], config: Config,
             turns: int) -> dict[str, float]:
    """Tokens per second of both, and the tokens that one call of the model gives with the draft."""
    ways = {"alone": (alone, params[0]), "drafted": (drafted, params)}
    least = dict.fromkeys(ways, float("inf"))
    for turn in range(turns + 1):
        for name, (decoder, weights) in ways.items():
            begin = time.perf_counter()
            out = decoder.run(weights, prompts, dataclasses.replace(config, seed=turn))
            if turn:  # the first compiles
                least[name] = min(least[name], time.perf_counter() - begin)
    # The prefill gives each row its first token.
    calls = (config.max_new_tokens - 1) * len(prompts) / out.rounds.sum()
    return {name: config.max_new_tokens * len(prompts) / seconds for name, seconds in least.items()} | {"accepted": float(calls)}


if __name__ == "__main__":
    main()

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""jaxlm curves RUN RUN ...: several runs in one picture and one table, at the same number of tokens and at the same time."""
import json
import pathlib
import sys

from absl import app, flags

from jaxlm.core.errors import UserError
from jaxlm.core.log import count
from jaxlm.training import metrics, picture

FLAGS = flags.FLAGS
flags.DEFINE_string("picture", "curves.png", "Where the picture is written.")
SHOWN = ("train/loss", "eval/loss", "eval/bits_per_byte")


def opened(folder: str) -> picture.Curve:
    """The curve of a run's folder; UserError where it is none."""
    path = pathlib.Path(folder)
    missing = [name for name in ("metrics.jsonl", "config.json") if not (path / name).is_file()]
    if missing:
        raise UserError(f"{folder} has no {' and no '.join(missing)}: name the folders (--workdir) of runs that have begun")
    config = json.loads((path / "config.json").read_text())
    return picture.Curve.of(folder, metrics.read(path / "metrics.jsonl"), config["train"]["batch_size"] * config["data"]["seq_len"])


def table(curves: list[picture.Curve], by: str, most: float) -> list[str]:
    """A line a run: the last of each figure that was written by `most` tokens or seconds."""
    width = max(len(curve.name) for curve in curves)
    out = []
    for curve in curves:
        found = {name: [p for p in curve.points if name in p and p[by] <= most] for name in SHOWN}
        shown = ", ".join(f"{name} {p[-1][name]:.4f}" for name, p in found.items() if p)
        last = max((p[-1]["step"], p[-1]["tokens"], p[-1]["seconds"]) for p in found.values() if p) if shown else (0, 0, 0.0)
        out.append(f"  {curve.name:{width}}  step {last[0]}, {count(last[1])} tokens, {last[2] / 60:.1f} min: {shown or 'nothing yet'}")
    return out


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise UserError("name the folders of the runs: jaxlm curves runs/a runs/b")
    curves = [opened(folder) for folder in argv[1:]]
    for by, unit, scale in (("tokens", "tokens", 1), ("seconds", "minutes of training steps", 60)):
        most = min(curve.points[-1][by] if curve.points else 0 for curve in curves)
        print(f"after {count(most) if by == 'tokens' else f'{most / scale:.1f}'} {unit}:")
        print("\n".join(table(curves, by, most)))
    print(f"picture: {picture.curves(curves, pathlib.Path(FLAGS.picture))}")


def guarded(argv: list[str]) -> None:
    try:
        main(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(guarded)

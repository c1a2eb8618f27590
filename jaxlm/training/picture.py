# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The loss curve of a run as a picture, and those of several in one, drawn from metrics.jsonl."""
import dataclasses
import pathlib
from typing import Any

from matplotlib.figure import Figure  # of itself: pyplot takes as long again to import, and looks for a display

from jaxlm.training import metrics


def loss_curve(workdir: pathlib.Path, title: str, baseline: tuple[str, float] | None = None) -> pathlib.Path:
    """Writes WORKDIR/loss.png: training and held-out loss, and bits per byte against `baseline` where known."""
    rows = metrics.read(workdir / "metrics.jsonl")
    series = lambda name: [(r["step"], r[name]) for r in rows if isinstance(r.get(name), (int, float))]
    bits = series("eval/bits_per_byte")
    figure = Figure(figsize=(11 if bits else 6, 4), layout="tight")
    axes = figure.subplots(1, 2 if bits else 1, squeeze=False)
    for name, style in (("train/loss", "-"), ("eval/loss", "o-")):
        points = series(name)
        if points:
            axes[0, 0].plot(*zip(*points), style, label=name, linewidth=1.2, markersize=4)
    axes[0, 0].set(xlabel="step", ylabel="nats per token", title=title)
    axes[0, 0].legend()
    if bits:
        axes[0, 1].plot(*zip(*bits), "o-", label="held out", linewidth=1.2, markersize=4)
        if baseline:
            axes[0, 1].axhline(baseline[1], color="gray", linestyle="--", label=f"{baseline[0]}: {baseline[1]:.3f}")
        axes[0, 1].set(xlabel="step", ylabel="bits per byte", title="held-out text")
        axes[0, 1].legend()
    for axis in axes[0]:
        axis.grid(alpha=0.3)
    path = workdir / "loss.png"
    figure.savefig(path, dpi=120)
    return path


@dataclasses.dataclass(frozen=True)
class Curve:
    """What a run has recorded: a point a row, with its figures, step, tokens and seconds, those of training steps alone."""

    name: str
    points: list[dict[str, Any]]

    @staticmethod
    def of(name: str, rows: list[dict[str, Any]], tokens_per_step: int) -> "Curve":
        """rows: of metrics.jsonl. A number that was not finite is left out."""
        points, seconds, before = [], 0.0, 0
        for row in rows:
            if "train/tokens_per_second" in row:
                seconds += (row["step"] - before) * tokens_per_step / row["train/tokens_per_second"]
                before = row["step"]
            numbers = {name: x for name, x in row.items() if isinstance(x, (int, float))}
            points.append({**numbers, "tokens": row["step"] * tokens_per_step, "seconds": seconds})
        return Curve(name, points)


def curves(runs: list[Curve], path: pathlib.Path) -> pathlib.Path:
    """Writes one picture of all runs: training loss over tokens, held-out bits per byte (or loss) over tokens and over minutes."""
    held = "eval/bits_per_byte" if any("eval/bits_per_byte" in p for run in runs for p in run.points) else "eval/loss"
    figure = Figure(figsize=(16, 4), layout="tight")
    axes = figure.subplots(1, 3)
    for axis, name, by, scale in ((axes[0], "train/loss", "tokens", 1), (axes[1], held, "tokens", 1), (axes[2], held, "seconds", 60)):
        for run in runs:
            points = [(p[by] / scale, p[name]) for p in run.points if name in p]
            if points:
                axis.plot(*zip(*points), "-" if name == "train/loss" else "o-", label=run.name, linewidth=1.2, markersize=4)
        axis.set(xlabel="tokens" if by == "tokens" else "minutes of training steps", ylabel=name)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The loss curve as a picture, drawn from metrics.jsonl."""
import pathlib

import matplotlib

matplotlib.use("Agg")  # no display is needed or looked for
from matplotlib import pyplot  # noqa: E402

from jaxlm.training import metrics  # noqa: E402


def loss_curve(workdir: pathlib.Path, title: str, baseline: tuple[str, float] | None = None) -> pathlib.Path:
    """Writes WORKDIR/loss.png: training and held-out loss, and bits per byte against `baseline` where known."""
    rows = metrics.read(workdir / "metrics.jsonl")
    series = lambda name: [(r["step"], r[name]) for r in rows if isinstance(r.get(name), (int, float))]
    bits = series("eval/bits_per_byte")
    figure, axes = pyplot.subplots(1, 2 if bits else 1, figsize=(11 if bits else 6, 4), squeeze=False)
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
    figure.tight_layout()
    path = workdir / "loss.png"
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path

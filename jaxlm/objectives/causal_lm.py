# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Causal language modelling: predict the next token of the same document."""
import dataclasses
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from jaxlm.core.types import Batch, Mean, Objective, Outputs, Vocabulary
from jaxlm.objectives import logits
from jaxlm.ops import loss as losses


@dataclasses.dataclass(frozen=True)
class Config:
    """Terms of the loss."""

    z_loss: float = 0.0  # weight of log(Z)^2 (Chowdhery et al. 2022, section 5)
    label_smoothing: float = 0.0  # share of the target's probability spread evenly (Szegedy et al. 2016)
    chunks: int = 1  # parts of the sequence whose logits exist at a time; more saves memory, and computes nothing twice

    causal: ClassVar[bool] = True  # of models that see only what came before
    packings: ClassVar[tuple[str, ...]] = ("windows", "pack", "stream")  # values of data.packing that it takes

    def problems(self) -> list[str]:
        out = []
        if self.z_loss < 0:
            out.append(f"objective.z_loss is {self.z_loss}: it must be 0 or more")
        if not 0 <= self.label_smoothing < 1:
            out.append(f"objective.label_smoothing is {self.label_smoothing}: it must be at least 0 and below 1")
        if self.chunks < 1:
            out.append(f"objective.chunks is {self.chunks}: it must be 1 or more")
        return out


def build(config: Config, vocabulary: Vocabulary | None = None) -> Objective:
    """The objective; it needs nothing of the vocabulary."""
    del vocabulary

    def loss(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
        means = losses.cross_entropy(
            outputs.hidden, outputs.table, batch["targets"], batch["weights"], bias=outputs.bias,
            soft_cap=outputs.soft_cap, z_loss=config.z_loss, label_smoothing=config.label_smoothing,
            chunks=config.chunks, form=logits.form(), own=logits.own)
        return {name: mean for name, mean in means.items() if name != "z_loss" or config.z_loss}

    return Objective(prepare, loss)


def prepare(rows: dict[str, np.ndarray], rngs: Callable[[int], np.random.Generator]) -> dict[str, np.ndarray]:
    """Every token of a document has a next one (the separator ends it); only padding is not predicted."""
    del rngs  # nothing is drawn
    return {
        "tokens": rows["tokens"],
        "segments": rows["segments"],
        "positions": rows["positions"],
        "targets": rows["next"],
        "weights": (rows["segments"] > 0).astype(np.float32),
    }

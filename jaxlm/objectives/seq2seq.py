# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Targets of sources, by teacher forcing: an encoder-decoder reads the source and predicts each token of the target from those before it."""
import dataclasses
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from jaxlm.core.types import Objective, Vocabulary
from jaxlm.objectives import causal_lm


@dataclasses.dataclass(frozen=True)
class Config(causal_lm.Config):
    """Terms of the loss, as of causal_lm; Vaswani et al. 2017 have label_smoothing=0.1."""

    source: ClassVar[bool] = True  # it gives one beside the tokens
    packings: ClassVar[tuple[str, ...]] = ("pairs",)  # values of data.packing that it takes


def build(config: Config, vocabulary: Vocabulary) -> Objective:
    """The objective: causal_lm's loss over targets that begin with the vocabulary's start."""

    def prepare(rows: dict[str, np.ndarray], rngs: Callable[[int], np.random.Generator]) -> dict[str, np.ndarray]:
        batch = causal_lm.prepare(rows, rngs) | {name: x for name, x in rows.items() if name.startswith("source_")}
        begins = (batch["segments"] > 0) & (batch["positions"] == 0)
        return batch | {"tokens": np.where(begins, np.int32(vocabulary.start), batch["tokens"])}

    return dataclasses.replace(causal_lm.build(config), prepare=prepare)

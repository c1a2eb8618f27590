# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""ALBERT (Lan et al. 2019): BERT with one layer's parameters in all layers and small tables that are projected."""

import dataclasses
from typing import ClassVar

from jaxlm.core.functional import Functional
from jaxlm.layers import checks
from jaxlm.models import bert


@dataclasses.dataclass(frozen=True)
class Config(bert.Config):
    """The default is ALBERT base (version 2, which has no dropout) but for its vocabulary."""

    embedding_size: int = 128
    activation: str = "gelu_tanh"
    embed_dropout: float = 0.0
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0

    shared: ClassVar[bool] = True


def build(config: Config) -> Functional:
    """The model as pure functions; UserError when the config cannot be built."""
    checks.raise_problems("albert", config)
    return Functional(lambda rngs: bert.Encoder(config, rngs))

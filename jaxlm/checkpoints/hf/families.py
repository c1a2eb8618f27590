# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Which table reads which Hugging Face architecture."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from jaxlm.checkpoints.hf import gpt2, llama
from jaxlm.core.errors import UserError, nearest

FAMILIES = {name: module for module in (gpt2, llama) for name in module.MODEL_TYPES}


def find(hf: Mapping[str, Any]) -> ModuleType:
    """The module for a config.json: MODEL (our family), config_from_hf, params_from_hf. UserError if there is none."""
    kind = hf.get("model_type", "")
    if kind not in FAMILIES:
        raise UserError(
            f"model_type '{kind}' cannot be read{nearest(kind, FAMILIES)} There are: {', '.join(FAMILIES)}."
        )
    return FAMILIES[kind]

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What a model's config must hold, each check giving sentences that name the field and the way out."""

from collections.abc import Sequence
from typing import Any

from jaxlm.core.errors import UserError, nearest
from jaxlm.layers.stack import REMAT
from jaxlm.ops.activations import ACTIVATIONS
from jaxlm.ops.attention import BACKENDS

_FLOATS = ("float32", "bfloat16", "float16")


def at_least(config: Any, least: int, *fields: str) -> list[str]:
    return [f"{f} is {getattr(config, f)}: it must be {least} or more" for f in fields if getattr(config, f) < least]


def multiple(config: Any, field: str, of: str) -> list[str]:
    size, part = getattr(config, field), getattr(config, of)
    if part < 1 or size % part == 0:
        return []
    return [f"{field} is {size}, which is not a multiple of {of}={part}: change one of them"]


def even(config: Any, field: str, when: bool = True) -> list[str]:
    size = getattr(config, field)
    return [f"{field} is {size}: these positions need an even size"] if when and size % 2 else []


def one_of(config: Any, **choices: Sequence[str]) -> list[str]:
    out = []
    for field, names in choices.items():
        value = getattr(config, field)
        if value not in names:
            out.append(f"{field} is '{value}'{nearest(value, names) or ','} it must be one of {', '.join(names)}")
    return out


def rates(config: Any, *fields: str) -> list[str]:
    return [
        f"{f} is {getattr(config, f)}: a dropout rate is in [0, 1)" for f in fields if not 0 <= getattr(config, f) < 1
    ]


def common(config: Any) -> list[str]:
    """The fields that every transformer here has."""
    return one_of(
        config,
        activation=tuple(ACTIVATIONS),
        attention_backend=("auto", *BACKENDS),
    ) + numbers(config)


def numbers(config: Any) -> list[str]:
    """The fields that every model here has."""
    return one_of(config, dtype=_FLOATS, param_dtype=_FLOATS, remat=tuple(REMAT))


def raise_problems(what: str, config: Any) -> None:
    """UserError with every problem of a config, an unset vocabulary included."""
    problems = config.problems()
    if config.vocab_size == 0:
        problems = [*problems, "vocab_size is 0: set it, or let the tokenizer set it"]
    if problems:
        raise UserError(f"{what}: " + "; ".join(problems))

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Errors a user can act on: one clear message, no traceback at the command line."""
import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input from outside (config, data, checkpoint, tokenizer, request): says what, where and what to do."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """", did you mean 'x'?" for the closest of `choices`, or "" when none is close."""
    found = difflib.get_close_matches(str(word), list(choices), n=1, cutoff=0.5)
    return f", did you mean '{found[0]}'?" if found else ""

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""That a run goes on with other compiler options than before is allowed, because they change roundings only, and told."""
from typing import Any

from jaxlm.checkpoints.manager import Checkpoints
from jaxlm.cli import experiment as experiments
from jaxlm.core.log import say


def tell_changes(run: experiments.Experiment, checkpoints: Checkpoints) -> None:
    """Says how this run's compiler options differ from those of its newest checkpoint, which keeps them."""
    now = run.compiler_options
    before = experiments.newest_meta(checkpoints).get("compiler", now) if checkpoints.steps() else now
    if before != now:
        say(f"compiler options were {show(before)} and are {show(now)}: results agree to rounding, and no more bit for bit")


def show(options: dict[str, Any]) -> str:
    return " ".join(f"{name}={value!r}" for name, value in sorted(options.items())) or "the compiler's own"

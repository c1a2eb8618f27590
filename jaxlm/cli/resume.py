# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""That a run goes on as the run it was: what may differ between its checkpoint and the command, and what is refused."""
from typing import Any

from ml_collections import ConfigDict

from jaxlm import build
from jaxlm.checkpoints.manager import Checkpoints
from jaxlm.cli import experiment as experiments
from jaxlm.core.errors import UserError
from jaxlm.core.log import say
from jaxlm.data.tokenizers import tokenizer as tokenizers
from jaxlm.optim import schedules

# What may differ when a run goes on: rhythm, layout and formulation change nothing that is computed.
FREE = (
    "train.steps", "train.log_every", "train.profile", "train.tensorboard", "train.picture", "train.baseline", "train.sample",
    "train.accumulate", "train.max_skipped", "train.flights", "train.explode", "train.allow_changes", "train.compiler_options", "eval.",
    "checkpoints.", "generate.", "mesh.", "rules", "table.", "start.", "data.cache_dir", "data.prefetch", "data.verify", "model.scan",
    "model.remat", "model.attention_backend", "objective.chunks")


def check(config: ConfigDict, tokenizer: Any, fingerprint: Any, checkpoints: Checkpoints) -> None:
    """UserError when going on would silently be another run: other text, tokenizer, model, optimizer or data order."""
    if not checkpoints.steps():
        return
    stored = experiments.newest_meta(checkpoints)
    # Each micro-batch has its own dropout and float8 scales and balances its own experts: with these, their number is part of
    # what is computed.
    own = config.train.fp8 == "on" or any(
        config.model[name] for name in config.model if name.endswith("dropout") or name == "experts")
    free = tuple(name for name in FREE if not (own and name == "train.accumulate"))
    imported = stored["data"] is None  # weights alone, which any text may be trained on
    before = build.from_json(stored["config"], "the checkpoint's config")
    changes = [c for c in build.differences(before, config) if not c.startswith((*free, "schedule.total"))]
    # The length of a run is free, and the learning rate is not.
    ends = [schedules.end(c.schedule.name, c.schedule.total, c.train.steps) for c in (before, config)]
    if ends[0] != ends[1]:
        changes.append(f"schedule.total: {ends[0]} -> {ends[1]}, and with it the learning rate (0 is train.steps; schedule.total={ends[0]} keeps it)")
    if imported:
        changes = [c for c in changes if c.startswith("model.")]
    if tokenizers.from_json(stored["tokenizer"]).fingerprint != tokenizer.fingerprint:
        changes.append("the tokenizer is not the checkpoint's")
    if stored["data"] != fingerprint and not imported:
        changes.append("the text is not what the checkpoint was trained on")
    if changes and not config.train.allow_changes:
        raise UserError("this run has a checkpoint that was made with other settings:\n  " + "\n  ".join(changes)
                        + "\nUse another --workdir, or --config.train.allow_changes=true to go on with the new ones.")
    for change in changes:
        say(f"going on with a change: {change}")

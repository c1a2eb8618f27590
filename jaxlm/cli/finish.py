# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What a training run shows when it ends: held-out figures beside a baseline, the loss curve, a continuation."""
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from jaxlm import build
from jaxlm.cli.experiment import Experiment
from jaxlm.core.log import say
from jaxlm.data import store, trigram
from jaxlm.generate import text as texts
from jaxlm.parallel import processes
from jaxlm.training import picture


def show(run: Experiment, params: Any, tokenizer: Any, latest: dict[str, float], workdir: pathlib.Path) -> None:
    """Prints the result on standard output; draws WORKDIR/loss.png."""
    train, sample = run.section("train"), None
    if train.sample_tokens:  # by all processes together, so before what the first does alone
        settings = run.section("generate")
        settings = dataclasses.replace(settings, max_new_tokens=train.sample_tokens, min_new_tokens=min(settings.min_new_tokens, train.sample_tokens))
        sample = texts.generate(run.model, params, tokenizer, [train.sample], settings,
                                max_len=getattr(run.config.model, "max_len", 0), layout=run.layout)[0]
    if not processes.first():
        return
    shown = ", ".join(f"{name.removeprefix('eval/')} {value:.4f}" for name, value in latest.items())
    print(f"held out: {shown or 'nothing, data.holdout is 0'}")
    baseline = None
    if train.baseline == "trigram" and latest:
        say("counting byte trigrams of the same training text")
        bits = trigram.bits_per_byte(documents(run.config, False), documents(run.config, True))
        baseline = ("byte trigrams", bits)
        print(f"held-out bits per byte: {latest['eval/bits_per_byte']:.4f}; of a byte-trigram model of the same text: {bits:.4f}")
    if train.picture:
        print(f"loss curve: {picture.loss_curve(workdir, workdir.name, baseline)}")
    if sample is not None:
        print(f"a continuation of {train.sample!r}:\n{train.sample}{sample.text}")


def documents(config: ConfigDict, held_out: bool) -> Iterator[bytes]:
    """The texts of one side of the config's source."""
    found = build.find("source", config.source.name).documents(build.section(config, "source"))
    return (document.encode() for document in found if document and store.held_out(document, config.data.holdout) == held_out)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""From a config to the values that training, evaluation and generation are functions of."""
import contextlib
import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from jaxlm import __version__, build
from jaxlm.checkpoints import start
from jaxlm.checkpoints.manager import Checkpoints, Damaged
from jaxlm.core import files, tree
from jaxlm.core.errors import UserError
from jaxlm.core.types import Batch, Objective, TrainState, Vocabulary
from jaxlm.data import corpus, pipeline, sampler
from jaxlm.data.tokenizers import tokenizer as tokenizers
from jaxlm.layers import linear
from jaxlm.optim import average, optimizers, schedules
from jaxlm.parallel import compiler, dispatch, mesh, place, processes
from jaxlm.training import evaluate
from jaxlm.training import state as states
from jaxlm.training import step as steps


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A model with what it is trained for, and where it is laid."""

    config: ConfigDict
    layout: place.Layout
    model: Any
    objective: Objective
    schedule: optax.Schedule
    tx: optax.GradientTransformation
    trainable: Any  # tree of booleans over the parameters
    target: TrainState  # shapes, types and shardings

    def section(self, name: str) -> Any:
        return build.section(self.config, name)

    @property
    def learner(self) -> Any:
        """The model as a training step applies it."""
        return linear.Float8(self.model) if self.config.train.fp8 == "on" else self.model

    @property
    def loss(self) -> Callable:
        return steps.Loss(self.model, self.objective)

    def init(self, loaded: dict[str, Any]) -> TrainState:
        return states.initialise(self.model, self.tx, self.trainable, self.config.seed, self.target, loaded)

    @property
    def compiler_options(self) -> dict[str, Any]:  # of the layout in force
        flops = 6.0 * positions(self.config) * tree.size(self.target.params)
        return compiler.options(self.config.train.compiler_options, self.config.model.get("dtype") == "bfloat16", flops)

    def batches(self, drawn: Any, start: int, stop: int) -> pipeline.Batches:
        """This host's rows of the batches start to stop, made ready ahead."""
        mine = place.local_rows(self.layout, drawn.batch_size)
        return pipeline.batches(drawn, self.objective.prepare, start, stop, mine, self.config.data.prefetch)

    def put(self, source: pipeline.Batches, rows: int) -> Iterator[Batch]:
        return (place.put(batch, self.layout, rows) for _, batch in source)

    @functools.cached_property
    def measure(self) -> Callable:
        return evaluate.make_evaluate(self.loss, self.layout, self.compiler_options)

    def evaluate(self, params: Any, text: corpus.Corpus, stop: Callable[[], int] = lambda: 0) -> dict[str, float] | None:
        """Held-out figures of these parameters; None when stop() said so on the way."""
        ev = self.section("eval")
        rows = ev.batch_size or self.config.train.batch_size
        drawn = sampler.InOrder(text.eval, rows, self.config.seed)
        count = min(ev.batches or len(drawn), len(drawn))
        carry = states.empty(self.model, rows, self.layout) if self.target.carry is not None else None
        with self.batches(drawn, 0, count) as source:
            sums = evaluate.evaluate(self.measure, params, self.put(source, rows), count, carry, stop=stop)
        return None if sums is None else evaluate.summary(sums, text.eval_bytes / text.eval_tokens, self.objective.terms)

    def learned(self, state: TrainState) -> Any:
        """The parameters to use: the running average where the optimizer keeps one."""
        found = average.averaged(state.opt_state)
        return state.params if found is None else tree.combine(found, state.params)


def laid(config: ConfigDict, devices: list | None = None) -> tuple[Any, Any, place.Layout]:
    """(model, its parameters as shapes with the shardings that the config asks for, the layout)."""
    layout = place.Layout(mesh.make(build.section(config, "mesh"), devices), build.layout_rules(config))
    model = build.build(config, "model")
    where = place.shardings(model.axes(), layout, model.abstract)
    return model, jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), model.abstract, where), layout


def settle(config: ConfigDict) -> None:
    """Validate the config of a training run and settle how its programs are run, before any device is used."""
    build.validate(config)
    dispatch.prepare(positions(config), lambda: _body(config), config.model.dtype)
    build.validate(config, jax.device_count())


def positions(config: ConfigDict) -> int:
    """Those of a step, of its sources too where the model reads them."""
    data, reads = build.section(config, "data"), getattr(build.section(config, "model"), "source", False)
    return config.train.batch_size * (data.seq_len + (data.size_source if reads else 0))


def _body(config: ConfigDict) -> int:
    """Parameters of the config's model, without a table where only the tokenizer says how long it is. No device is used."""
    trial = config.copy_and_resolve_references()
    trial.model.vocab_size = trial.model.vocab_size or 1
    return tree.size(build.build(trial, "model").abstract)


def experiment(config: ConfigDict, vocabulary: Vocabulary, devices: list | None = None) -> Experiment:
    """The experiment of a validated config; model.vocab_size 0 becomes the tokenizer's."""
    if config.model.vocab_size == 0:
        config.model.vocab_size = vocabulary.size
    if config.model.vocab_size < vocabulary.size:
        raise UserError(f"model.vocab_size {config.model.vocab_size} is smaller than the tokenizer's {vocabulary.size}: "
                        "leave it 0 to take the tokenizer's")
    model, _, layout = laid(config, devices)
    optimizer = build.section(config, "optimizer")
    trainable = optimizers.trainable(optimizer, model.abstract)
    schedule = schedules.build(build.section(config, "schedule"), optimizer.lr, config.train.steps)
    tx = optimizers.build(optimizer, schedule, model.abstract, model.axes())
    with place.use(layout):
        target = states.abstract(model, tx, trainable, layout, carried_rows(config))
    return Experiment(config, layout, model, build.build(config, "objective", vocabulary), schedule, tx, trainable, target)


def carried_rows(config: ConfigDict) -> int:  # whose state goes on from step to step
    return config.train.batch_size if config.data.packing == "stream" else 0


def text(config: ConfigDict, workdir: str, tokenizer: Any = None) -> tuple[Any, corpus.Corpus]:
    """(tokenizer, corpus) of the config's source: trained, tokenised and stored now unless the cache has them."""
    data, source, fields = build.section(config, "data"), build.find("source", config.source.name), build.section(config, "source")
    kind, settings = build.find("tokenizer", config.tokenizer.name), build.section(config, "tokenizer")

    def made() -> tuple[Any, corpus.Corpus]:
        chosen = corpus.tokenizer(data, source, fields, kind, settings, workdir) if tokenizer is None else tokenizer
        return chosen, corpus.build(data, source, fields, chosen, workdir, build.section(config, "objective"))

    out = processes.in_turn(made)  # others find in a shared folder what the first has made
    processes.agree("the text or its tokenizer", json.dumps([out[0].fingerprint, out[1].fingerprint], sort_keys=True))
    return out


def meta(run: Experiment, tokenizer: Any, fingerprint: Any) -> dict[str, Any]:
    """What is stored beside the state: enough to go on, to evaluate and to generate without anything else."""
    return {"config": build.to_json(run.config), "tokenizer": tokenizer.to_json(), "data": fingerprint,
            "versions": {"jaxlm": __version__, "jax": jax.__version__}, "compiler": run.compiler_options}


def newest_meta(checkpoints: Checkpoints) -> dict[str, Any]:
    """The `meta` of the newest checkpoint whose meta is whole; UserError when there is none."""
    for step in reversed(checkpoints.steps()):
        with contextlib.suppress(Damaged):  # told, and gone back from, when the state is restored
            return checkpoints.meta(step)
    raise UserError(f"none of the checkpoints in {checkpoints.path} can be read: restore a copy, or start in another folder")


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished or running run, opened to be used."""

    run: Experiment
    params: Any
    tokenizer: Any
    step: int


def open_run(config: ConfigDict, workdir: str, step: int = 0) -> Trained:
    """The parameters (their running average where the run keeps one) of a run's newest or the given checkpoint."""
    folder = pathlib.Path(workdir).resolve()
    if not (folder / "checkpoints").is_dir():
        raise UserError(f"{folder} holds no checkpoints: is --workdir the folder of a run?")
    with Checkpoints(folder / "checkpoints", build.section(config, "checkpoints"), writing=False) as checkpoints:
        tokenizer = tokenizers.from_json(newest_meta(checkpoints)["tokenizer"])
        run = experiment(config, tokenizer.vocabulary)
        with place.use(run.layout):
            params, step = start.weights(checkpoints, run.target.params, step)
    return Trained(run, params, tokenizer, step)


def write_once(path: pathlib.Path, content: str) -> None:
    """Of several processes the first writes the file."""
    if processes.first():
        files.write_atomically(path, content)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""jaxlm train --config=PAGE --workdir=FOLDER: pre-trains, or goes on where the folder's newest checkpoint stands."""
import itertools
import pathlib
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from jaxlm import build
from jaxlm.checkpoints import start
from jaxlm.checkpoints.manager import Checkpoints
from jaxlm.cli import compiling, experiment as experiments, finish, fp8, record as records, resume
from jaxlm.cli import flags as command_line
from jaxlm.cli.alone import alone
from jaxlm.core import tree
from jaxlm.core.errors import UserError
from jaxlm.core.log import count, say
from jaxlm.core.types import TrainState
from jaxlm.data import sampler
from jaxlm.parallel import place, processes
from jaxlm.training import flops, loop, metrics, packed, step
from jaxlm.training.stop import Stop

FLAGS = flags.FLAGS


def main(config: ConfigDict) -> None:
    if FLAGS.workdir is None:
        raise UserError("--workdir is missing: name the folder that the run is kept in")
    if "://" in FLAGS.workdir:
        raise UserError(f"--workdir={FLAGS.workdir}: a run is kept in a folder; mount the bucket (gcsfuse) and name the mount")
    experiments.settle(config)
    workdir = pathlib.Path(FLAGS.workdir).resolve()
    with Stop(workdir / "checkpoints") as stop, alone(workdir):
        run_in(workdir, config, stop)


def run_in(workdir: pathlib.Path, config: ConfigDict, stop: Stop) -> None:
    """The run in that folder, from its text to what it shows at the end."""
    processes.agree("the config", build.to_json(config))
    tokenizer, corpus = experiments.text(config, workdir)
    run = experiments.experiment(config, tokenizer.vocabulary)
    corpus.check_held_out(run.objective.prepare)
    peak, origin = flops.peak(jax.local_devices()[0])
    say(f"{count(tree.size(run.target.params))} parameters, {len(corpus.train):,} rows of {config.data.seq_len} tokens, "
        f"{jax.device_count()} {jax.devices()[0].device_kind} device(s), peak {count(peak)} FLOP/s each ({origin})")
    with place.use(run.layout), Checkpoints(workdir / "checkpoints", run.section("checkpoints")) as checkpoints:
        fp8.decide(run, corpus, checkpoints, workdir)
        resume.check(config, tokenizer, corpus.fingerprint, checkpoints)
        if not checkpoints.steps():
            start.check(run.section("start"), config.model.name, run.section("model"), tokenizer)
        compiling.tell_changes(run, checkpoints)
        print(build.show(config))
        experiments.write_once(workdir / "config.json", build.to_json(config))
        experiments.write_once(workdir / "tokenizer.json", tokenizer.to_hf_json())
        state, _ = start.begin(run.section("start"), checkpoints, run.target, create=run.init)
        state, latest = fit(run, state, tokenizer, corpus, checkpoints, workdir, peak, stop)
    finish.show(run, run.learned(state), tokenizer, latest, workdir)


def fit(run: experiments.Experiment, state: TrainState, tokenizer: Any, corpus: Any, checkpoints: Checkpoints,
        workdir: pathlib.Path, peak: float, stop: Stop) -> tuple[TrainState, dict[str, float]]:
    """Trains to the last step with evaluation, checkpoints and records; the last state and its held-out figures."""
    train, begin = run.section("train"), int(state.step)
    stored = experiments.meta(run, tokenizer, corpus.fingerprint)
    latest: dict[str, float] = {}
    evaluated: list[int] = []  # the step of `latest`
    drawn = sampler.Sampler(corpus.train, train.batch_size, run.config.seed, run.config.data.shuffle)
    recorder = records.recorder(run, drawn, corpus.fingerprint, checkpoints, workdir)
    with metrics.Metrics(workdir, begin, train.tensorboard, processes.first()) as record, run.batches(drawn, begin, train.steps) as source:

        def assess(number: int, now: TrainState) -> None:
            if corpus.eval is None:
                return
            found = run.evaluate(run.learned(now), corpus, stop.asked)
            if found is None:
                return  # made up for when the run goes on
            latest.clear()
            latest.update({f"eval/{name}": value for name, value in found.items()})
            record.write(number, latest)
            evaluated[:] = [number]
            say(f"step {number}: " + ", ".join(f"{name} {value:.4f}" for name, value in latest.items()))

        def save(number: int, now: TrainState) -> None:
            # Figures of an earlier step would make the wrong checkpoint the best.
            figures = {name: value for name, value in latest.items() if evaluated == [number]}
            record.sync()
            checkpoints.save(number, now, {**stored, "norms": list(recorder.norms)}, figures or None, force=True)

        def save_whole(number: int, now: TrainState) -> None:
            save(number, now)
            checkpoints.wait()

        assessing = loop.Event(run.config.eval.every, assess)
        if begin and assessing.due(begin, max(begin, train.steps)):
            latest.update(record.held_out)
            if not processes.of_first(bool(latest)):  # interrupted between this step and its evaluation
                assess(begin, state)
        if begin >= train.steps:
            return state, latest
        put = run.put(source, train.batch_size)
        batch = next(put)
        per_step = 3 * flops.count(lambda p, b: run.loss(p, b, None)[0], run.target.params, batch)
        rates = loop.Rates(batch["tokens"].size, per_step, peak * jax.device_count())
        update = step.make_step(run.learner, run.objective, run.tx, run.schedule, run.trainable, train.accumulate)
        compiled = step.compile_step(packed.packing(update), state, batch, run.layout.replicated, run.compiler_options)
        with stop.between_steps():
            state = loop.train(
                state, compiled, itertools.chain([batch], put), train, rates, start=begin, write=record.write, save=save_whole,
                events=(assessing, loop.Event(run.config.checkpoints.every, save)),
                profile_dir=str(workdir / "profile"), stop=stop, watch=recorder.watch)
            checkpoints.wait()
    return state, latest


if __name__ == "__main__":
    command_line.run(main)

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
from jaxlm.cli import experiment as experiments
from jaxlm.cli import finish
from jaxlm.cli import flags as command_line
from jaxlm.core import tree
from jaxlm.core.errors import UserError
from jaxlm.core.log import count, say
from jaxlm.core.types import TrainState
from jaxlm.data import pipeline, sampler
from jaxlm.optim import optimizers
from jaxlm.parallel import place
from jaxlm.training import evaluate, flops, loop, metrics, step

FLAGS = flags.FLAGS


def main(config: ConfigDict) -> None:
    if FLAGS.workdir is None:
        raise UserError("--workdir is missing: name the folder that the run is kept in")
    build.validate(config, jax.device_count())
    workdir = pathlib.Path(FLAGS.workdir).resolve()
    tokenizer, corpus = experiments.text(config)
    run = experiments.experiment(config, tokenizer.vocab_size)
    workdir.mkdir(parents=True, exist_ok=True)
    with place.use(run.layout), Checkpoints(workdir / "checkpoints", run.section("checkpoint")) as checkpoints:
        if checkpoints.latest() is not None:
            experiments.check_resume(config, tokenizer, corpus.fingerprint, checkpoints.meta(checkpoints.latest()))
        print(build.to_json(config))
        experiments.write_atomically(workdir / "config.json", build.to_json(config))
        experiments.write_atomically(workdir / "tokenizer.json", tokenizer.to_json())
        state, how = start.begin(run.section("start"), checkpoints, run.target, create=run.init)
        say(how)
        fit(run, state, tokenizer, corpus, checkpoints, workdir)


def fit(run: experiments.Experiment, state: TrainState, tokenizer: Any, corpus: Any, checkpoints: Checkpoints,
        workdir: pathlib.Path) -> None:
    """Trains to the last step with evaluation, checkpoints and records, then shows what came out."""
    train, ev = run.section("train"), run.section("eval")
    begin = int(state.step)
    draw = sampler.Sampler(corpus.train, train.batch_size, run.config.seed, run.config.data.shuffle)
    share = train.batch_size // jax.process_count()
    mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    source = pipeline.batches(draw, run.objective.prepare, begin, train.steps, mine, run.config.data.prefetch)
    put = (place.put(batch, run.layout, train.batch_size) for _, batch in source)
    peak, origin = flops.peak(jax.devices()[0])
    say(f"{count(tree.size(run.target.params))} parameters, {len(corpus.train):,} rows of {run.config.data.seq_len} tokens, "
        f"{jax.device_count()} {jax.devices()[0].device_kind} device(s), peak {count(peak)} FLOP/s each ({origin})")

    with metrics.Metrics(workdir, begin, train.tensorboard) as record:
        stored = experiments.meta(run, tokenizer, corpus.fingerprint)
        latest: dict[str, float] = {}
        rows = min(ev.rows or len(corpus.eval), len(corpus.eval))
        size = ev.batch_size or train.batch_size
        measure = evaluate.make_evaluate(run.loss, run.layout)

        def assess(number: int, now: TrainState) -> None:
            average = optimizers.averaged(now.opt_state)
            params = now.params if average is None else tree.combine(average, now.params)
            batches = evaluate.batches(corpus.eval, run.objective.prepare, run.rngs(0), rows, size, run.layout)
            sums = evaluate.evaluate(measure, params, batches, -(-rows // size))
            latest.clear()
            latest.update({f"eval/{k}": v for k, v in evaluate.summary(sums, corpus.eval_bytes_per_token).items()})
            record.write(number, latest)
            say(f"step {number}: " + ", ".join(f"{k} {v:.4f}" for k, v in latest.items()))

        def save(number: int, now: TrainState) -> None:
            checkpoints.save(number, now, {**stored, "metrics": dict(latest)}, dict(latest) or None)

        def save_whole(number: int, now: TrainState) -> None:
            save(number, now)
            checkpoints.wait()

        if begin < train.steps:
            batch = next(put)
            per_step = 3 * flops.count(lambda p, b: run.loss(p, b, None)[0], run.target.params, batch)
            rates = loop.Rates(batch["tokens"].size, per_step, peak * jax.device_count())
            update = step.make_step(run.model, run.objective, run.tx, run.schedule, run.trainable, train.accumulate)
            compiled = step.compile_step(update, state, batch, run.layout.replicated)
            state = loop.train(
                state, compiled, itertools.chain([batch], put), train, rates, start=begin, write=record.write,
                events=(loop.Event(ev.every, assess), loop.Event(run.config.checkpoint.every, save)), save=save_whole,
                waited=lambda: source.waited, profile_dir=str(workdir / "profile"))
        else:
            assess(begin, state)
    checkpoints.wait()
    finish.show(run, state, tokenizer, corpus, latest, workdir)


if __name__ == "__main__":
    command_line.run(main)

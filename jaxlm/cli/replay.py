# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""jaxlm replay --workdir=RUN --at=STEP: runs one step of a run again, compares it bit for bit and looks closely at it."""
import math
import pathlib
import sys
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from jaxlm import build
from jaxlm.checkpoints import start
from jaxlm.checkpoints.manager import Checkpoints, Damaged
from jaxlm.cli import compiling, resume
from jaxlm.cli import experiment as experiments
from jaxlm.cli import flags as command_line
from jaxlm.cli import record as records
from jaxlm.core.errors import UserError
from jaxlm.core.log import progress, say
from jaxlm.core.types import TrainState
from jaxlm.data import sampler
from jaxlm.data.tokenizers import tokenizer as tokenizers
from jaxlm.parallel import place
from jaxlm.training import flight, loop, metrics, packed, step

FLAGS = flags.FLAGS
flags.DEFINE_integer("at", 0, "The step to replay; 1 is the first.")
flags.DEFINE_boolean("look", True, "Look closely at the step: norms by layer, what was not finite first. Compiles a second program.")
TIMED = ("tokens_per_second", "mfu", "data_wait")  # of a row of metrics: of the clock, not of the computation


def main(config: ConfigDict) -> None:
    at, workdir = FLAGS.at, pathlib.Path(FLAGS.workdir).resolve()
    if at < 1:
        raise UserError("--at is missing: name the step to replay, as in --at=100")
    build.validate(config, jax.device_count())
    rows = {row["step"]: row for row in metrics.read(workdir / "metrics.jsonl") if "train/loss" in row} \
        if (workdir / "metrics.jsonl").exists() else {}
    # A row is the mean since the one before: to compare it, all of its steps are run.
    previous = max((s for s in rows if s < at), default=0) if at in rows else at - 1
    with Checkpoints(workdir / "checkpoints", build.section(config, "checkpoints"), writing=False) as checkpoints:
        stored = experiments.newest_meta(checkpoints) if checkpoints.steps() else None
        tokenizer, corpus = experiments.text(config, workdir, stored and tokenizers.from_json(stored["tokenizer"]))
        resume.check(config, tokenizer, corpus.fingerprint, checkpoints)
        run = experiments.experiment(config, tokenizer.vocabulary)
        drawn = sampler.Sampler(corpus.train, config.train.batch_size, config.seed, config.data.shuffle)
        with place.use(run.layout):
            compiling.tell_changes(run, checkpoints)
            state, origin = before(run, checkpoints, previous)
            found, single, look = again(run, drawn, state, previous, at)
    print(f"step {at} of {workdir}, replayed from {origin} on {jax.device_count()} x {jax.devices()[0].device_kind}")
    record = flight.read(workdir / records.FOLDER, at)
    equal = True
    if at in rows:
        expected = {name.removeprefix("train/"): x for name, x in rows[at].items() if name.startswith("train/")}
        since = f", the row of steps {previous + 1} to {at}" if previous < at - 1 else ""
        equal &= compared(found, {k: x for k, x in expected.items() if k not in TIMED}, f"metrics.jsonl{since}")
    if record:
        equal &= compared(single, {name: record[name] for name in single if name in record}, "flight record")
    if not record and at not in rows:
        print("nothing was recorded of this step to compare with\n" + "\n".join(f"  {k:12} {x!r}" for k, x in single.items()))
    if look:
        nothing = "every number of the step was finite" if math.isfinite(single["grad_norm"]) else "no equation was found that was not finite"
        print("\n".join(flight.summary(look) or [nothing]))
    if look and record and "look" not in record:
        print(f"the look was added to {flight.write(workdir / records.FOLDER, at, {**record, 'look': look})}")
    if not equal:
        made = f", the checkpoint is from jax {stored['versions']['jax']}" if stored else ""
        say(f"The replay is not what was recorded. It ran with jax {jax.__version__}{made}; another number or kind of devices, another "
            "version or a changed program give other bits.")
        sys.exit(1)


def before(run: experiments.Experiment, checkpoints: Checkpoints, latest: int) -> tuple[TrainState, str]:
    """The state after the newest whole checkpoint at or before step `latest`, else that of a fresh start; and which."""
    for number in reversed([s for s in checkpoints.steps() if s <= latest]):
        try:
            if checkpoints.weights_only(number):
                imported = start.Config(path=str(checkpoints.path), step=number)
                return run.init(start.load(imported, run.target.params)[0]), f"the imported weights of checkpoint {number}"
            return checkpoints.restore(number, run.target), f"checkpoint {number}"
        except Damaged as error:
            say(f"WARNING: {error}")
    given = run.section("start")
    return run.init(start.load(given, run.target.params)[0] if given.path else {}), "the start of the run"


def again(run: experiments.Experiment, drawn: sampler.Sampler, state: TrainState, previous: int,
          at: int) -> tuple[dict[str, float], dict[str, float], dict[str, Any]]:
    """(the row of steps previous + 1 to `at`, the figures of `at` alone, the look at it)."""
    begin, window = int(state.step), loop.Window(loop.Rates(1, 1.0, 1.0), lambda: 0.0)
    update = step.make_step(run.learner, run.objective, run.tx, run.schedule, run.trainable, run.config.train.accumulate)
    compiled, closely, look = None, records.look(run), {}
    with run.batches(drawn, begin, at) as source:
        for number, batch in enumerate(progress(run.put(source, drawn.batch_size), "replay", at - begin, "steps"), begin + 1):
            compiled = compiled or step.compile_step(packed.packing(update), state, batch, run.layout.replicated, run.compiler_options)
            if number == at and FLAGS.look:
                look = closely(state, at, batch)  # the step itself consumes the state
            state, measured = compiled(state, batch)
            measured = packed.read(measured)
            if number > previous:
                window.add(measured)
    return window.read(), metrics.figures(measured["means"], measured), look


def compared(found: dict[str, float], expected: dict[str, Any], where: str) -> bool:
    """Prints both, number by number; whether all are the same bits."""
    print(f"against {where}:")
    same = True
    for name, value in expected.items():
        value = float(value)
        equal = found[name] == value or math.isnan(found[name]) and math.isnan(value)
        same &= equal
        print(f"  {name:12} {found[name]!r:24} " + ("equal" if equal else f"DIFFERS from {value!r}"))
    return same


if __name__ == "__main__":
    command_line.run(main, needs_run=True)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""jaxlm evaluate --workdir=FOLDER: held-out loss, perplexity and bits per byte of a run, as one line of JSON."""
import json

import jax
from absl import flags
from ml_collections import ConfigDict

from jaxlm import build
from jaxlm.cli import experiment as experiments
from jaxlm.cli import flags as command_line
from jaxlm.parallel import place
from jaxlm.training import evaluate

FLAGS = flags.FLAGS
flags.DEFINE_integer("step", 0, "Checkpoint to use; 0 = the newest.")


def main(config: ConfigDict) -> None:
    build.validate(config, jax.device_count())
    trained = experiments.open_run(config, FLAGS.workdir, FLAGS.step)
    run, ev = trained.run, trained.run.section("eval")
    _, corpus = experiments.text(config, trained.tokenizer)
    rows = min(ev.rows or len(corpus.eval), len(corpus.eval))
    size = ev.batch_size or config.train.batch_size
    with place.use(run.layout):
        batches = evaluate.batches(corpus.eval, run.objective.prepare, run.rngs(0), rows, size, run.layout)
        sums = evaluate.evaluate(evaluate.make_evaluate(run.loss, run.layout), trained.params, batches, -(-rows // size))
    result = evaluate.summary(sums, corpus.eval_bytes_per_token)
    print(json.dumps({"step": trained.step, **{f"eval/{name}": value for name, value in result.items()}}))


if __name__ == "__main__":
    command_line.run(main, needs_run=True)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""jaxlm evaluate --workdir=FOLDER: held-out loss, perplexity and bits per byte of a run, as one line of JSON."""
import json

import jax
from absl import flags
from ml_collections import ConfigDict

from jaxlm import build
from jaxlm.cli import chosen
from jaxlm.cli import experiment as experiments
from jaxlm.cli import flags as command_line
from jaxlm.core.errors import UserError
from jaxlm.parallel import place

FLAGS = flags.FLAGS


def main(config: ConfigDict) -> None:
    build.validate(config, jax.device_count())
    trained = experiments.open_run(config, FLAGS.workdir, chosen.step())
    _, corpus = experiments.text(config, FLAGS.workdir, trained.tokenizer)
    if corpus.eval is None:
        raise UserError("data.holdout is 0, so this run was trained on all of its text: name other text with --config.source.path "
                        "and the share of its documents to evaluate on, --config.data.holdout=0.99")
    with place.use(trained.run.layout):
        result = trained.run.evaluate(trained.params, corpus)
    print(json.dumps({"step": trained.step, **{f"eval/{name}": value for name, value in result.items()}}))


if __name__ == "__main__":
    command_line.run(main, needs_run=True)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""jaxlm generate --workdir=FOLDER --prompt=TEXT: continues texts with a trained model, streaming one, or JSON lines of many."""
import json
import sys

import jax
from absl import flags
from ml_collections import ConfigDict

from jaxlm import build
from jaxlm.cli import experiment as experiments
from jaxlm.cli import flags as command_line
from jaxlm.generate import text as texts
from jaxlm.parallel import processes

FLAGS = flags.FLAGS
flags.DEFINE_integer("step", 0, "Checkpoint to use; 0 = the newest.")
flags.DEFINE_multi_string("prompt", [], "A text to continue; may be given several times. Without it, lines of standard input.")
flags.DEFINE_bool("json", False, "Write one JSON line per prompt instead of text.")


def main(config: ConfigDict) -> None:
    build.validate(config, jax.device_count())
    prompts = FLAGS.prompt or [line.rstrip("\n") for line in sys.stdin]
    processes.agree("the list of prompts", json.dumps(prompts))
    trained = experiments.open_run(config, FLAGS.workdir, FLAGS.step)
    stream = len(prompts) == 1 and not FLAGS.json
    if stream:
        print(prompts[0], end="", flush=True)
    show = lambda index, piece: print(piece, end="", flush=True)
    results = texts.generate(trained.run.model, trained.params, trained.tokenizer, prompts, trained.run.section("generate"),
                             show if stream else None, max_len=getattr(config.model, "max_len", 0), layout=trained.run.layout)
    if stream:
        print()
        return
    for result in results:
        if FLAGS.json:
            print(json.dumps({"prompt": result.prompt, "text": result.text, "finished_by": result.finished_by,
                              "logprob": float(result.logprobs.sum()), "tokens": len(result.tokens)}, ensure_ascii=False))
        else:
            print(f"{result.prompt}{result.text}\n")


if __name__ == "__main__":
    command_line.run(main, needs_run=True)

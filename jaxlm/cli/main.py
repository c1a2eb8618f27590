# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""`jaxlm COMMAND ...` is `python -m jaxlm.cli.COMMAND ...`; the command's module is all that is loaded."""
import runpy
import sys

from jaxlm.core import allocator
from jaxlm.core.errors import nearest

COMMANDS = {
    "train": "pre-train or go on with a run",
    "evaluate": "held-out loss, perplexity and bits per byte of a run",
    "generate": "continue a text with a trained model",
    "hf": "Hugging Face model folders: import one as a run, export a run as one, check one",
    "tokenize": "train a tokenizer, tokenise the text and show what came out",
    "replay": "run one step of a run again, compare it with what was recorded, name what was not finite first",
    "compare": "the losses of two configs or two revisions on the same data, bit for bit",
    "curves": "several runs in one picture and one table, at the same number of tokens and at the same time",
    "inspect": "parameters, shardings, bytes and FLOPs of a config, without training",
    "doctor": "whether this installation, machine or cluster works, and what to do where not",
}


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help", "help"):
        print("usage: jaxlm COMMAND --config=PAGE --workdir=FOLDER [--config.section.field=value ...]\n")
        print("\n".join(f"  {command:10} {what}" for command, what in COMMANDS.items()))
        print("\njaxlm COMMAND --help lists the command's flags.")
        return
    if name not in COMMANDS:
        print(f"jaxlm: there is no command '{name}'{nearest(name, COMMANDS)} (choose from {', '.join(COMMANDS)})", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"jaxlm {name}", *sys.argv[2:]]
    if name == "train":
        allocator.keep_memory()  # before jax is imported, which allocates
    runpy.run_module(f"jaxlm.cli.{name}", run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    main()

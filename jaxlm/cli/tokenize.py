# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""jaxlm tokenize --config=PAGE: trains the tokenizer if the page says so, tokenises the text, shows what came out."""
import pathlib

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from jaxlm import build
from jaxlm.cli import experiment as experiments
from jaxlm.cli import flags as command_line
from jaxlm.core.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string("save", "", "Also write the tokenizer to this tokenizer.json.")


def main(config: ConfigDict) -> None:
    build.validate(config)
    if FLAGS.workdir is None:
        raise UserError("--workdir is missing: name the folder that keeps the tokens (or of the run that will use them)")
    tokenizer, corpus = experiments.text(config, FLAGS.workdir)
    for name, store, plan in (("train", corpus.train_store, corpus.train), ("held out", corpus.eval_store, corpus.eval)):
        if store is None:
            continue
        size = int(store.bytes.sum())
        rows = f"{plan.source_len} and {plan.length}, filled to {plan.fill[0]:.0%} and {plan.fill[1]:.0%}" if hasattr(plan, "source_len") \
            else config.data.seq_len
        if store.targets is not None:
            target = store.predicted
            print(f"{name}: {store.documents:,} pairs, sources of {len(store.tokens) - 1 - target + store.documents:,} tokens and targets of "
                  f"{target:,}, each with its end ({size / target:.2f} bytes a target's token), {len(plan):,} rows of {rows}")
            continue
        print(f"{name}: {store.documents:,} documents, {len(store.tokens):,} tokens, {size:,} bytes "
              f"({size / len(store.tokens):.2f} bytes a token), {len(plan):,} rows of {rows}")
    print(f"vocabulary: {tokenizer.vocab_size:,}; special tokens: " + " ".join(f"{name}={i}" for name, i in tokenizer.special.items()))
    if tokenizer.unknown:
        tokens = corpus.train_store.slice(0, 10_000_000)
        share = np.mean(tokens == tokenizer.token_id(tokenizer.unknown))
        print(f"unknown: {share:.2%} of the first {len(tokens):,} tokens are {tokenizer.unknown}")
    store, pieces = corpus.train_store, lambda tokens: " ".join(repr(tokenizer.piece(int(t))) for t in tokens[:24])
    if store.targets is None:
        print("first tokens: " + pieces(store.slice(0, 24)))
    else:
        begin, middle, end = int(store.offsets[0]) + 1, int(store.targets[0]), int(store.offsets[1])
        print(f"first source: {pieces(store.tokens[begin:middle])}\nfirst target: {pieces(store.tokens[middle:end])}")
    if FLAGS.save:
        path = pathlib.Path(FLAGS.save)
        path.parent.mkdir(parents=True, exist_ok=True)
        experiments.write_once(path, tokenizer.to_hf_json())
        print(f"tokenizer written to {path}")


if __name__ == "__main__":
    command_line.run(main)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""jaxlm generate --workdir=FOLDER --prompt=TEXT: continues texts with a trained model (an encoder-decoder answers them: it
translates, say), scores them, or chooses among answers."""
import pathlib

import jax
from absl import flags
from ml_collections import ConfigDict

from jaxlm import build
from jaxlm.cli import experiment as experiments
from jaxlm.cli import flags as command_line
from jaxlm.cli import answers, chosen, judge as judges, prompts
from jaxlm.core.errors import UserError
from jaxlm.generate.beam import Beams
from jaxlm.generate.decode import Decoder
from jaxlm.generate.score import Scorer

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("prompt", [], "A text to continue, or what an encoder-decoder reads; may be given several times. Without it "
                          "and --input, lines of standard input.")
flags.DEFINE_string("input", "", "A file with a prompt on each line; .jsonl (or .gz of either) holds them in --field. - is standard input.")
flags.DEFINE_string("field", "", "The field of JSON lines that holds the prompt (default: prompt, where the file is named .jsonl).")
flags.DEFINE_bool("interactive", False, "Ask for prompts and answer each at once; with --chat, one conversation.")
flags.DEFINE_bool("chat", False, "A prompt is what the user says, written as the tokenizer's chat template says.")
flags.DEFINE_string("system", "", "With --chat: the system's message before it.")
flags.DEFINE_bool("allow_empty", False, "Let an empty prompt begin a new document.")
flags.DEFINE_bool("json", False, "Write one JSON line per prompt instead of text.")
flags.DEFINE_string("output", "", "Write the JSON lines to this file, which is whole or not there; named .txt, the texts alone, each on a "
                    "line of its own (line breaks in one become spaces).")
flags.DEFINE_multi_string("choice", [], "Instead of continuing: which of these follows the prompt, with their log-probabilities.")
flags.DEFINE_bool("score", False, "Instead of continuing: the log-probability of each prompt, by token and in all.")
flags.DEFINE_string("targets", "", "With --score of an encoder-decoder: a file with the target of each prompt, read as --input is.")
flags.DEFINE_string("draft", "", "Folder of the run of a small model that writes ahead; the text is distributed as without it.")


def main(config: ConfigDict) -> None:
    build.validate(config, jax.device_count())
    if sum(map(bool, (FLAGS.choice, FLAGS.score, FLAGS.interactive))) > 1 or FLAGS.score and FLAGS.chat:
        raise UserError("--choice, --score and --interactive exclude each other, and --score takes plain text: leave out one")
    if FLAGS.draft and (FLAGS.choice or FLAGS.score or config.generate.beams > 1):
        raise UserError("--draft writes ahead where text is drawn token by token: leave it out with beams, --choice or --score")
    prompts.check_output(FLAGS.output)
    if FLAGS.interactive and (FLAGS.prompt or FLAGS.input or FLAGS.output or FLAGS.json or config.generate.beams > 1):
        raise UserError("--interactive asks for its prompts and streams: leave out --prompt, --input, --output, --json and beams")
    source = getattr(build.section(config, "model"), "source", False)
    if source and (FLAGS.chat or FLAGS.allow_empty):
        raise UserError("this run's model reads a source, which is neither a chat nor empty: leave out --chat and --allow_empty")
    if bool(FLAGS.targets) != (source and FLAGS.score):
        raise UserError("--score of an encoder-decoder needs what it is to score as well as the sources: name a file as --targets"
                        if source and FLAGS.score else "--targets are what --score scores of an encoder-decoder: leave it out")
    answering = not (FLAGS.choice or FLAGS.score)
    # An empty line of a file of sources keeps its place; an empty argument is a mistake.
    empty = answering and not FLAGS.prompt if source else FLAGS.allow_empty
    given = [] if FLAGS.interactive else prompts.read(FLAGS.prompt, FLAGS.input, FLAGS.field, empty, source)
    targets = prompts.read([], FLAGS.targets, FLAGS.field, False, True, "--targets") if FLAGS.targets else []
    if targets and len(targets) != len(given):
        raise UserError(f"there are {len(given)} prompts and {FLAGS.targets} has {len(targets)} targets: give one for each")
    trained = experiments.open_run(config, FLAGS.workdir, chosen.step())
    said = [text for _, text in given]
    asked = [prompts.chat(trained.tokenizer, text, FLAGS.system) if FLAGS.chat else text for text in said]
    settings, tokenizer, limit = trained.run.section("generate"), trained.tokenizer, getattr(config.model, "max_len", 0)
    common = dict(eot=tokenizer.eot, vocab=tokenizer.vocab_size, max_len=limit, layout=trained.run.layout)
    if source:
        common |= dict(start=tokenizer.vocabulary.start, source_len=limit)
    if not answering:
        judge = judges.Judge(Scorer(trained.run.model, **common), trained.params, tokenizer, settings)
        prompts.show(*(judge.scores(given, targets) if FLAGS.score else judge.choices(given, asked, FLAGS.choice)), FLAGS.json, FLAGS.output)
        return
    params, kind = trained.params, Beams if settings.beams > 1 else Decoder
    if FLAGS.draft:
        draft = _draft(config, trained)
        common["max_len"] = min((n for n in (limit, getattr(draft.run.config.model, "max_len", 0)) if n), default=0)
        common["draft"], params = draft.run.model, (params, draft.params)
    decoder = kind(trained.run.model, **common)
    writer = answers.Writer(decoder, decoder.ready(params), tokenizer, settings, source)
    del trained, params  # the writer's may be a copy
    if FLAGS.interactive:
        writer.converse(FLAGS.chat, FLAGS.system)
    else:
        writer.answer(given, asked, FLAGS.chat, FLAGS.json, FLAGS.output)


def _draft(config: ConfigDict, trained: experiments.Trained) -> experiments.Trained:
    """The draft's run, laid out as the model's."""
    path = pathlib.Path(FLAGS.draft) / "config.json"
    if not path.is_file():
        raise UserError(f"--draft: there is no config '{path}': is it the folder of a run?")
    stored = build.from_json(path.read_text(), str(path))
    stored.mesh, stored.rules, stored.table = config.mesh, config.rules, config.table
    draft = experiments.open_run(stored, FLAGS.draft)
    if draft.tokenizer.fingerprint != trained.tokenizer.fingerprint:
        raise UserError(f"--draft: {FLAGS.draft} was trained with another vocabulary: a draft needs the model's own tokenizer")
    return draft


if __name__ == "__main__":
    command_line.run(main, needs_run=True)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""An encoder-decoder by the command line, from the page to answers in files: every command on one run, one clear error each."""
import ast
import gzip
import json
import random
import re
import signal

import pytest
import tensorflow_datasets as tfds

from tests import tiny
from tests.data import test_tfds_source
from tests.test_resume import STRIKE

WORDS = dict(zip("the dog street big girl green over runs house small".split(),
                 "der Hund Straße große Mädchen grünen über läuft Häuschen kleines".split()))
STEPS = 6
SOURCES = ["the big dog", "", "girl runs over the street", "  ", "small house"]
GREEDY = ["--config.generate.temperature=0", "--config.generate.max_new_tokens=6"]
BEAMS = [*GREEDY, "--config.generate.beams=3"]
DRAWN = ["--config.generate.max_new_tokens=6", "--config.generate.temperature=1.5", "--config.generate.top_k=50", "--config.generate.top_p=0.98",
         "--config.generate.min_p=0.001", "--config.generate.typical_p=0.99", "--config.generate.repetition_penalty=1.1",
         "--config.generate.presence_penalty=0.1", "--config.generate.frequency_penalty=0.1", "--config.generate.no_repeat_ngram=2",
         "--config.generate.bad_words=('dog',)", "--config.generate.min_new_tokens=2"]


def write_pairs(folder, pairs=240):
    draw = random.Random(0)
    lines = [draw.choices(list(WORDS), k=draw.randint(1, 6)) for _ in range(pairs)]
    (folder / "pairs.en").write_text("".join(" ".join(line) + "\n" for line in lines))
    (folder / "pairs.de").write_text("".join(" ".join(WORDS[word] for word in line) + ".\n" for line in lines))
    return folder / "pairs"


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(folder, {name: what the command said}) of a run that was interrupted and went on, and of what it was used for."""
    here = tmp_path_factory.mktemp("translation")
    run, whole = (f"--workdir={here / name}" for name in ("run", "whole"))
    page = ["--config=configs/transformer_multi30k.py", f"--config.source.path={write_pairs(here)}", "--config.tokenizer.vocab_size=290",
            "--config.data.seq_len=32", "--config.data.source_len=32", "--config.data.holdout=0.2", f"--config.data.cache_dir={here / 'cache'}",
            "--config.model.layers=1", "--config.model.embed=32", "--config.model.mlp=48", "--config.model.max_len=32",
            f"--config.train.steps={STEPS}", "--config.train.batch_size=8", "--config.train.log_every=1", "--config.train.tensorboard=false",
            "--config.train.picture=false", "--config.schedule.warmup=2", "--config.eval.every=0", "--config.checkpoints.every=2"]
    text = "".join(line + "\n" for line in SOURCES)
    (here / "in.txt").write_text(text)
    with gzip.open(here / "in.txt.gz", "wt") as file:
        file.write(text)
    with gzip.open(here / "in.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"en": line}) + "\n" for line in SOURCES)
    full = [line for line in SOURCES if line.strip()]
    (here / "full.txt").write_text("".join(line + "\n" for line in full))
    (here / "ref.txt").write_text("der große Hund.\nMädchen läuft.\nHäuschen.\n")
    (here / "long.txt").write_text("the dog\n" + "street " * 40 + "\n")
    prompts, file = [f"--prompt={line}" for line in full], f"--input={here / 'in.txt'}"
    generate = lambda *words: ["generate", run, *words]
    both = [line.read_text().splitlines() for line in (here / "pairs.en", here / "pairs.de")]
    (here / "pairs.jsonl").write_text("".join(json.dumps({"id": 1, "en": en, "de": de}) + "\n" for en, de in zip(*both)))
    test_tfds_source.LocalBuilder(
        name="corpus", version="1.0.0", data_dir=str(here / "tfds"), file_format="array_record", disable_shuffling=True,
        features=tfds.features.FeaturesDict({"en": tfds.features.Text(), "de": tfds.features.Text()}),
        split_datasets={"train": [(i, {"en": en, "de": de}) for i, (en, de) in enumerate(zip(*both))]}).download_and_prepare()
    of_fields = lambda source: [word.replace("multi30k.py", f"multi30k.py:source={source}") for word in page if "source.path" not in word] + [
        "--config.source.field=en", "--config.source.target_field=de", f"--workdir={here / source}"]
    jsonl = [*of_fields("jsonl"), f"--config.source.path={here / 'pairs.jsonl'}"]
    prepared = [*of_fields("tfds"), f"--config.source.dataset={here / 'tfds' / 'corpus' / '1.0.0'}"]
    commands = {
        "tokenize": ["tokenize", *page, run],
        "jsonl": ["tokenize", *jsonl],
        "tfds": ["tokenize", *prepared],
        "wrong_field": ["tokenize", *jsonl, "--config.source.target_field=dee"],
        "inspect": ["inspect", *page],
        "arm": ["python", STRIKE.format(step=3, signal=int(signal.SIGTERM))],
        "stopped": ["train", *page, run],
        "disarm": ["python", "from jaxlm.training import metrics\nmetrics.Metrics.write = metrics.Metrics.write.__globals__.get('write', "
                             "metrics.Metrics.write)"],
        "resumed": ["train", *page, run],
        "whole": ["train", *page, whole],
        "jsonl_trained": ["train", *jsonl],
        "tfds_trained": ["train", *prepared],
        "jsonl_answers": ["generate", f"--workdir={here / 'jsonl'}", f"--input={here / 'in.jsonl.gz'}", "--field=en", *GREEDY, "--json"],
        "evaluate": ["evaluate", run],
        "replay": ["replay", run, f"--at={STEPS}", "--look=false"],
        "arguments": generate(*prompts, *GREEDY, "--json"),
        "lines": generate(file, *GREEDY),
        "typed": (generate(*GREEDY, "--json"), text),
        "zipped": generate(f"--input={here / 'in.txt.gz'}", *GREEDY, "--json"),
        "field": generate(f"--input={here / 'in.jsonl.gz'}", "--field=en", *GREEDY, f"--output={here / 'out.jsonl'}"),
        "texts": generate(file, *GREEDY, f"--output={here / 'out.txt'}"),
        "beams": generate(file, *BEAMS, "--config.generate.n_best=2", "--config.generate.length_penalty=0.6",
                          "--config.generate.early_stopping=true", "--json"),
        "one": generate(prompts[0], *GREEDY),
        "interactive": (generate("--interactive", *GREEDY), "the big dog\nsmall house\n"),
        "drawn": generate(file, *DRAWN, "--json"),
        "drawn_alone": (generate(*DRAWN, "--json"), "x\nx\ngirl runs over the street\n"),
        "draft": generate(*prompts, *GREEDY, "--json", f"--draft={here / 'run'}"),
        "scored": generate(f"--input={here / 'full.txt'}", "--score", f"--targets={here / 'ref.txt'}", "--json"),
        "chosen": generate(prompts[0], "--choice=der große Hund.", "--choice=Straße", "--json"),
        "no_targets": generate(prompts[0], "--score"),
        "no_lines": (generate(*GREEDY), ""),
        "blank_lines": (generate(*GREEDY), "\n \n"),
        "blank_argument": generate("--prompt=", *GREEDY),
        "blank_scored": generate(file, "--score", f"--targets={here / 'in.txt'}"),
        "fewer_targets": generate(file, "--choice=a", "--choice=b"),
        "uneven": generate(f"--input={here / 'full.txt'}", "--score", f"--targets={here / 'long.txt'}"),
        "long": generate(f"--input={here / 'long.txt'}", *GREEDY, f"--output={here / 'never.txt'}"),
        "long_target": generate(f"--input={here / 'long.txt'}".replace("long", "two"), "--score", f"--targets={here / 'long.txt'}"),
        "long_answer": generate(prompts[0], "--config.generate.max_new_tokens=64"),
        "chat": generate(prompts[0], "--chat"),
        "stop": generate(prompts[0], "--config.generate.stop=('',)"),
        "beams_interactive": (generate("--interactive", *BEAMS), "the dog\n"),
        "no_source": ["train", *page, f"--workdir={here / 'none'}", "--config.source.path="],
        "decoder": ["train", *(word.replace("multi30k.py", "multi30k.py:model=gpt") for word in page if "model." not in word), f"--workdir={here / 'none'}"],
        "texts_for_pairs": ["train", *(word.replace("multi30k.py", "multi30k.py:source=text") for word in page), f"--workdir={here / 'none'}"],
    }
    (here / "two.txt").write_text("the dog\nthe dog\n")
    done = iter(tiny.commands(*commands.values(), timeout=900))
    return here, {name: next(done) for name in commands if name not in ("arm", "disarm")}


def rows(said, name):
    assert said[name].returncode == 0, said[name].stderr
    return [json.loads(line) for line in said[name].stdout.splitlines()]


def figures(folder):
    clock = ("train/tokens_per_second", "train/mfu", "train/data_wait")
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_trained_in_two_parts_as_in_one(ran):
    """Stopped by SIGTERM after step 3 or so and started again: every figure is that of a run that was not; evaluate and replay repeat them."""
    here, said = ran
    assert said["stopped"].returncode == 128 + signal.SIGTERM and "Run the same command again" in said["stopped"].stderr
    assert said["resumed"].returncode == said["whole"].returncode == 0, said["resumed"].stderr + said["whole"].stderr
    assert re.search("resumed from step [34] ", said["resumed"].stderr)
    found = figures(here / "run")
    assert found == figures(here / "whole") and len(found) == STEPS + 1
    assert rows(said, "evaluate") == [found[-1]] and "eval/bits_per_byte" in found[-1]
    assert said["replay"].returncode == 0 and "DIFFERS" not in said["replay"].stdout and said["replay"].stdout.count("equal") >= 4


def test_trained_on_fields_as_on_files(ran):
    """The same pairs as two fields of jsonl or tfds are the same run: losses, held-out figures, answers. Fails if a target is
    read from the source's field: `config.field` for `config.target_field` where data/sources/jsonl.py or tfds.py make a pair."""
    here, said = ran
    assert said["jsonl_trained"].returncode == said["tfds_trained"].returncode == 0, said["jsonl_trained"].stderr + said["tfds_trained"].stderr
    assert figures(here / "jsonl") == figures(here / "tfds") == figures(here / "whole")
    assert rows(said, "jsonl_answers") == rows(said, "typed")


def test_what_is_shown_of_pairs(ran):
    """Both sides by name, as they were written, umlauts too; from fields of jsonl and tfds the same. Fails if the tokens of a source and its target are shown as one text."""
    here, said = ran
    shown = said["tokenize"].stdout.splitlines()
    assert "pairs, sources of" in shown[0] and shown[0].startswith("train: ") and shown[1].startswith("held out: ")
    [source] = [line for line in shown if line.startswith("first source: ")]
    [target] = [line for line in shown if line.startswith("first target: ")]
    lines = [(here / f"pairs.{end}").read_text().splitlines() for end in ("en", "de")]
    pieces = lambda line: [ast.literal_eval(piece) for piece in re.findall(r"'(?:[^'\\]|\\.)*'", line)]
    raw = lambda piece: re.sub(rb"<0x(..)>", lambda m: bytes.fromhex(m[1].decode()), piece.encode())
    joined = lambda line: b"".join(map(raw, pieces(line))).decode()
    assert (joined(source), joined(target)) in zip(*lines)
    assert said["jsonl"].stdout == said["tfds"].stdout == said["tokenize"].stdout, said["jsonl"].stderr + said["tfds"].stderr
    assert said["wrong_field"].returncode == 2 and "has no field 'dee', did you mean 'de'?" in said["wrong_field"].stderr
    assert said["inspect"].returncode == 0 and "decoder/blocks/cross/q/kernel" in said["inspect"].stdout and "FLOPs/token" in said["inspect"].stdout


def test_sources_from_everywhere(ran):
    """The same answers from arguments, lines, zipped lines and fields; a blank line has a blank answer and keeps the others in place.

    Fails if blank sources are left out (`given` without them in cli/generate.py)."""
    here, said = ran
    full = rows(said, "arguments")
    assert [row["source"] for row in full] == [line for line in SOURCES if line.strip()]
    answers = {row["source"]: row for row in full}
    expected = [answers.get(line, {"source": line, "text": "", "finished_by": "blank", "logprob": 0.0, "tokens": 0}) for line in SOURCES]
    assert rows(said, "typed") == rows(said, "zipped") == expected
    assert "2 of 5 sources are blank and have blank answers" in said["typed"].stderr
    assert [json.loads(line) for line in (here / "out.jsonl").read_text().splitlines()] == expected
    texts = [" ".join(row["text"].splitlines()) for row in expected]
    assert (here / "out.txt").read_text() == said["lines"].stdout == "".join(text + "\n" for text in texts)
    assert said["texts"].stdout == f"5 lines in {here / 'out.txt'}\n"
    assert said["one"].stdout == full[0]["text"] + "\n"
    assert said["interactive"].stdout == full[0]["text"] + "\n" + full[2]["text"] + "\n"
    assert [row["text"] for row in rows(said, "draft")] == [row["text"] for row in full]


def test_beams_and_draws(ran):
    """n best of each, the best first, blank ones too; what is drawn for a line hangs on its number, not on the lines before it.

    Fails if sources are numbered without the blank ones: leave out `rows=kept` in cli/answers.py."""
    _, said = ran
    beams = rows(said, "beams")
    assert [row["source"] for row in beams] == [line for line in SOURCES for _ in range(2)]
    for first, second in zip(beams[::2], beams[1::2]):
        assert first["score"] >= second["score"] and (first["text"] != second["text"] or not first["source"].strip())
    drawn, alone = rows(said, "drawn"), rows(said, "drawn_alone")
    assert drawn[2] == alone[2] and drawn[2]["tokens"] >= 2 and drawn[2]["source"] == SOURCES[2]


def test_scores_and_choices(ran):
    """A target's log-probability is the same where it is one of several to choose from."""
    _, said = ran
    scored, [chosen] = rows(said, "scored"), rows(said, "chosen")
    assert [row["text"] for row in scored] == ["der große Hund.", "Mädchen läuft.", "Häuschen."] and scored[0]["source"] == SOURCES[0]
    assert all(abs(sum(row["logprobs"]) - row["logprob"]) < 1e-4 for row in scored)
    same = next(c for c in chosen["choices"] if c["text"] == "der große Hund.")
    assert abs(same["logprob"] - scored[0]["logprob"]) < 1e-3 and {c["text"] for c in chosen["choices"]} == {"der große Hund.", "Straße"}


@pytest.mark.parametrize("name,message", [
    ("no_targets", "needs what it is to score as well as the sources: name a file as --targets"),
    ("no_lines", "there are no prompts: standard input is empty"),
    ("blank_lines", "there are no prompts: standard input is empty"),
    ("blank_argument", "there are no prompts: --prompt is empty"),
    ("blank_scored", "in.txt:2 is empty: there is nothing to read or to score in it"),
    ("fewer_targets", "in.txt:2 is empty"),
    ("uneven", "there are 3 prompts and"),
    ("long", " tokens (its end included), more than the 32 positions that the model has for a source"),
    ("long_target", "long.txt:2 has"),
    ("long_answer", "max_new_tokens is 64, with the start of the target 65 tokens, more than the 32 positions of the model: set max_new_tokens to 31"),
    ("chat", "neither a chat nor empty"),
    ("stop", "zero length"),
    ("beams_interactive", "--interactive asks for its prompts and streams"),
    ("no_source", "source.path is empty"),
    ("decoder", "model 'gpt' reads none: take an encoder-decoder"),
    ("texts_for_pairs", "source 'text' yields texts: take source=parallel"),
])
def test_one_clear_error(ran, name, message):
    here, said = ran
    done = said[name]
    assert done.returncode == 2 and message in done.stderr and not done.stdout, done.stderr + done.stdout
    assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr
    assert not list(here.glob("*never*")) and not list(here.glob("*partial*")) and not (here / "none" / "checkpoints").exists()

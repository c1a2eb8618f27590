# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The README's commands run, as written, in a folder with the files they speak of; only steps and sizes are cut down."""
import gzip
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds

from tests import tiny

README = (tiny.ROOT / "README.md").read_text()
SECTIONS = [(title, line) for title, text in re.findall(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", README, re.S | re.M)
            for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in block.strip().splitlines()]
COMMANDS = [line for _, line in SECTIONS]
TITLES, JAXLM = zip(*((title, shlex.split(line[line.index("jaxlm "):])) for title, line in SECTIONS if re.search(r"(^|&& )jaxlm ", line)))
LAUNCHED = [shlex.split(line) for line in COMMANDS if line.startswith("python launch/")]
SMALL = ["--config.train.steps=2", "--config.schedule.warmup=1", "--config.data.seq_len=16", "--config.train.batch_size=8",
         "--config.model.embed=16", "--config.model.layers=1", "--config.eval.batches=1", "--config.train.sample_tokens=3", "--config.train.baseline=",
         "--config.data.holdout=0.3"]


class LocalBuilder(tfds.dataset_builders.AdhocBuilder, skip_registration=True):
    """The library's builder without the parts that need TensorFlow."""

    def _split_generators(self, dl_manager):
        return {name: iter(examples) for name, examples in self._split_datasets.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A clone's worth of what the commands name."""
    here = tmp_path_factory.mktemp("readme")
    shutil.copytree(tiny.ROOT / "configs", here / "configs")
    tiny.write_text(here / "my_texts", documents=400)  # enough that some are held out
    texts = [p.read_text() for p in sorted((here / "my_texts").iterdir())]
    with gzip.open(here / "my.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    written = tiny.write_pairs(here)
    for end, side in (("en", "source"), ("de", "target")):
        pathlib.Path(f"{written}.{side}").rename(here / f"my_pairs.{end}")
        (here / f"my_test.{end}").write_text("big dog\nred sun\n")
    (here / "prompts.txt").write_text("the quick\nbrown\n")
    LocalBuilder(name="corpus", version="1.0.0", data_dir=here / "my_tfds", file_format="array_record",
                 features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
                 split_datasets={"train": [(i, {"text": t}) for i, t in enumerate(texts)]}).download_and_prepare()
    return here


def test_the_two_commands_of_the_start():
    """Fails if the README no longer begins with one command that installs and trains, and one that installs and tests."""
    assert "pip install -e . && jaxlm train --config=configs/gpt_tiny.py" in COMMANDS[0]
    assert COMMANDS[1] == 'pip install -e ".[test]" && python -m pytest -n 2 --dist worksteal'
    assert "python -m pytest -n 2 --dist worksteal" in (tiny.ROOT / ".ci" / "run").read_text()


def cut_down(words: list[str]) -> list[str]:
    """The flags that make a command take seconds; none changes which text, tokenizer or run it speaks of."""
    if any("runs/imported/config.json" in w for w in words):
        return [s for s in SMALL if "model." not in s]
    if words[1] not in ("train", "compare") or any("config.json" in w for w in words):
        return ["--config.eval.batches=1"] if words[1] == "evaluate" else []
    small = list(SMALL)
    if not any("source.path=" in w or "source=" in w for w in words):
        small.append("--config.source.path=my_texts/")  # for the 11 MB of the standard library
    if not any("tokenizer=" in w for w in words):
        small.append("--config.tokenizer.vocab_size=300")
    if "bert" in " ".join(words):
        small += ["--config.model.heads=2", "--config.train.sample_tokens=0"]
    if "transformer" in " ".join(words):
        small += ["--config.data.seq_len=32", "--config.data.source_len=32", "--config.train.sample_tokens=0"]
    if "t5_tiny" in " ".join(words):
        small += ["--config.data.source_len=32", "--config.train.sample_tokens=0"]
    given = {w.split("=")[0] for w in words} - {"--config.train.steps", "--config.model.layers"}
    small = list({s.split("=")[0]: s for s in small}.values())  # the last of a field
    return [s for s in small if s.split("=")[0] not in given]


def made(words: list[str]) -> list[str]:
    """The runs, folders and files that a command makes and others name."""
    if words[1:3] == ["hf", "export"]:
        return [words[3].rstrip("/")]
    names = ("--workdir=", "--save=") if words[1] in ("train", "tokenize", "hf") else ()
    return [word.split("=", 1)[1] for word in words if word.startswith(names) and names]


MAKES = {path: i for i in reversed(range(len(JAXLM))) for path in made(JAXLM[i])}  # the first that makes it


def with_needed(title: str) -> list[int]:
    """The commands of a section, and those of others that make what they use, so that each section stands alone."""
    found = [i for i, other in enumerate(TITLES) if other == title]
    for i in found:  # which grows
        uses = {path for path in MAKES for word in JAXLM[i] if re.search(rf"(^|=){re.escape(path)}(/|$)", word)}
        found += [MAKES[path] for path in uses if MAKES[path] < i and MAKES[path] not in found]
    return sorted(found)


@pytest.mark.parametrize("title", dict.fromkeys(TITLES))
def test_every_command(folder, title):
    """Fails if a command names a flag, field, page or file that is not there. They run in order: later ones use earlier runs."""
    assert len(JAXLM) >= 40 and {"runs/first", "runs/imported", "exported", "my_tokenizer.json"} <= set(MAKES)
    together, alone, lines = [], [], [JAXLM[i][1:] + cut_down(JAXLM[i]) for i in with_needed(title)]
    for line in lines:  # the number of devices is a process's
        (alone if any(word.startswith("--cpu_devices") for word in line) else together).append(line)
    for group in [[line] for line in alone] + [together] * bool(together):
        for words, done in zip(group, tiny.commands(*group, cwd=folder, timeout=900), strict=True):
            assert done.returncode == 0, f"jaxlm {' '.join(words)}\n{done.stderr[-3000:]}"
            assert done.stdout.strip()


@pytest.mark.parametrize("words", LAUNCHED, ids=lambda words: words[1])
def test_every_launcher(words):
    """Their commands are shown here and run in tests/launch and tests/test_processes.py."""
    done = subprocess.run([sys.executable, words[1], "--dry_run", *(w for w in words[2:] if w != "--dry_run")], cwd=tiny.ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "jaxlm train" in done.stdout, done.stderr


def test_files_that_the_readme_names_exist():
    for name in re.findall(r"`((?:configs|jaxlm|tests)/[\w/.]*)`", README):
        if "foo" not in name:
            assert (pathlib.Path(tiny.ROOT) / name).exists(), name

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""jaxlm compare --first=... --second=... | --revisions=A,B: the losses of two runs on the same data, step by step, bit for bit."""
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict

from jaxlm import build
from jaxlm.core.errors import UserError
from jaxlm.core.log import say
from jaxlm.training import metrics

FLAGS = flags.FLAGS
flags.DEFINE_string("first", "", "A page and overrides ('configs/a.py optimizer.lr=1e-3'), put after those of the command line.")
flags.DEFINE_string("second", "", "The same for the second run.")
flags.DEFINE_list("revisions", [], "Two git revisions of this checkout to run, instead of this one.")
flags.DEFINE_integer("steps", 10, "Steps to compare.", lower_bound=1)
ROOT = pathlib.Path(__file__).resolve().parents[2]
# What would only cost time; the number of steps stays the page's, because schedules depend on it.
QUIET = ("train.log_every=1", "train.tensorboard=false", "train.picture=false", "train.sample_tokens=0", "train.baseline=",
         "eval.every=0", "checkpoints.every=0")


def words(text: str) -> list[str]:
    """Arguments of a command line, with 'page.py' for '--config=page.py' and 'a.b=c' for '--config.a.b=c'."""
    full = lambda w: w if w.startswith("-") else f"--config={w}" if re.search(r"\.(py|json)(:|$)", w.split("=")[0]) else f"--config.{w}"
    return [full(word) for word in shlex.split(text)]


def run(arguments: list[str], steps: int, folder: pathlib.Path, checkout: pathlib.Path) -> tuple[list[dict[str, Any]], dict]:
    """(rows of the first `steps` steps, resolved config) of `jaxlm train` with these arguments, by the code in `checkout`."""
    path = os.pathsep.join(filter(None, [str(checkout), os.environ.get("PYTHONPATH", "")]))
    # -P: the folder that one stands in must not come before the checkout that was asked for.
    page = [a for a in arguments if a.startswith("--config=")][-1:]  # the last one counts, and comes before what overrides it
    rest = [a for a in arguments if a != "--config" and not a.startswith("--config=")]
    command = [sys.executable, "-P", "-m", "jaxlm.cli.train", *page, f"--config.data.cache_dir={folder.parent / 'cache'}", *rest,
               *(f"--config.{setting}" for setting in QUIET), f"--workdir={folder}"]
    folder.mkdir()
    with open(folder / "log", "w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": path})
        try:
            while process.poll() is None and len(recorded(folder)) < steps:
                time.sleep(0.1)
        finally:
            process.kill()  # what it would go on to do is not wanted
            process.wait()
        rows = recorded(folder)[:steps]
        if not rows:
            log.seek(0)
            raise UserError(f"{shlex.join(command)} made no step:\n" + "".join(log.readlines()[-15:]))
    return rows, json.loads((folder / "config.json").read_text())


def recorded(folder: pathlib.Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    return [row for row in metrics.read(path) if "train/loss" in row] if path.exists() else []


def git(*arguments: Any) -> None:
    done = subprocess.run(["git", "-C", str(ROOT), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"git {arguments[0]} {arguments[1]}: {done.stderr.strip()}. --revisions needs a git checkout and its revisions")


def main(argv: list[str]) -> None:
    if FLAGS.revisions and len(FLAGS.revisions) != 2 or not (FLAGS.revisions or FLAGS.first or FLAGS.second):
        raise UserError("name what to compare: --first=... and --second=..., or --revisions=A,B")
    found, trees = [], []
    with tempfile.TemporaryDirectory(prefix="jaxlm-compare-") as folder:
        try:
            for name, own in (("first", FLAGS.first), ("second", FLAGS.second)):
                tree = ROOT
                if FLAGS.revisions:
                    tree = pathlib.Path(folder) / f"{name}-checkout"
                    git("worktree", "add", "--detach", tree, FLAGS.revisions[len(trees)])
                    trees.append(tree)
                say(f"running the {name}: " + " ".join([*FLAGS.revisions[len(found):len(found) + 1], own]))
                found.append(run([*words(shlex.join(argv[1:])), *words(own)], FLAGS.steps, pathlib.Path(folder) / name, tree))
        finally:
            for tree in trees:
                git("worktree", "remove", "--force", tree)
    (first, one), (second, other) = found
    changes = build.differences(ConfigDict(one), ConfigDict(other)) or ["none"]
    print("config differences, first -> second:\n  " + "\n  ".join(changes))
    text, equal = metrics.compare(first, second)
    print(text)
    sys.exit(0 if equal else 1)


def guarded(argv: list[str]) -> None:
    try:
        main(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)  # 1 says that they differ


if __name__ == "__main__":
    app.run(guarded, flags_parser=lambda argv: FLAGS(argv, known_only=True))

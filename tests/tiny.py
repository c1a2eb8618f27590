# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Small stand-ins that the cross-cutting tests share: configs cut down to seconds, text, models of every family."""
import contextlib
import json
import os
import pathlib
import random
import subprocess
import sys

from absl import flags

from jaxlm import build

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Fields that make a component small without changing what it computes; only those that it has are set.
# Sizes divide over the meshes of the pages on 8 devices.
SMALL = {"layers": 2, "embed": 32, "heads": 8, "kv_heads": 4, "head_dim": 8, "mlp": 48, "max_len": 64, "vocab_size": 264, "embedding_size": 16,
         "hidden": 48}


def write_text(folder: pathlib.Path, documents: int = 40, seed: int = 0) -> pathlib.Path:
    """A folder of small text files with something to learn in them."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    words = "the a quick brown fox jumps over lazy dog and then reads aloud from small books".split()
    for i in range(documents):
        lines = [" ".join(draw.choices(words, k=draw.randint(3, 9))) + "." for _ in range(draw.randint(1, 6))]
        (folder / f"{i:03}.txt").write_text("\n".join(lines) + "\n")
    return folder


def write_pairs(folder: pathlib.Path, pairs: int = 200, seed: int = 0) -> str:
    """Two line-aligned files, the target the source's words in reverse order; what their names begin with."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    words = "a to big cat dog sun red".split()
    lines = [draw.choices(words, k=draw.randint(1, 6)) for _ in range(pairs)]
    (folder / "pairs.source").write_text("".join(" ".join(line) + "\n" for line in lines))
    (folder / "pairs.target").write_text("".join(" ".join(line[::-1]) + "\n" for line in lines))
    return str(folder / "pairs")


def shrink(config, text: pathlib.Path, cache: pathlib.Path):
    """A page as it is, but with a tiny model, byte tokens, little text and few steps."""
    pairs = config.data.packing == "pairs"
    build.variant(config, f"source={'parallel' if pairs else 'text'},tokenizer=byte")
    if not getattr(build.section(config, "objective"), "causal", True):
        config.tokenizer.special_tokens = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")
        config.data.sentences = "line"  # as the little text has them
    if config.objective.name == "denoise":
        config.tokenizer.special_tokens = ("<mask>", *(f"<extra_id_{i}>" for i in range(6)))
    config.source.path = write_pairs(cache.parent / "pairs") if pairs else str(text)
    config.data.cache_dir = str(cache)
    config.data.seq_len = config.data.source_len = 32
    config.data.holdout = 0.2
    for field, value in SMALL.items():
        if field in config.model and not (field in ("kv_heads", "head_dim", "mlp", "embedding_size", "hidden") and config.model[field] == 0):
            config.model[field] = value
    config.train.steps = 2
    config.train.batch_size = 16
    config.train.accumulate = min(config.train.accumulate, 2)
    config.train.log_every = 1
    config.train.tensorboard = False
    config.train.sample_tokens = min(config.train.sample_tokens, 4)
    config.schedule.warmup = 1
    config.schedule.total = 3  # a longer run has the same schedule, and so the same compiled step
    config.eval.every = 0
    config.eval.batches = 1
    config.eval.batch_size = 0
    config.checkpoints.every = 1
    return config


@contextlib.contextmanager
def workdir(path: pathlib.Path):
    """absl's flags as a command line with --workdir would leave them."""
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["test", f"--workdir={path}"])
    yield path


def command(name: str, *args: str, devices: int = 1, timeout: int = 300, code: str = "", **env: str) -> subprocess.CompletedProcess:
    """Runs `python -m jaxlm.cli.NAME ARGS` as a user would; with `code`, runs that Python first in the same process."""
    program = f"{code}\nimport runpy; runpy.run_module('jaxlm.cli.{name}', run_name='__main__')"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), **env}
    return subprocess.run([sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=timeout,
                          env=environment, cwd=ROOT)


# What `commands` runs in its process: every command with its own flags, as a process of its own would read them.
_COMMANDS = """
import contextlib, io, json, sys, traceback
from absl import flags
out = []
for words, typed in json.loads(sys.stdin.read()):
    if words[0] == "python":
        exec(words[1], {})
        continue
    for name in [name for name in sys.modules if name.startswith("jaxlm.cli")]:
        del sys.modules[name]  # they declare flags, some of one name
    for name in list(flags.FLAGS):
        if name.split(".")[0] == "config" or flags.FLAGS.find_module_defining_flag(name).startswith("jaxlm"):
            delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()
    sys.argv, sys.stdin = ["jaxlm", *words], io.TextIOWrapper(io.BytesIO(typed.encode()))
    code, said, told = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        try:
            from jaxlm.cli import main
            main.main()
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:
            code = 1
            traceback.print_exc()
    out.append([code, said.getvalue(), told.getvalue()])
print(json.dumps(out))
sys.stdout.flush()
"""


def commands(*given: list[str] | tuple[list[str], str], devices: int = 1, timeout: int = 300,
             cwd: pathlib.Path = ROOT) -> list[subprocess.CompletedProcess]:
    """Runs command lines (["generate", "--workdir=..."], or such a list and what is typed) one after another in one process;
    ["python", code] between them runs that code there."""
    asked = [one if isinstance(one, tuple) else (one, "") for one in given]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", _COMMANDS], input=json.dumps([[list(map(str, words)), typed] for words, typed in asked]),
                          capture_output=True, text=True, timeout=timeout, env=environment, cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]
    return [subprocess.CompletedProcess(words, code, out, err)
            for (words, _), (code, out, err) in zip([one for one in asked if one[0][0] != "python"],
                                                    json.loads(done.stdout.splitlines()[-1]), strict=True)]

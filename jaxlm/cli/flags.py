# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The command line all commands share: a config page or a stored config, overrides, one clear line for a mistake."""
import pathlib
import sys
from collections.abc import Callable

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from jaxlm import build
from jaxlm.cli import messages
from jaxlm.core.errors import UserError, nearest
from jaxlm.parallel import compiler, processes

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, tokenizer, config.")
flags.DEFINE_integer("cpu_devices", 0, "Split the CPU into that many devices, to try a mesh without accelerators.")
flags.DEFINE_string("coordinator", "", "Of several processes: host:port of process 0, or auto; also JAXLM_COORDINATOR.")
flags.DEFINE_integer("process_count", 0, "How many processes there are; also JAXLM_PROCESS_COUNT.")
flags.DEFINE_integer("process_id", -1, "Which of them this is, from 0; also JAXLM_PROCESS_ID.")
flags.DEFINE_integer("join_seconds", 300, "How long to wait until all processes are there.", lower_bound=1)
flags.DEFINE_integer("heartbeat_seconds", 20, "After how long a silent process is lost, and the others stop.", lower_bound=2)
flags.DEFINE_string("compile_cache", "auto", "Folder in which compiled programs are kept, to start faster the next time; off: none. "
                    "auto: JAX_COMPILATION_CACHE_DIR, or jaxlm/programs in your cache folder.")


def run(command: Callable[..., None], *, needs_run: bool = False, words: tuple[str, ...] = (),
        page: Callable[..., ConfigDict] | None = None) -> None:
    """Parses the flags and calls command(config, *words), `words` being what is expected beside flags. The config is the
    page (or stored .json) that --config names; with needs_run it may be left out and is then the one that the run in
    --workdir was started with; with `page` it is page(*words)."""

    def parse(argv: list[str]) -> list[str]:
        if {"--help", "-h", "-help", "help"} & set(argv[1:]):
            messages.usage(command)
        try:
            joined = _joined(argv)
            given = [a for a in joined[1:] if not a.startswith("-")]
            if len(given) != len(words):
                raise UserError(f"what is '{given[len(words)]}'? Flags are written --name=value" if len(given) > len(words)
                                else f"{words[len(given)]} is missing: see --help")
            rest = [a for a in joined if a not in given]
            rest = FLAGS(_define_config(rest, needs_run) if page is None else _declared(page(*given), rest)) + given
            if FLAGS.workdir is None and needs_run:
                raise UserError("--workdir is missing: name the folder of the run")
            if FLAGS.config is None:
                raise UserError("--config is missing: name a page, as in --config=configs/gpt_tiny.py")
            return rest
        except UserError as error:
            _fail(str(error))
        # A page is the user's code and ml_collections reports overrides by many types: all of them end here.
        except Exception as error:  # noqa: BLE001
            _fail(messages.explain(error))

    def guarded(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # the libraries below tell much that is no concern of the user's
        messages.quiet_failed_saves()
        try:
            if FLAGS.cpu_devices:
                jax.config.update("jax_platforms", "cpu")
                jax.config.update("jax_num_cpu_devices", FLAGS.cpu_devices)
            compiler.keep_programs(FLAGS.compile_cache)
            processes.initialise(
                FLAGS.coordinator, FLAGS.process_count, FLAGS.process_id, join_seconds=FLAGS.join_seconds,
                heartbeat_seconds=FLAGS.heartbeat_seconds, resume="Start all processes again with the same command: the run goes on "
                f"from the newest checkpoint in {FLAGS.workdir}")
            command(FLAGS.config, *argv[1:])
        except UserError as error:
            _fail(str(error))
        except Exception as error:  # noqa: BLE001 - one of several must not wait at the exit for those that wait for it
            if told := messages.of_disk(error, FLAGS.workdir):
                _fail(told)
            if not processes.several():
                raise
            _fail(processes.explain(error), 1)

    app.run(guarded, flags_parser=parse)


def _joined(argv: list[str]) -> list[str]:
    """The arguments with --config X and --workdir X as one each."""
    joined, skip = [], False
    for first, second in zip(argv, [*argv[1:], ""]):
        if not skip:
            joined.append(f"{first}={second}" if first in ("--config", "--workdir") else first)
        skip = first in ("--config", "--workdir") and not skip
    return joined


def _define_config(joined: list[str], needs_run: bool) -> list[str]:
    """Declares --config as a page or as a stored config, whichever the arguments name; returns the arguments to parse."""
    value = lambda name: next((a.split("=", 1)[1] for a in joined if a.startswith(f"--{name}=")), "")
    stored = value("config")
    if not stored and needs_run and value("workdir"):
        stored = str(pathlib.Path(value("workdir")) / "config.json")
    if not stored.endswith(".json"):
        page = stored.split(":")[0]
        if page and not pathlib.Path(page).is_file():
            raise UserError(f"--config: there is no page '{page}'{nearest(page, map(str, pathlib.Path('configs').glob('*.py')))}")
        config_flags.DEFINE_config_file("config", None, "Config page (.py), or the config.json of a run.", lock_config=True)
        return joined
    path = pathlib.Path(stored)
    if not path.is_file():
        raise UserError(f"there is no config '{path}': " + ("is --workdir the folder of a run?" if needs_run else "name a page or a config.json"))
    rest = [a for a in joined if not a.startswith("--config=")]
    return _declared(build.from_json(path.read_text(), str(path)), rest)


def _declared(config: ConfigDict, rest: list[str]) -> list[str]:
    config_flags.DEFINE_config_dict("config", config, "The stored config.", lock_config=True, sys_argv=rest)
    return rest


def _fail(message: str, code: int = 2) -> None:
    print(f"error: {message}", file=sys.stderr)
    processes.leave(code, told=code == 2)

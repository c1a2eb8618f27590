# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""jaxlm doctor --config=PAGE [--workdir=FOLDER]: does this installation, machine or cluster work, and what to do where not."""
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable

import jax
from absl import flags
from ml_collections import ConfigDict

from jaxlm import build
from jaxlm.cli import flags as command_line
from jaxlm.core.errors import UserError
from jaxlm.parallel import mesh, processes
from jaxlm.training import selfcheck
from jaxlm.training.selfcheck import Finding

FLAGS = flags.FLAGS
# Of a head: forward on an H100, cuDNN reaches 410 TFLOP/s with 64 and 600 with 128 (as measured by Shah et al. 2024, FlashAttention-3).
FASTEST_HEAD = 128


def main(config: ConfigDict) -> None:
    if FLAGS.workdir is None and processes.several():
        raise UserError("--workdir is missing: several processes need a folder that all of them see")
    workdir = pathlib.Path(FLAGS.workdir or tempfile.mkdtemp(prefix="jaxlm-doctor-")).resolve()
    trial = workdir / ".doctor"
    failed = 0
    checks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("versions", selfcheck.versions), ("devices", devices), ("compiler", selfcheck.options),
        ("mesh", lambda: [layout(config)]), ("attention", lambda: heads(config)), ("processes", lambda: [selfcheck.members()]),
        ("storage", lambda: selfcheck.storage(workdir)), ("all-reduce", selfcheck.network), ("learning", lambda: selfcheck.learning(trial))]
    try:
        for name, check in checks:
            for finding in told(name, check):
                failed += not finding.well
                print(f"{'ok  ' if finding.well else 'FAIL'}  {finding.name:16}  {finding.seen}", flush=True)
                if not finding.well:
                    print(f"      {'':16}  -> {finding.todo}", flush=True)
    finally:
        if processes.first():
            shutil.rmtree(workdir if FLAGS.workdir is None else trial, ignore_errors=True)
    print("all is well" if not failed else f"{failed} of these failed")
    if failed:
        raise SystemExit(1)


def told(name: str, check: Callable[[], Iterable[Finding]]) -> Iterable[Finding]:
    """What a check finds; an error is a finding too, so that the others are still made."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 - whatever is broken is what this command is asked for
        if processes.several():
            raise  # the others wait in what this one has left
        lines = str(error).strip().splitlines() or [""]
        yield Finding(name, f"{type(error).__name__}: {lines[0][:300]}", False, "see the message; python -m pytest tells more")


def devices() -> Iterable[Finding]:
    found = jax.devices()
    yield Finding("devices", f"{len(found)} x {found[0].device_kind} ({jax.default_backend()})")
    memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0)
    if memory:
        yield Finding("device memory", f"{memory / 2**30:.1f} GiB each")


def layout(config: ConfigDict) -> Finding:
    """The config as a whole, on the devices that are here."""
    try:
        build.validate(config, jax.device_count())
        sizes = mesh.sizes(build.section(config, "mesh"), jax.device_count())
    except UserError as error:
        return Finding("config", str(error).replace("\n", " "), False, "override the fields named (--config.section.field=value)")
    return Finding("mesh", " x ".join(f"{k}={v}" for k, v in sizes.items()) + f", rules {config.rules}")


def heads(config: ConfigDict) -> Iterable[Finding]:
    """On a GPU, whether the size of the config's heads is the one that cuDNN's attention is fastest at."""
    model = config.model
    size = model.get("head_dim") or (model.embed // model.heads if model.get("heads") else 0)
    if jax.default_backend() == "gpu" and 0 < size < FASTEST_HEAD:
        yield Finding("attention", f"heads of {size}: cuDNN reaches 1.5 times the speed with heads of {FASTEST_HEAD}, so that half as many, "
                                   "twice as large, are the faster ones in a new model of the same width")


if __name__ == "__main__":
    command_line.run(main)

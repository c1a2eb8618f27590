# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Does this installation work: versions, storage, network, and a model of a few thousand parameters trained and resumed.

Each check returns Findings; one that fails says what to do. With several processes, all of them run each check.
"""
import dataclasses
import os
import pathlib
import platform
import re
import time
from collections.abc import Iterator

import flax
import grain
import jax
import jaxlib
import numpy as np
import optax
import orbax.checkpoint

from jaxlm.checkpoints.manager import Checkpoints, Config as CheckpointsConfig
from jaxlm.core import processor, tree
from jaxlm.models import gpt
from jaxlm.objectives import causal_lm
from jaxlm.optim import optimizers, schedules
from jaxlm.parallel import compiler, mesh, place, processes, rules
from jaxlm.training import state as states
from jaxlm.training import step as steps

# (package, the oldest that works, the first that was never tried): as in pyproject.toml.
VERSIONS = ((jax, "0.10.2", "0.13"), (jaxlib, "0.10.2", "0.13"), (flax, "0.12.8", "0.13"), (optax, "0.2.8", "0.3"),
            (orbax.checkpoint, "0.12.8", "0.13"), (grain, "0.2.18", ""))
_LENGTH, _VOCAB = 16, 32


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing looked at: what was seen, and what to do where it is not well."""

    name: str
    seen: str
    well: bool = True
    todo: str = ""


def versions(found: tuple = VERSIONS) -> Iterator[Finding]:
    """The packages that the numbers depend on, against the range they were tested in."""
    yield Finding("python", platform.python_version())
    number = lambda text: tuple(int(x) for x in re.findall(r"\d+", text)[:3])
    for package, low, high in found:
        have = package.__version__
        well = number(have) >= number(low) and (not high or number(have) < number(high))
        wanted = f">={low}" + (f",<{high}" if high else "")
        name = package.__name__.split(".")[0]
        name = "orbax-checkpoint" if name == "orbax" else name
        yield Finding(name, have, well, f"pip install '{name}{wanted}': other versions were never tested here")
    if jax.__version__.split(".")[:2] != jaxlib.__version__.split(".")[:2]:
        yield Finding("jax and jaxlib", "of different releases", False, f"pip install 'jaxlib=={jax.__version__}'")
    if jax.default_backend() == "cpu":
        yield Finding("bfloat16", bfloat16(number(jax.__version__)))


def bfloat16(jax_version: tuple[int, ...]) -> str:
    """What model.dtype='bfloat16' means on this CPU, with this jax."""
    if jax_version < (0, 12):
        return "this jax computes bfloat16 products in float32, slowly: jax 0.12, on Python 3.12, does them natively"
    found = [name for name in ("amx_bf16", "avx512_bf16") if name in processor.flags()]
    return f"products in it are native ({', '.join(found)}): model.dtype='bfloat16' is the faster one here" if found else \
        "this processor has no instructions for it: model.dtype='float32' is the faster one here"


def options() -> Iterator[Finding]:
    """What programs are compiled with, of the platform's table."""
    found = compiler.options()
    yield Finding("compiler", " ".join(f"{name}={value!r}" for name, value in found.items()) or "default options")


def storage(folder: pathlib.Path, megabytes: int = 64) -> Iterator[Finding]:
    """Write and read speed where checkpoints go; reading may come from memory that the system kept."""
    path = folder / f".doctor-{jax.process_index()}"
    block = np.random.default_rng(0).bytes(1 << 20)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        with open(path, "wb") as file:
            for _ in range(megabytes):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        wrote = megabytes / (time.perf_counter() - began)
        began = time.perf_counter()
        same = all(piece == block for piece in _pieces(path))
        read = megabytes / (time.perf_counter() - began)
    except OSError as error:
        yield Finding("storage", f"{folder}: {error.strerror or error}", False, "choose a --workdir that can be written and has free space")
        return
    finally:
        path.unlink(missing_ok=True)
    yield Finding("storage", f"{folder}: write {wrote:.0f} MB/s, read {read:.0f} MB/s (perhaps cached)" if same else
                  f"{folder}: what was read is not what was written", same, "this disk loses data: use another --workdir")


def _pieces(path: pathlib.Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            yield piece


def network(megabytes: int = 16) -> Iterator[Finding]:
    """A sum over all devices of one array on each: right, and how fast."""
    everywhere = place.Layout(mesh.make(mesh.Config()), rules.find("dp"))
    count, size = jax.device_count(), megabytes * (1 << 18)
    with place.use(everywhere):
        one = place.put({"x": np.ones((place.local_rows(everywhere, count).stop - place.local_rows(everywhere, count).start, size), np.float32)},
                        everywhere, count)["x"]
        total = jax.jit(lambda x: x.sum(0), out_shardings=everywhere.replicated)
        right = bool((np.asarray(total(one)) == count).all())
        began = time.perf_counter()
        for _ in range(3):
            total(one).block_until_ready()
    seconds = (time.perf_counter() - began) / 3
    yield Finding("all-reduce", f"{megabytes} MB over {count} devices of {jax.process_count()} processes: {seconds * 1e3:.1f} ms"
                  + ("" if right else ", and the sum is wrong"), right, "a device or link is faulty: find it by leaving hosts out one by one")


def learning(folder: pathlib.Path) -> Iterator[Finding]:
    """Three updates of a tiny GPT over all devices: the loss falls, and going on from a checkpoint changes no bit."""
    model = gpt.build(gpt.Config(vocab_size=_VOCAB, max_len=_LENGTH, layers=1, heads=2, embed=16))
    objective = causal_lm.build(causal_lm.Config())
    layout = place.Layout(mesh.make(mesh.Config()), rules.find("dp"))
    optimizer = optimizers.Config(lr=1e-2)
    schedule = schedules.build(schedules.Config(name="constant"), optimizer.lr, 3)
    tx = optimizers.build(optimizer, schedule, model.abstract, model.axes())
    trainable = jax.tree.map(lambda _: True, model.abstract)
    count = 2 * jax.device_count()
    held = place.local_rows(layout, count)
    stream = np.arange(count)[held, None] + np.arange(_LENGTH + 1)[None]
    rows = {"tokens": stream[:, :-1] % _VOCAB, "next": stream[:, 1:] % _VOCAB, "segments": np.ones_like(stream[:, 1:]),
            "positions": np.broadcast_to(np.arange(_LENGTH), stream[:, 1:].shape)}
    batch = objective.prepare({name: np.asarray(x, np.int32) for name, x in rows.items()}, np.random.default_rng)
    with place.use(layout), Checkpoints(folder, CheckpointsConfig(best=0)) as checkpoints:
        batch = place.put(batch, layout, count)
        target = states.abstract(model, tx, trainable, layout)
        now = states.initialise(model, tx, trainable, 0, target)
        update = steps.compile_step(steps.make_step(model, objective, tx, schedule, trainable), now, batch, layout.replicated)
        losses = []
        for number in range(1, 4):
            now, metrics = update(now, batch)
            mean = jax.device_get(metrics["means"]["loss"])
            losses.append(float(mean.total / mean.weight))
            if number == 2:
                checkpoints.save(2, now, {}, force=True)
        falls = np.isfinite(losses).all() and losses[0] > losses[1] > losses[2]
        yield Finding("learning", "loss " + " > ".join(f"{x:.4f}" for x in losses), bool(falls),
                      "the arithmetic of this device or jax version is wrong: run the tests (python -m pytest), try another version")
        again, _ = update(checkpoints.restore(2, target), batch)
        equal = jax.jit(lambda a, b: jax.tree.reduce(lambda x, y: x & y, jax.tree.map(lambda x, y: (x == y).all(), a, b)),
                        out_shardings=layout.replicated)
        same = bool(equal(tree.flatten(now), tree.flatten(again)))
        yield Finding("resume", "bit for bit the uninterrupted run" if same else "another result than without the interruption", same,
                      "checkpoints in this folder do not come back as written: use another --workdir, or run the tests")


def members() -> Finding:
    """How many processes there are, and what each brings."""
    alone = "" if processes.several() else " (alone; --coordinator, --process_count and --process_id join several)"
    return Finding("processes", f"{jax.process_count()}, each with {jax.local_device_count()} devices{alone}")

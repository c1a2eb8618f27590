# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Where a CPU training step's time goes: operations by what they do, from the profiler's trace, as JSON and as a picture.

    python -m benchmarks.profile_step measure --name=now --out=now.json [--dtype=bfloat16 --layers=6 --embed=384 ...]
    python -m benchmarks.profile_step draw before.json now.json --out=profile.png

It measures the jaxlm that Python finds: with PYTHONPATH set to another checkout, that one's. One thread, so that the
operations' times add up to the step's.
"""
import argparse
import collections
import json
import os
import pathlib
import re
import tempfile
from typing import Any

# (what, the names that XLA:CPU gives such operations): the first that fits.
KINDS = (
    ("matrix products in a library", r"custom-call|onednn|ynn_fusion|xnn_fusion"),
    ("matrix products in XLA's own loops", r"dot"),
    ("sums and other reductions", r"reduce"),
    ("lookups and their gradients", r"gather|scatter"),
    ("moving and concatenating", r"^(copy|transpose|concatenate|slice|bitcast|wrapped_(transpose|copy|slice|concatenate|pad))"),
    ("element-wise", r"fusion|wrapped_|add|multiply|tanh|exp|convert|select"),
)


def kind(operation: str) -> str | None:
    """The kind of an operation of the compiled program, by its name; None for what is none (the profiler has others)."""
    # What begins with two underscores lies inside the operation of the library call: it would count twice.
    if not re.match(r"[a-z_]", operation) or operation.startswith("__") or " " in operation or "::" in operation:
        return None
    return next((what for what, pattern in KINDS if re.search(pattern, operation)), None)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of one step by kind, and of the whole step without the profiler."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["JAX_PLATFORMS"] = "cpu"
    if args.allocator:
        from jaxlm.core import allocator  # older checkouts have none

        allocator.keep_memory()
    import time

    import jax
    import numpy as np

    from jaxlm.models import gpt
    from jaxlm.objectives import causal_lm
    from jaxlm.optim import optimizers, schedules
    from jaxlm.parallel import mesh, place, rules
    from jaxlm.training import state as states
    from jaxlm.training import step as steps

    jax.config.update("jax_enable_compilation_cache", False)
    model = gpt.build(gpt.Config(vocab_size=args.vocab, max_len=args.length, layers=args.layers, heads=args.heads, embed=args.embed,
                                 dtype=args.dtype, scan=False))
    objective, layout = causal_lm.build(causal_lm.Config()), place.Layout(mesh.make(mesh.Config(data=1), jax.devices()[:1]), rules.find("dp"))
    optimizer = optimizers.Config(lr=1e-3)
    schedule = schedules.build(schedules.Config(name="constant"), optimizer.lr, 1000)
    tx = optimizers.build(optimizer, schedule, model.abstract, model.axes())
    trainable = jax.tree.map(lambda _: True, model.abstract)
    ids = np.random.default_rng(0).integers(0, args.vocab, (args.batch, args.length + 1)).astype(np.int32)
    rows = {"tokens": ids[:, :-1], "next": ids[:, 1:], "segments": np.ones_like(ids[:, 1:]),
            "positions": np.broadcast_to(np.arange(args.length, dtype=np.int32), (args.batch, args.length))}
    with place.use(layout):
        batch = place.put(objective.prepare(rows, None), layout, args.batch)
        state = states.initialise(model, tx, trainable, 0, states.abstract(model, tx, trainable, layout))
        program = steps.compile_step(steps.make_step(model, objective, tx, schedule, trainable), state, batch, layout.replicated)

        def run(count: int) -> float:
            nonlocal state
            began = time.process_time()
            for _ in range(count):
                state, metrics = program(state, batch)
                jax.block_until_ready((state, metrics))
            return (time.process_time() - began) * 1e3 / count

        run(2)
        whole = min(run(1) for _ in range(args.steps))
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                run(args.steps)
            path, = pathlib.Path(folder).rglob("*.xplane.pb")
            events = [(event.name, event.duration_ns) for plane in jax.profiler.ProfileData.from_file(str(path)).planes
                      for line in plane.lines for event in line.events]
    times: collections.Counter[str] = collections.Counter()
    for name, nanoseconds in events:
        if what := kind(name):
            times[what] += nanoseconds / 1e6 / args.steps
    shape = {field: getattr(args, field) for field in ("layers", "embed", "heads", "vocab", "length", "batch", "dtype")}
    return {"name": args.name, "jax": jax.__version__, "processor": processor(), "allocator": args.allocator, "shape": shape,
            "cpu_milliseconds": round(whole, 1), "kinds": {what: round(times[what], 1) for what, _ in KINDS}}


def processor() -> str:
    # Not jaxlm's own reader: older checkouts have none.
    info = pathlib.Path("/proc/cpuinfo")
    return next((line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")), "") \
        if info.exists() else ""


def draw(files: list[str], out: str) -> None:
    """A bar a file, stacked by kind; what the trace has no operation for (page faults, waiting) is the rest of the step."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [json.loads(pathlib.Path(file).read_text()) for file in files]
    figure, axis = plt.subplots(figsize=(8, 0.9 + 0.55 * len(rows)), dpi=80, layout="constrained")
    colours = plt.get_cmap("tab10").colors
    left = [0.0] * len(rows)
    for number, what in enumerate([what for what, _ in KINDS] + ["the rest of the step"]):
        widths = [row["kinds"].get(what, max(row["cpu_milliseconds"] - sum(row["kinds"].values()), 0.0)) for row in rows]
        axis.barh(range(len(rows)), widths, left=left, color=colours[number], label=what)
        left = [a + b for a, b in zip(left, widths)]
    axis.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axis.invert_yaxis()
    shape = rows[0]["shape"]
    axis.set_xlabel(f"ms of one core a step: {shape['layers']} layers x {shape['embed']}, {shape['batch']} x {shape['length']} tokens, "
                    f"{shape['dtype']}, jax {rows[0]['jax']}, {rows[0]['processor']}", fontsize=8)
    axis.legend(fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("measure")
    for field, default in (("layers", 6), ("embed", 384), ("heads", 6), ("vocab", 65), ("length", 256), ("batch", 12), ("steps", 3)):
        one.add_argument(f"--{field}", type=int, default=default)
    one.add_argument("--dtype", default="bfloat16")
    one.add_argument("--name", default="now")
    one.add_argument("--allocator", action=argparse.BooleanOptionalAction, default=True, help="as jaxlm train sets it")
    one.add_argument("--out", required=True)
    many = commands.add_parser("draw")
    many.add_argument("files", nargs="+")
    many.add_argument("--out", required=True)
    args = parser.parse_args()
    if args.command == "draw":
        return draw(args.files, args.out)
    row = measure(args)
    pathlib.Path(args.out).write_text(json.dumps(row, indent=1) + "\n")
    print(json.dumps(row))


if __name__ == "__main__":
    main()

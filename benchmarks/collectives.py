# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What one training step under fully sharded data parallelism sends between devices, read from the compiled program, against the formula.

Bytes are payloads: the size of the whole array that is gathered or summed. On the wire, of n devices, each sends (n - 1) / n
of a gathered or reduce-scattered payload, twice that of an all-reduced one (which is what XLA's CPU backend makes of both).
"""
import json
import re
import sys
from typing import Any

import jax
import numpy as np
import optax

from benchmarks.shapes import SHAPES
from jaxlm import build
from jaxlm.core import tree
from jaxlm.models import gpt
from jaxlm.parallel import mesh, place, rules
from jaxlm.training import state as states
from jaxlm.training import step as steps

NAME, ROWS = "gpt_6x384", 16
_OP = re.compile(r"\s*(?:ROOT )?%?\S+ = (.+?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
_ARRAY = re.compile(r"(\w+?)(\d+)\w*\[([\d,]*)\]")


def payloads(text: str, devices: int, layers: int) -> list[tuple[str, int]]:
    """(kind, bytes of the whole array) for each array of each collective that a program of this text runs.

    What stands in a loop's body runs once a layer: the step has no other loops.
    """
    found = []
    for line in text.splitlines():
        op = _OP.match(line)
        if op is None:
            continue
        for _, bits, sizes in _ARRAY.findall(op[1]):
            count = int(np.prod([int(n) for n in sizes.split(",") if n], dtype=np.int64))
            whole = count * int(bits) // 8 * (devices if op[2] == "reduce-scatter" else 1)
            found += [(op[2], whole)] * (layers if "while/body" in line else 1)
    return found


def formula(params: Any, again: bool) -> dict[str, int]:
    """Bytes a step: split weights of the layers are gathered to be used and, with `again`, once more for their gradient; those
    outside once; every gradient is summed."""
    flat = tree.flatten(params)
    split = {path: x for path, x in flat.items() if any(part is not None for part in x.sharding.spec)}
    size = lambda x: int(np.prod(x.shape, dtype=np.int64)) * x.dtype.itemsize
    gathered = sum(size(x) * (2 if again and path.startswith("blocks/") else 1) for path, x in split.items())
    return {"gathered": gathered, "summed": sum(map(size, flat.values()))}


def measure(devices: int, scan: bool = True) -> dict[str, Any]:
    """Counts and bytes of the compiled step on that many devices, and the formula's.

    Unrolled, XLA's CPU backend drops the barrier that keeps it from reusing the gathered weight: each is gathered once and kept.
    """
    s = SHAPES[NAME]
    model = gpt.build(gpt.Config(vocab_size=96, max_len=s.length, layers=s.layers, heads=s.heads, embed=s.embed, scan=scan))
    layout = place.Layout(mesh.make(mesh.Config(data=1, fsdp=devices), jax.devices()[:devices]), rules.RULES["fsdp"])
    objective = build.find("objective", "causal_lm")
    tx, trainable = optax.adamw(1e-3), jax.tree.map(lambda _: True, model.abstract)
    with place.use(layout):
        target = states.abstract(model, tx, trainable, layout)
        ids = np.ones((ROWS, s.length), np.int32)
        host = {"tokens": ids, "targets": ids, "segments": ids, "positions": ids, "weights": ids.astype(np.float32)}
        batch = place.put(host, layout, ROWS)
        step = steps.make_step(model, objective.build(objective.Config()), tx, optax.constant_schedule(1e-3), trainable)
        program = steps.compile_step(step, target, batch, layout.replicated)
    found = payloads(program.as_text(), devices, s.layers) if devices > 1 else []
    total = lambda *kinds: sum(size for kind, size in found if kind in kinds)
    expected = formula(target.params, again=scan) if devices > 1 else {"gathered": 0, "summed": 0}
    return {"devices": devices, "scan": scan, "count": {kind: sum(k == kind for k, _ in found) for kind in sorted({k for k, _ in found})},
            "gathered": total("all-gather"), "summed": total("all-reduce", "reduce-scatter"),
            "other": total("all-to-all", "collective-permute"), "expected": expected,
            "state_bytes_per_device": states.bytes_per_device(target)}


if __name__ == "__main__":
    counts = [int(n) for n in sys.argv[1].split(",")]
    jax.config.update("jax_num_cpu_devices", max(counts))
    for count in counts:
        for scan in (True, False):
            print(json.dumps(measure(count, scan)), flush=True)

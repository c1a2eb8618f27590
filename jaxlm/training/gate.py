# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Are float8 products worth it here? A model's largest products, with both gradients, timed on one device in both types."""
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.core.types import Batch, Objective, Params
from jaxlm.layers import linear
from jaxlm.parallel import mesh, place, rules
from jaxlm.training import step

LARGEST = 4  # distinct products that are timed
ROUNDS, CALLS = 5, 5  # the best of so many rounds counts, each of so many calls that the device works off without waiting
NEEDED = 1.05  # how many times as fast float8 must be; below, its roundings would be for nothing


def products(model: Any, objective: Objective, params: Params, batch: Batch, micro_batches: int) -> list[tuple[int, int, int, int]]:
    """(rows, inputs, outputs, how many) of a model's distinct products that may be in float8, the largest first.

    Sizes are those of one device under the layout in force, in one micro-batch; of a scanned stack one layer counts.
    params and batch (of all rows) may be shapes.
    """
    asked = linear.Float8(model)
    part = jax.tree.map(lambda x: jax.ShapeDtypeStruct((x.shape[0] // micro_batches, *x.shape[1:]), x.dtype), batch)
    jax.eval_shape(lambda p, b: step.Loss(asked, objective)(p, b, None)[0], params, part)
    return sorted(((*sizes, count) for sizes, count in asked.seen.items()), key=math.prod, reverse=True)


def measure(found: list[tuple[int, int, int, int]], device: jax.Device, options: dict[str, Any] | None = None,
            clock: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """What the largest of these products take in each type, and whether that is "on" or "off", to be kept as JSON.

    clock is read four times a round: around bfloat16's calls, then around float8's.
    """
    rows, totals = [], [0.0, 0.0]
    with place.use(place.Layout(mesh.make(mesh.Config(data=1), [device]), rules.find("dp"))):
        for *sizes, count in found[:LARGEST]:
            best = _best(sizes, options, clock)
            totals = [total + count * seconds for total, seconds in zip(totals, best, strict=True)]
            rows.append({"rows": sizes[0], "inputs": sizes[1], "outputs": sizes[2], "count": count,
                         "bfloat16_ms": 1e3 * best[0], "float8_ms": 1e3 * best[1]})
    faster = totals[0] / totals[1]
    why = (f"{len(rows)} sizes of product with both gradients take {1e3 * totals[0]:.3g} ms in bfloat16 and {1e3 * totals[1]:.3g} ms in "
           f"float8, {faster:.2f} times as fast, where {NEEDED} is asked for (largest: {' x '.join(map(str, found[0][:3]))})")
    return {"fp8": "on" if faster >= NEEDED else "off", "why": why, "faster": faster, "needed": NEEDED, "products": rows}


def _best(sizes: list[int], options: dict[str, Any] | None, clock: Callable[[], float]) -> list[float]:
    """Seconds of a product [rows, inputs] @ [inputs, outputs] and its gradients, in bfloat16 and in float8."""
    count, inputs, outputs = sizes
    shapes = (count, inputs), (inputs, outputs), (count, outputs)
    arrays = [jax.random.normal(key, shape, jnp.bfloat16) for key, shape in zip(jax.random.split(jax.random.key(0), 3), shapes, strict=True)]

    def both(float8: bool) -> Callable:
        def run(x: jax.Array, w: jax.Array, d_y: jax.Array) -> Any:
            y, back = jax.vjp(lambda x, w: linear.product("rd,df->rf", x, w, float8=float8), x, w)
            return y, back(d_y)

        return jax.jit(run).lower(*arrays).compile(compiler_options=options)

    compiled = [both(float8) for float8 in (False, True)]
    for run in compiled:
        jax.block_until_ready(run(*arrays))
    best = [math.inf, math.inf]
    for _ in range(ROUNDS):
        for which, run in enumerate(compiled):
            began = clock()
            for _ in range(CALLS):
                out = run(*arrays)
            jax.block_until_ready(out)
            best[which] = min(best[which], (clock() - began) / CALLS)
    return best

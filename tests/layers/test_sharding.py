# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What the compiler makes of a split model: weights are gathered and not activations, layer by layer."""

import collections
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.layers import linear
from jaxlm.models import gpt, llama
from jaxlm.ops.loss import cross_entropy
from jaxlm.parallel import mesh, place, rules

ROOT = pathlib.Path(__file__).resolve().parents[2]
# No two sizes alike, nor a device's rows times positions, so that a shape in the compiler's text says what it is.
ROWS, LENGTH, VOCAB, LAYERS, EMBED, MLP = 16, 22, 128, 3, 64, 192
MODELS = {
    "gpt": gpt.build(gpt.Config(vocab_size=VOCAB, max_len=LENGTH, layers=LAYERS, heads=4, embed=EMBED, mlp=MLP)),
    "llama": llama.build(llama.Config(vocab_size=VOCAB, layers=LAYERS, heads=4, kv_heads=2, embed=EMBED, mlp=MLP)),
}
MESHES = {"fsdp": mesh.Config(data=2, fsdp=4), "fsdp_tp": mesh.Config(data=2, fsdp=2, tensor=2)}
CASES = [(name, rule) for name in MODELS for rule in MESHES]


def gradient(name: str, rule: str) -> str:
    """The optimized program of the gradient."""
    model, layout = MODELS[name], place.Layout(mesh.make(MESHES[rule]), rules.find(rule))

    def loss(params, tokens):
        out = model.apply(params, {"tokens": tokens})
        return cross_entropy(out.hidden, out.table, tokens, jnp.ones(tokens.shape))["loss"].value

    with place.use(layout):
        shardings = place.shardings(model.axes(), layout, model.abstract)
        params = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), model.abstract, shardings
        )
        tokens = place.put({"tokens": np.zeros((ROWS, LENGTH), np.int32)}, layout, ROWS)["tokens"]
        return jax.jit(jax.grad(loss), out_shardings=shardings).lower(params, tokens).compile().as_text()


@pytest.mark.parametrize("name,rule", CASES)
def test_collectives(name, rule):
    """Fails if Embed drops its constraint (collective-permutes), or `einsum` leaves its gradient to autodiff."""
    text = gradient(name, rule)
    shapes = lambda part: {tuple(int(n) for n in s.split(",") if n) for s in re.findall(r"f32\[([\d,]*)\]", part)}
    found = collections.defaultdict(set)
    for line in text.splitlines():
        op = re.match(r"\s*(?:ROOT )?%?\S+ = (.+?) (all-gather|all-to-all|collective-permute)(?:-start)?\(", line)
        if op:
            found[op[2]] |= shapes(op[1])
    assert found.keys() == {"all-gather"}, dict(found)
    # An activation would have its positions before its features; only the table of positions begins with them.
    assert not [s for s in found["all-gather"] if LENGTH in s[1:-1]], found["all-gather"]
    # A whole weight of all layers at once would be the model on every device.
    part = MLP // MESHES[rule].tensor
    assert not shapes(text) & {(LAYERS, EMBED, part), (LAYERS, part, EMBED)}


def test_nothing_is_replicated_to_be_moved():
    """The compiler says so on its own standard error, which conftest quiets: hence another process.

    Fails if Embed drops its constraint.
    """
    code = "import jax; jax.config.update('jax_num_cpu_devices', 8)\nfrom tests.layers import test_sharding as t\n"
    code += "for case in t.CASES: t.gradient(*case)"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "0"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert "Involuntary full rematerialization" not in run.stderr


def test_storage_is_not_computation():
    """Split where rows are not, a weight is gathered to be used; nothing that has positions moves.

    Fails if the compiler may choose: `place.constrain(w, *axes)` in linear._whole.
    """
    layout = place.Layout(mesh.make(mesh.Config(data=2, tensor=4)), rules.find("custom", rules.Config(("embed=tensor",), ("batch=data",))))
    with place.use(layout):
        shape = lambda sharding, *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32, sharding=sharding)
        x = shape(place.batch_sharding(layout, 3), ROWS, LENGTH, EMBED)
        w = shape(layout.sharding("embed", "mlp"), EMBED, 160)
        product = lambda x, w: place.constrain(linear.einsum("btd,dm->btm", x, w, ("embed", "mlp")), "batch", "seq", "act_mlp").sum()
        made = jax.jit(jax.grad(product, (0, 1)), out_shardings=(x.sharding, w.sharding)).lower(x, w).compile().as_text()
    moved = re.findall(r"= (.+?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(", made)
    sizes = lambda shapes: [set(map(int, s.split(","))) for s in re.findall(r"f32\[([\d,]+)\]", shapes)]
    assert any(kind == "all-gather" for _, kind in moved)
    for shapes, _ in moved:
        assert not [s for s in sizes(shapes) if s & {LENGTH, ROWS // 2 * LENGTH}], moved

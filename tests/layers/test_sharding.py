# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What the compiler makes of a split model: weights are gathered and not activations, and nothing is replicated to be moved."""
import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.models import gpt, llama
from jaxlm.ops.loss import cross_entropy
from jaxlm.parallel import mesh, place, rules

B, L, V = 16, 32, 128
MODELS = {
    "gpt": gpt.build(gpt.Config(vocab_size=V, max_len=L, layers=2, heads=4, embed=64)),
    "llama": llama.build(llama.Config(vocab_size=V, layers=2, heads=4, kv_heads=2, embed=64, mlp=192)),
}
MESHES = {"fsdp": mesh.Config(data=2, fsdp=4), "fsdp_tp": mesh.Config(data=2, fsdp=2, tensor=2)}


@pytest.mark.parametrize("rule", MESHES)
@pytest.mark.parametrize("name", MODELS)
def test_collectives(name, rule, capfd):
    """Fails if `linear.gathered` returns its argument (all-to-alls appear), or Embed drops its constraint (a warning)."""
    model, layout = MODELS[name], place.Layout(mesh.make(MESHES[rule]), rules.find(rule))
    tokens = np.arange(B * L, dtype=np.int32).reshape(B, L) % V

    def loss(params, batch):
        out = model.apply(params, batch)
        return cross_entropy(out.hidden, out.table, batch["tokens"], jnp.ones(batch["tokens"].shape))["loss"].value

    with place.use(layout):
        shardings = place.shardings(model.axes(), layout, model.abstract)
        params = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), model.abstract, shardings)
        compiled = jax.jit(jax.grad(loss), out_shardings=shardings).lower(params, place.put({"tokens": tokens}, layout, B)).compile()
    assert "Involuntary full rematerialization" not in capfd.readouterr().err
    found = collections.defaultdict(set)
    for line in compiled.as_text().splitlines():
        op = re.match(r"\s*(?:ROOT )?%?\S+ = (.+?) (all-gather|all-to-all|collective-permute)(?:-start)?\(", line)
        if op:
            found[op[2]] |= {tuple(int(n) for n in s.split(",") if n) for s in re.findall(r"\w+\[([\d,]*)\]", op[1])}
    assert found.keys() == {"all-gather"}, dict(found)
    # An activation would have its local rows and all its positions.
    assert not [s for s in found["all-gather"] if L in s[:-1] and s != (L, 64)], found["all-gather"]

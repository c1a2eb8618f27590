# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The count of parameters and FLOPs against jaxlm's models, jax's own cost analysis and the published figures."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import data, shapes
from benchmarks.contenders import bare
from jaxlm.core import tree
from jaxlm.models import gpt, llama


@pytest.mark.parametrize(("name", "parameters", "flops"), [
    ("gpt2_124m", 124.4e6, 0.798e9), ("llama_1b3_gpu", 1.345e9, 8.887e9), ("llama2_7b_gpu", 6.738e9, 42.86e9)])
def test_published_figures(name, parameters, flops):
    """Fails if attention counts whole (causal=False), or the head twice."""
    shape = shapes.find(name)
    assert shape.parameters == pytest.approx(parameters, rel=2e-3) and shape.flops_per_token() == pytest.approx(flops, rel=2e-3)


@pytest.mark.parametrize("name", ["tiny", "tiny_llama", "gpt2_124m", "llama2_7b_gpu"])
def test_parameters_are_those_of_the_models(name):
    """Fails if a bias or norm is forgotten: drop `biases` from Shape.parameters."""
    s = shapes.find(name)
    common = dict(vocab_size=s.vocab, max_len=s.length, layers=s.layers, heads=s.heads, embed=s.embed, mlp=s.hidden, tie_embeddings=s.tied)
    model = gpt.build(gpt.Config(**common)) if s.family == "gpt" else llama.build(llama.Config(**common, kv_heads=s.kv_heads))
    assert s.parameters == tree.size(model.abstract)
    if s.parameters < 1e6:
        assert s.parameters == sum(x.size for x in data.draw(s).values())


def test_flops_are_those_that_the_compiler_counts():
    """Fails if a product is left out of the formula: `2 * self.heads + self.keys` in matmul_parameters."""
    s = shapes.find("gpt_6x384:layers=2/batch=2")
    p = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, data.draw(s)))
    ids = jax.ShapeDtypeStruct((s.batch, s.length), np.int32)
    grad = jax.grad(lambda p, x, y: bare.loss(p, x, y, s, jnp.float32, True))
    with jax.numpy_rank_promotion("allow"):  # bare is written as one writes by hand
        counted = jax.jit(grad).lower(p, ids, ids).cost_analysis()["flops"]
    # The compiler counts attention whole, and element-wise work besides: never less than the products, and little more.
    assert 1.0 <= counted / (s.flops_per_token(causal=False) * s.tokens) < 1.12


def test_a_shape_with_other_fields():
    """Fails if a field is read as text: `int` is not applied."""
    assert shapes.find("gpt_6x384:batch=4/length=512").tokens == 2048 and shapes.find("tiny:tied=False").tied is False
    with pytest.raises(SystemExit, match="batsch"):
        shapes.find("tiny:batsch=4")

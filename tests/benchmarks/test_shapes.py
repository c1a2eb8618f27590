# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The count of parameters and FLOPs against jaxlm's models, jax's own cost analysis and the published figures."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import data, shapes
from benchmarks.contenders import bare
from jaxlm.core import tree
from jaxlm.models import bert, gpt, llama, t5
from jaxlm.ops import relative


@pytest.mark.parametrize(("name", "parameters", "flops"), [
    ("gpt2_124m", 124.4e6, 0.798e9), ("llama_1b3_gpu", 1.345e9, 8.887e9), ("llama2_7b_gpu", 6.738e9, 42.86e9),
    ("bert_base:length=512", 109.5e6, 0.572e9), ("t5_small", 60.5e6, 0.1694e9)])
def test_published_figures(name, parameters, flops):
    """Fails if attention counts whole (causal=False), or the head twice."""
    shape = shapes.find(name)
    assert shape.parameters == pytest.approx(parameters, rel=2e-3) and shape.flops_per_token() == pytest.approx(flops, rel=2e-3)


def model_of(s):
    common = dict(vocab_size=s.vocab, layers=s.layers, heads=s.heads, embed=s.embed, mlp=s.hidden, tie_embeddings=s.tied)
    if s.family == "t5":
        return t5.build(t5.Config(**common, head_dim=s.head_dim))
    common["max_len"] = s.length
    if s.family == "bert":
        return bert.build(bert.Config(**common, pooler=False, pair_head=False))
    return gpt.build(gpt.Config(**common)) if s.family == "gpt" else llama.build(llama.Config(**common, kv_heads=s.kv_heads))


@pytest.mark.parametrize("name", ["tiny", "tiny_llama", "tiny_bert", "tiny_t5", "gpt2_124m", "llama2_7b_gpu", "bert_base", "t5_small"])
def test_parameters_are_those_of_the_models(name):
    """Fails if a bias or norm is forgotten: drop `biases` from Shape.parameters."""
    s = shapes.find(name)
    assert s.parameters == tree.size(model_of(s).abstract)
    if s.parameters < 1e6:
        assert s.parameters == sum(x.size for x in data.draw(s).values())


@pytest.mark.parametrize("name", ["gpt_6x384:layers=2/batch=2", "bert_base:layers=2/batch=2", "t5_small:layers=2/batch=1"])
def test_flops_are_those_that_the_compiler_counts(name):
    """Fails if a product is left out of the formula: `2 * self.heads + self.keys` in `multiplied`, or t5's keys and values of the source."""
    s = shapes.find(name)
    p = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, data.draw(s)))
    whole, some = ((s.batch, n) for n in (s.length, s.predictions))
    sizes = {"gpt": [whole] * 2, "bert": [whole] + [some] * 3, "t5": [(s.batch, s.source)] + [whole] * 3}[s.family]
    batch = [jax.ShapeDtypeStruct(size, np.int32) for size in sizes]
    grad = jax.grad(lambda p, *batch: bare.LOSSES[s.family](p, *batch, s, jnp.float32, True))
    with jax.numpy_rank_promotion("allow"):  # bare is written as one writes by hand
        counted = jax.jit(grad).lower(p, *batch).cost_analysis()["flops"]
    # The compiler counts attention whole, and element-wise work besides: never less than the products, and little more.
    assert 1.0 <= counted / (s.flops_per_token(causal=False) * s.tokens) < 1.12


@pytest.mark.parametrize("both_ways", [True, False])
def test_buckets_are_those_of_the_model(both_ways):
    """Fails if keys behind the query share buckets with those before it."""
    distance = np.arange(300)[None, :] - np.arange(300)[:, None]
    np.testing.assert_array_equal(data.buckets(300, 300, both_ways), relative.buckets(jnp.asarray(distance), shapes.BUCKETS, 128, both_ways))


def test_a_shape_with_other_fields():
    """Fails if a field is read as text: `int` is not applied."""
    assert shapes.find("gpt_6x384:batch=4/length=512").tokens == 2048 and shapes.find("tiny:tied=False").tied is False
    with pytest.raises(SystemExit, match="batsch"):
        shapes.find("tiny:batsch=4")

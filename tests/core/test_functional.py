# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The contract between a model and all else is functions of dicts: plain JAX, Linen and NNX stand behind it alike."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.core.functional import Functional
from jaxlm.core.types import Outputs
from jaxlm.ops.loss import cross_entropy
from jaxlm.parallel import mesh, place, rules

V, D, F = 16, 8, 12
AXES = {"table": ("vocab", "embed"), "up": ("embed", "mlp"), "down": ("mlp", "embed")}
SHAPES = {"table": (V, D), "up": (D, F), "down": (F, D)}


class Plain:
    """No framework."""

    abstract = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in SHAPES.items()}

    def init(self, key):
        keys = jax.random.split(key, len(SHAPES))
        return {name: jax.random.normal(k, shape) for k, (name, shape) in zip(keys, SHAPES.items())}

    def axes(self):
        return AXES

    def apply(self, params, batch, *, key=None, cache=None):
        x = params["table"][batch["tokens"]]
        return Outputs(x + jnp.tanh(x @ params["up"]) @ params["down"], params["table"])


class LinenModule(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        w = lambda n: self.param(n, nn.with_logical_partitioning(nn.initializers.normal(1.0), AXES[n]), SHAPES[n])
        table = w("table")
        x = table[tokens]
        return x + jnp.tanh(x @ w("up")) @ w("down"), table


class Linen:
    """A Linen module, unboxed on the way out."""

    def __init__(self):
        boxed = jax.eval_shape(lambda: LinenModule().init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))["params"]
        self.abstract, self._specs = nn.unbox(boxed), nn.get_partition_spec(boxed)

    def init(self, key):
        return nn.unbox(LinenModule().init(key, jnp.zeros((1, 1), jnp.int32))["params"])

    def axes(self):
        return {name: tuple(spec) for name, spec in self._specs.items()}

    def apply(self, params, batch, *, key=None, cache=None):
        return Outputs(*LinenModule().apply({"params": params}, batch["tokens"]))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        w = lambda n: nnx.Param(jax.random.normal(rngs.params(), SHAPES[n]), axes=AXES[n])
        self.table, self.up, self.down = w("table"), w("up"), w("down")

    def __call__(self, batch, key=None, cache=None):
        table = self.table.get_value()
        x = table[batch["tokens"]]
        return Outputs(x + jnp.tanh(x @ self.up.get_value()) @ self.down.get_value(), table)


MODELS = {"plain": Plain, "linen": Linen, "nnx": lambda: Functional(Nnx)}


@pytest.mark.parametrize("name", MODELS)
def test_contract(name):
    """init, axes, abstract and apply do for each what sharding, the loss and an optimizer ask; same numbers."""
    model = MODELS[name]()
    layout = place.Layout(mesh.make(mesh.Config(data=2, fsdp=2, tensor=2)), rules.find("fsdp_tp"))
    with place.use(layout):
        shardings = place.shardings(model.axes(), layout, model.abstract)
        params = jax.jit(model.init, out_shardings=shardings)(jax.random.key(0))
        assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(
            lambda x: (x.shape, x.dtype), model.abstract
        )
        values = Plain().init(jax.random.key(1))
        params = jax.tree.map(lambda old, new: jax.device_put(new, old.sharding), params, values)
        batch = {"tokens": jnp.arange(32).reshape(8, 4) % V}

        def loss(params):
            out = model.apply(params, batch)
            return cross_entropy(out.hidden, out.table, batch["tokens"], jnp.ones((8, 4)))["loss"].value

        got = jax.jit(jax.value_and_grad(loss))(params)
    plain = Plain().apply(values, batch)
    want = cross_entropy(plain.hidden, plain.table, batch["tokens"], jnp.ones((8, 4)))["loss"].value
    np.testing.assert_allclose(got[0], want, rtol=1e-5)
    assert jax.tree.structure(got[1]) == jax.tree.structure(params)


def test_parameter_without_axes():
    class Module(nnx.Module):
        def __init__(self, rngs):
            self.inner = nnx.Param(jnp.zeros(3))

    with pytest.raises(TypeError, match="parameter inner has no axes"):
        Functional(Module)


def test_state_that_is_not_a_parameter():
    class Module(nnx.Module):
        def __init__(self, rngs):
            self.w = nnx.Param(jnp.zeros(3), axes=(None,))
            self.count = nnx.BatchStat(jnp.zeros(3))

    with pytest.raises(TypeError, match="only nnx.Param.*count"):
        Functional(Module)

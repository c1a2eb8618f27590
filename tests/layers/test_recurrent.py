# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Recurrent layers against torch's, and what they make of documents, padding, states and dropped weights."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.layers import recurrent
from jaxlm.ops import dropout

B, T, D = 3, 7, 5
LENGTHS = (7, 4, 1)
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def layer(cell, seed, **fields):
    """A layer and its arrays, every one random."""
    graph, shapes = nnx.split(nnx.eval_shape(lambda: recurrent.Recurrent(nnx.Rngs(0), D, cell=cell, **fields)))
    draw = np.random.default_rng(seed)
    params = jax.tree.map(lambda x: jnp.asarray(0.7 * draw.standard_normal(x.shape), x.dtype), nnx.to_pure_dict(shapes))
    return (lambda params, *args: nnx.merge(graph, params)(*args)), params


def random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def start(cell, seed=None):
    names = recurrent.CELLS[cell][3]
    return {name: jnp.zeros((B, D)) if seed is None else jnp.asarray(random(seed + i, B, D)) for i, name in enumerate(names)}


def marks(segments, last=0):
    return recurrent.boundaries(jnp.asarray(segments, jnp.int32), jnp.full(len(segments), last, jnp.int32))[0]


SHORT = np.arange(T)[None] < np.array(LENGTHS)[:, None]


def torchs(torch, cell, params, x, h):
    """torch's layer with these weights, its outputs, last states and the gradients of a weighed sum of the outputs."""
    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell]
    gates = recurrent.CELLS[cell][1]
    made = kind(D, D, batch_first=True)
    flat = lambda w: torch.tensor(np.asarray(w).transpose(1, 2, 0).reshape(gates * D, D).copy())
    hidden = np.zeros((gates, D), np.float32)
    if cell == "gru":
        hidden[2] = params["candidate_bias"]
    made.load_state_dict({"weight_ih_l0": flat(params["input"]["kernel"]), "weight_hh_l0": flat(params["recurrent"]["kernel"]),
                          "bias_ih_l0": torch.tensor(np.asarray(params["bias"]).reshape(-1)), "bias_hh_l0": torch.tensor(hidden.reshape(-1))})
    x = torch.tensor(x, requires_grad=True)
    states = [torch.tensor(np.asarray(a)[None], requires_grad=True) for a in h.values()]
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(LENGTHS), batch_first=True)
    out, last = made(packed, tuple(states) if cell == "lstm" else states[0])
    out, _ = torch.nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=T)
    (out * torch.tensor(random(9, B, T, D))).sum().backward()
    last = last if cell == "lstm" else (last,)
    back = lambda w: w.grad.numpy().reshape(gates, D, D).transpose(2, 0, 1)
    grads = {"input": {"kernel": back(made.weight_ih_l0)}, "recurrent": {"kernel": back(made.weight_hh_l0)},
             "bias": made.bias_ih_l0.grad.numpy().reshape(gates, D)}
    if cell == "gru":
        grads["candidate_bias"] = made.bias_hh_l0.grad.numpy().reshape(gates, D)[2]
    return (out.detach().numpy(), [a.detach().numpy()[0] for a in last]), (grads, x.grad.numpy(), [a.grad.numpy()[0] for a in states])


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("cell", recurrent.CELLS)
def test_against_torch(cell, seed):
    """Rows of unequal length from a given state: outputs, last states and all gradients to 1e-5.

    Fails if gates are taken in another order (f and g exchanged in lstm), a GRU resets its state before the product
    (`gates[:, 2]` of r * h), padding moves a state (drop `jnp.where(real, ...)`), or the kernel's gradient takes the state after
    a step for that before it (return h for begun in _scan).
    """
    torch = pytest.importorskip("torch", reason="torch, the reference, is not installed")
    apply, params = layer(cell, seed)
    x, h, weight = random(seed + 3, B, T, D), start(cell, seed + 5), random(9, B, T, D) * SHORT[..., None]

    def loss(params, x, h):
        out, last = apply(params, x, marks(SHORT, last=1), h)
        return jnp.sum(out * weight), (out, last)

    (_, (out, last)), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(params, x, h)
    (expected, states), (d_params, d_x, d_h) = torchs(torch, cell, params, x, h)
    close(out[SHORT], expected[SHORT])
    jax.tree.map(close, grads[0], d_params)
    close(grads[1], d_x)
    for name, state, d_state in zip(recurrent.CELLS[cell][3], states, d_h, strict=True):
        close(last[name], state)
        close(grads[2][name], d_state)


@pytest.mark.parametrize("cell", recurrent.CELLS)
def test_documents_begin_with_nothing(cell):
    """Of a row of two documents with padding between and before, each is as if alone; the state is the last one's.

    Fails if a document goes on from the one before (`begins` is False in step), or padding begins one (`segments != before`
    without `real`).
    """
    apply, params = layer(cell, 2)
    x = jnp.asarray(random(4, B, T, D))
    row = lambda *segments: np.repeat([segments], B, 0)
    out, last = apply(params, x, marks(row(0, 1, 1, 0, 1, 2, 2)), start(cell, 7))
    one, _ = apply(params, x[:, jnp.array([1, 2, 4])], marks(row(1, 1, 1)), start(cell))
    two, end = apply(params, x[:, 5:], marks(row(1, 1)), start(cell))
    close(out[:, jnp.array([1, 2, 4])], one)
    close(out[:, 5:], two)
    jax.tree.map(close, last, end)
    untouched = apply(params, x, marks(row(*(0,) * T)), start(cell, 7))[1]
    jax.tree.map(np.testing.assert_array_equal, untouched, start(cell, 7))


def test_boundaries():
    """A state goes on where the segment is the last one of the call before, whatever padding lies between."""
    (begins, real), last = recurrent.boundaries(jnp.asarray([[0, 3, 3, 0, 1], [3, 0, 3, 4, 0], [0, 0, 0, 0, 0]]), jnp.asarray([3, 2, 7]))
    np.testing.assert_array_equal(begins[..., 0].T, [[0, 0, 0, 0, 1], [1, 0, 0, 1, 0], [0] * 5])
    np.testing.assert_array_equal(real[..., 0].T, [[0, 1, 1, 0, 1], [1, 0, 1, 1, 0], [0] * 5])
    np.testing.assert_array_equal(last, [1, 4, 7])


@pytest.mark.parametrize("cell", recurrent.CELLS)
def test_the_gradient_of_the_kernel_is_autodiffs(cell):
    """With a document that begins inside: fails if a state that was set to 0 counts in it (return state["h"] for begun in _scan)."""
    apply, params = layer(cell, 3)
    x, given = jnp.asarray(random(5, B, T, D)), marks(np.repeat([[1, 1, 0, 2, 2, 2, 3]], B, 0), last=1)
    loss = lambda params: jnp.sum(apply(params, x, given, start(cell, 6))[0] * random(8, B, T, D))
    found = jax.grad(loss)(params)
    plain, recurrent._run = recurrent._run, lambda *args: recurrent._scan(*args)[0]
    try:
        expected = jax.grad(loss)(params)
    finally:
        recurrent._run = plain
    jax.tree.map(close, found, expected)


def test_dropped_weights_are_the_same_in_all_steps():
    """A dropped weight is 0 in each step, the others are scaled up. Fails if each step draws anew, or the rate is not passed on."""
    apply, params = layer("gru", 4, weight_dropout=0.4)
    x, key = jnp.asarray(random(6, B, T, D)), jax.random.key(3)
    mask = dropout.kept(key, 0.4, params["recurrent"]["kernel"].shape)
    dropped = {**params, "recurrent": {"kernel": jnp.where(mask, params["recurrent"]["kernel"] / 0.6, 0.0)}}
    given = marks(np.ones((B, T)))
    close(apply(params, x, given, start("gru"), key)[0], apply(dropped, x, given, start("gru"))[0])
    assert not np.allclose(apply(params, x, given, start("gru"), key)[0], apply(params, x, given, start("gru"))[0])

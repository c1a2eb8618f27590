# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Recurrent layers, LSTM and GRU, over rows of several documents: one product for the inputs of all steps, a scan for the rest.

Letters: B rows, T positions, G gates, D features. A state is {"h": [B, D]} or, of an LSTM, {"h", "c"}, in float32.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxlm.core.types import Array
from jaxlm.layers.linear import Linear, add_row, gathered, param, product, zeros
from jaxlm.ops.dropout import dropout
from jaxlm.parallel.place import constrain, move

State = dict[str, Array]
Marks = tuple[Array, Array]  # bool [T, B, 1]: a document begins here; this is no padding


def lstm(gates: Array, given: Array | None, state: State) -> State:
    """Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000; gates i, f, g, o as in torch.nn.LSTM.

    c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = sigmoid(o) tanh(c')
    """
    i, f, g, o = (gates[:, n] for n in range(4))
    c = jax.nn.sigmoid(f) * state["c"] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return {"h": jax.nn.sigmoid(o) * jnp.tanh(c), "c": c}


def gru(gates: Array, given: Array | None, state: State) -> State:
    """Cho et al. 2014, gates r, z, n and the reset gate as in torch.nn.GRU: on the product of the state, not on the state.

    n' = tanh(W x + b + r (U h + b_n));  h' = (1 - z) n' + z h.  `given` is W x + b, and gates[:, 2] is U h + b_n.
    """
    r, z = jax.nn.sigmoid(gates[:, 0]), jax.nn.sigmoid(gates[:, 1])
    n = jnp.tanh(given + r * gates[:, 2])
    return {"h": (1.0 - z) * n + z * state["h"]}


# By name: the function of a step, its gates, which of them holds on to the state, and the arrays of its state.
CELLS: dict[str, tuple[Callable[..., State], int, int, tuple[str, ...]]] = {
    "lstm": (lstm, 4, 1, ("h", "c")),
    "gru": (gru, 3, 1, ("h",)),
}
_AXES = ("embed", None, "mlp")
_uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=0, out_axis=(1, 2))  # +- D ** -0.5, as torch's


def boundaries(segments: Array, last: Array) -> tuple[Marks, Array]:
    """Where documents begin in segments [B, T], and the last segment that is not 0 of each row [B]; `last` is the one before.

    A segment that differs from the one before it, padding left out, begins a document; the first of all begins one too.
    """
    real = segments > 0
    slots = lax.broadcasted_iota(jnp.int32, segments.shape, 1)
    # The slot of the newest token up to each position; -1 where there is only what was before this call.
    newest = lax.cummax(jnp.where(real, slots, -1), axis=1)
    upto = jnp.where(newest < 0, last[:, None], jnp.take_along_axis(segments, jnp.maximum(newest, 0), axis=1))
    before = jnp.concatenate([last[:, None], upto[:, :-1]], axis=1)
    steps = lambda x: jnp.swapaxes(x, 0, 1)[..., None]
    return (steps(real & (segments != before)), steps(real)), upto[:, -1]


class Recurrent(nnx.Module):
    """One layer of D features: x [B, T, D] and a state to h of every position [B, T, D] and the last state.

    A document begins with a state of zeros, padding leaves the state as it is. weight_dropout zeroes weights between one
    step's state and the next, the same in all steps (Merity et al. 2017). forget_bias: where the bias of the gate that holds
    on to the state begins (Jozefowicz et al. 2015): an LSTM's f, a GRU's z.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        size: int,
        *,
        cell: str = "lstm",
        forget_bias: float = 1.0,
        weight_dropout: float = 0.0,
        dtype: str = "float32",
    ):
        self.cell, self.weight_dropout = cell, weight_dropout
        _, gates, keeping, _ = CELLS[cell]
        linear = lambda: Linear(rngs, (size,), (gates, size), _AXES, bias=False, init=_uniform, dtype=dtype)
        self.input, self.recurrent = linear(), linear()
        first = lambda key, shape, dtype: jnp.zeros(shape, dtype).at[keeping].set(forget_bias)
        self.bias = param(rngs, (gates, size), *_AXES[1:], init=first, dtype=dtype)
        self.candidate_bias = param(rngs, (size,), "mlp", init=zeros, dtype=dtype) if cell == "gru" else None

    def __call__(self, x: Array, marks: Marks, state: State, key: Array | None = None) -> tuple[Array, State]:
        with jax.named_scope("recurrent"):
            push = add_row(self.input(x), self.bias.get_value(), _AXES[1:])
            # A step needs the one before it: where positions are split, their inputs are computed split and then gathered.
            push = move(push, ("batch", "seq", None, "act_mlp"), ("batch", None, None, "act_mlp"))
            push, given = jnp.swapaxes(push, 0, 1), None
            if self.candidate_bias is not None:
                bias = gathered(self.candidate_bias.get_value(), ("mlp",)).astype(push.dtype)
                given = push[:, :, 2]
                push = jnp.concatenate([push[:, :, :2], jnp.broadcast_to(bias[None, None, None], push[:, :, :1].shape)], axis=2)
            # Gathered once and not in each step; kept until the layer's gradient is computed.
            kernel = dropout(gathered(self.recurrent.kernel.get_value(), _AXES), self.weight_dropout, key, rows=False)
            state, h = _run(CELLS[self.cell][0], kernel, push, given, marks, state)
            return move(jnp.swapaxes(h, 0, 1), ("batch", None, "act_embed"), ("batch", "seq", "act_embed")), state


def _scan(cell: Callable[..., State], kernel: Array, push: Array, given: Array | None, marks: Marks, state: State):
    """((last state, h [T, B, D]), the h that each step began with [T, B, D]); push [T, B, G, D] is added to the product."""
    kernel = kernel.astype(push.dtype)

    def step(state: State, each: tuple) -> tuple[State, tuple[Array, Array]]:
        push, given, (begins, real) = each
        begun = {name: jnp.where(begins, 0.0, x) for name, x in state.items()}
        h = begun["h"].astype(push.dtype)
        gates = push.astype(jnp.float32) + product("bd,dgh->bgh", h, kernel, _AXES).astype(jnp.float32)
        gates = constrain(gates, "batch", None, "act_mlp")
        new = cell(gates, None if given is None else given.astype(jnp.float32), begun)
        # h meets all features in the next product; c meets only its own.
        state = {name: constrain(jnp.where(real, new[name], x), "batch", "act_mlp" if name == "c" else None) for name, x in state.items()}
        return state, (state["h"].astype(push.dtype), h)

    state, (h, begun) = lax.scan(step, state, (push, given, marks))
    return (state, h), begun


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(cell: Callable[..., State], kernel: Array, push: Array, given: Array | None, marks: Marks, state: State) -> tuple[State, Array]:
    """The last state and h of every step, with the kernel's gradient as one product over all steps.

    Left to autodiff, each step would add its share to a [D, G, D] array, and on several devices sum it over them.
    """
    return _scan(cell, kernel, push, given, marks, state)[0]


def _run_forward(cell, kernel, push, given, marks, state):
    out, back, begun = jax.vjp(lambda *inner: _scan(cell, kernel, *inner[:2], marks, inner[2]), push, given, state, has_aux=True)
    return out, (back, begun, kernel)


def _run_backward(cell, saved, d_out):
    back, begun, kernel = saved
    d_push, d_given, d_state = back(d_out)
    d_kernel = jnp.einsum("tbd,tbgh->dgh", begun, d_push, preferred_element_type=jnp.float32)
    return d_kernel.astype(kernel.dtype), d_push, d_given, None, d_state


_run.defvjp(_run_forward, _run_backward)

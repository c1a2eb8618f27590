# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A state carried from step to step: windows are one pass, gradients stop between them, documents and skipped steps leave no trace."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm.core import tree
from jaxlm.data.pack import Padded
from jaxlm.data.sampler import InOrder, Sampler
from jaxlm.data.stream import Stream
from jaxlm.models import lstm
from jaxlm.objectives import causal_lm
from jaxlm.parallel import mesh, place, rules
from jaxlm.training import evaluate, state, step
from tests.data.test_pack import make
from tests import families

V, R, T, N = 40, 3, 5, 4
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


@functools.cache
def model(cell="lstm", **fields):
    return lstm.build(lstm.Config(vocab_size=V, layers=2, embed=8, hidden=12, cell=cell, **fields))


def params_of(made):
    """Large enough that states matter."""
    return jax.tree.map(lambda x: 6 * x, families.params_of(made))


def text(*lengths):
    """A store of these documents, with tokens below V."""
    store = make(list(lengths))
    tokens = np.random.default_rng(0).integers(1, V, len(store.tokens)).astype(np.uint16)
    tokens[store.tokens == store.eot] = 0
    return type(store)(tokens, store.offsets, store.bytes, 0)


def batches(store, steps, rows=R, length=T):
    drawn = Sampler(Stream(store, length, drop_last=True), rows, 0, shuffle=False)
    return [causal_lm.prepare(drawn.batch(step), None) for step in range(steps)]


def joined(parts):
    return {name: np.concatenate([b[name] for b in parts], axis=1) for name in parts[0]}


TEXT = text(30, 2, 11, 7, 40)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_windows_are_one_pass(cell):
    """N windows, each from the carry of the one before, against their N x T tokens at once: losses and the last state to 1e-5.

    Fails if the carry is not read (`cache=None` in Loss), or a document that goes on begins anew (Windows' segments)."""
    made, parts = model(cell), batches(TEXT, N)
    params = params_of(made)
    loss = jax.jit(step.Loss(made, causal_lm.build(causal_lm.Config())))
    carry, total = made.cache(R, 0), 0.0
    for batch in parts:
        value, (means, carry) = loss(params, batch, None, carry)
        total += value
    whole, (_, last) = loss(params, joined(parts), None, made.cache(R, 0))
    np.testing.assert_allclose(total, whole, rtol=1e-6)
    jax.tree.map(close, carry, last)
    assert abs(float(loss(params, parts[-1], None, made.cache(R, 0))[0] - value)) > 1e-3  # the carry matters


def torchs(torch, params, parts):
    """Truncated backpropagation in plain torch, a token at a time: per window the summed loss and its gradients."""
    p = jax.tree.map(lambda x: torch.tensor(np.asarray(x), requires_grad=True), params)
    scale, size = 8**0.5, 12
    gates = lambda x, kernel: torch.einsum("d,dgh->gh", x, kernel)
    states = [[(torch.zeros(size), torch.zeros(size)) for _ in range(2)] for _ in range(R)]
    last, out = [0] * R, []
    for batch in parts:
        total = torch.zeros(())
        for row in range(R):
            states[row] = [tuple(x.detach() for x in pair) for pair in states[row]]
            for t in range(T):
                if batch["segments"][row, t] != last[row]:
                    states[row] = [(torch.zeros(size), torch.zeros(size)) for _ in range(2)]
                last[row] = batch["segments"][row, t]
                x = (p["embed"]["tokens"][int(batch["tokens"][row, t])] * scale) @ p["projection_in"]["kernel"] + p["projection_in"]["bias"]
                for n in range(2):
                    block, (h, c) = p["blocks"], states[row][n]
                    i, f, g, o = gates(x, block["input"]["kernel"][n]) + gates(h, block["recurrent"]["kernel"][n]) + block["bias"][n]
                    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                    x = torch.sigmoid(o) * torch.tanh(c)
                    states[row][n] = (x, c)
                logits = p["embed"]["tokens"] @ (x @ p["projection_out"]["kernel"] + p["projection_out"]["bias"])
                total = total + torch.logsumexp(logits, 0) - logits[int(batch["targets"][row, t])]
        leaves = tree.flatten(p)
        out.append((float(total.detach()), dict(zip(leaves, [g.numpy() for g in torch.autograd.grad(total, list(leaves.values()))], strict=True))))
    return out


def test_gradients_are_those_of_truncated_backpropagation():
    """Each window's loss and gradients against torch's, whose states are detached between windows.

    Fails if the carry is not read (`cache=None` in Loss), or the rows of a carry and of a batch are not the same (`x[::-1]`
    of the carry in `one`)."""
    torch = pytest.importorskip("torch", reason="torch, the reference, is not installed")
    made, parts = model(), batches(TEXT, 3)
    params = params_of(made)
    run = jax.jit(functools.partial(step.gradients, step.Loss(made, causal_lm.build(causal_lm.Config())), micro_batches=1))
    carry = made.cache(R, 0)
    for batch, (total, expected) in zip(parts, torchs(torch, params, parts), strict=True):
        (grads, means), carry = run(params, batch, carry, jax.random.key(0))
        np.testing.assert_allclose(means["loss"].total, total, rtol=1e-5)
        for path, g in tree.flatten(grads).items():
            np.testing.assert_allclose(g, expected[path], rtol=0, atol=2e-5 * np.abs(expected[path]).max(), err_msg=path)


def test_steps_carry_in_place_and_a_skipped_one_keeps_the_old():
    """On 8 devices, weights and rows split: one compilation for all steps, the whole state given away, and the carry of the step
    before where one is not finite.

    Fails if a skipped step's carry is taken (`carry=carry` in make_step), comes out split otherwise than it went in (drop `where =`
    of the carry in state.abstract), or is not donated (TrainState without it)."""
    made, tx = model(), optax.adam(1e-2)
    trainable = jax.tree.map(lambda _: True, made.abstract)
    layout = place.Layout(mesh.make(mesh.Config(data=2, fsdp=4)), rules.find("fsdp"))
    compiled = []
    with place.use(layout):
        target = state.abstract(made, tx, trainable, layout, rows=8)
        assert all(x.sharding.shard_shape(x.shape)[0] == 1 for x in jax.tree.leaves(target.carry))
        now = state.initialise(made, tx, trainable, 0, target)
        parts = batches(TEXT, 4, rows=8)
        parts[2]["weights"] = np.full_like(parts[2]["weights"], np.nan)
        parts = [place.put(batch, layout, 8) for batch in parts]
        update = step.make_step(made, causal_lm.build(causal_lm.Config()), tx, lambda count: 1e-2, trainable, 1)
        program = step.compile_step(update, target, parts[0], layout.replicated)
        assert program.memory_analysis().alias_size_in_bytes >= state.bytes_per_device(target)
        jax.monitoring.register_event_duration_secs_listener(
            lambda event, duration, **_: compiled.append(event) if event.endswith("backend_compile_duration") else None)
        seen = []
        for batch in parts:
            old = now
            now, metrics = program(now, batch)
            assert all(x.is_deleted() for x in jax.tree.leaves(old))
            seen.append((jax.device_get(now.carry), metrics["skipped"].tolist()))
    carries = [carry for carry, _ in seen]
    assert [skipped for _, skipped in seen] == [[0, 0], [0, 0], [1, 1], [1, 0]] and not compiled
    jax.tree.map(np.testing.assert_array_equal, carries[2], carries[1])
    for a, b in ((0, 1), (2, 3)):
        assert not np.array_equal(carries[a]["h"], carries[b]["h"]) and np.isfinite(carries[b]["h"]).all()


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_held_out_figures_are_those_of_whole_documents(rows):
    """Every document alone in a row that holds all of it gives the same sum, whatever the number of rows that are read together.

    Fails if documents leak into each other, a column begins inside one (bounds in data/stream.py), or a batch does not go on from the one
    before (`current, _ = run(...)` in evaluate)."""
    made = model()
    params = params_of(made)
    layout = place.Layout(mesh.make(mesh.Config(data=1), jax.devices()[:1]), rules.find("dp"))
    measure = evaluate.make_evaluate(step.Loss(made, causal_lm.build(causal_lm.Config())), layout)
    with place.use(layout):
        alone = causal_lm.prepare(Padded(TEXT, 64).rows(np.arange(TEXT.documents)), None)
        expected = evaluate.evaluate(measure, params, [alone], 1)
        drawn = InOrder(Stream(TEXT, T), rows)
        source = (causal_lm.prepare(drawn.batch(n), None) for n in range(len(drawn)))
        found = evaluate.evaluate(measure, params, source, len(drawn), state.empty(made, rows, layout))
    assert found["nll"].weight == expected["nll"].weight == TEXT.predicted
    np.testing.assert_allclose(found["nll"].total, expected["nll"].total, rtol=1e-6)


def test_documents_do_not_leak():
    """Other tokens in the first document of each row change nothing of those after it, in the next windows either; other tokens in
    the last window's document before do. Fails if a state goes on over the end of a document: `begins` is False in recurrent._scan."""
    made, parts = model(), batches(text(7, 30, 9, 60), N, rows=1)
    params = params_of(made)
    hidden = jax.jit(lambda p, b, carry: (lambda out: (out.hidden, out.cache))(made.apply(p, b, cache=carry)))

    def run(parts):
        carry, out = made.cache(1, 0), []
        for batch in parts:
            h, carry = hidden(params, batch, carry)
            out.append(np.asarray(h))
        return np.concatenate(out, axis=1)[0]

    first = joined(parts)["segments"][0] == 1
    changed = [{**b, "tokens": np.where(b["segments"] == 1, (b["tokens"] + 1) % V, b["tokens"])} for b in parts]
    before, after = run(parts), run(changed)
    assert 5 < first.sum() < N * T - 5 and first[:first.sum()].all()
    np.testing.assert_array_equal(before[~first], after[~first])
    assert (np.abs(before[first] - after[first]).max(axis=1) > 0).all()
    begun = [{**parts[0], "tokens": (parts[0]["tokens"] + 1) % V}, *parts[1:]]
    assert np.abs(run(begun)[T] - before[T]).max() > 0  # the document goes on into the second window


def test_dropout_is_drawn_for_each_window():
    """Masks of Zaremba et al. and of AWD-LSTM belong to a step: one mask for all positions of a window (locked), another in the
    next, the carry itself undropped, as in the authors' code. Fails if the key of a step is that of the run: `fold_in` dropped from backward."""
    made = model(locked=True, output_dropout=0.5)
    params, batch = params_of(made), batches(TEXT, 1)[0]
    key = jax.random.key_data(jax.random.key(0))
    loss = step.Loss(made, causal_lm.build(causal_lm.Config()))
    train = lambda done: step.backward(loss, params, jax.tree.map(lambda _: None, params), key, done, batch, made.cache(R, 0), 1)
    run = jax.jit(train)
    one, again, other = (run(jnp.int32(done)) for done in (0, 0, 1))
    assert float(one[0][1]["loss"].total) == float(again[0][1]["loss"].total) != float(other[0][1]["loss"].total)
    jax.tree.map(np.testing.assert_array_equal, one[1], other[1])

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Cross-entropy: against its definition, chunked against whole, and on a split vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxlm.ops import vocab
from jaxlm.ops.loss import cross_entropy
from jaxlm.parallel import mesh, place, rules

B, L, D, V = 2, 6, 8, 16
RNG = np.random.default_rng(0)
HIDDEN, TABLE = (jnp.asarray(RNG.standard_normal(s), jnp.float32) for s in ((B, L, D), (V, D)))
BIAS = jnp.asarray(RNG.standard_normal(V), jnp.float32)
TARGETS = jnp.asarray(RNG.integers(0, V, (B, L)), jnp.int32).at[0, 0].set(-100)
WEIGHTS = jnp.asarray(RNG.random((B, L)), jnp.float32).at[0, 0].set(0).at[1, 4].set(0)
FULL = dict(soft_cap=4.0, z_loss=0.01, label_smoothing=0.1)


@pytest.mark.parametrize("options", [{}, FULL], ids=["plain", "full"])
@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("form", ["flat", "apart", "cpu"])
def test_definition(options, chunks, form):
    """Float64 arithmetic gives the same to 1e-5. Fails if smoothing leaks into nll."""
    got = cross_entropy(HIDDEN, TABLE, TARGETS, WEIGHTS, bias=BIAS, chunks=chunks, form=form, **options)
    logits = np.float64(HIDDEN) @ np.float64(TABLE).T + np.float64(BIAS)
    if options:
        logits = 4 * np.tanh(logits / 4)
    log_z = np.log(np.exp(logits).sum(-1))
    picked = np.take_along_axis(logits, np.maximum(TARGETS, 0)[..., None], -1)[..., 0]
    nll = log_z - picked
    smooth = 0.9 * nll + 0.1 * (log_z - logits.mean(-1)) if options else nll
    z = 0.01 * log_z**2 if options else 0 * nll
    want = {"loss": smooth + z, "nll": nll, "z_loss": z, "accuracy": logits.argmax(-1) == np.asarray(TARGETS)}
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(got[name].total, (value * np.float64(WEIGHTS)).sum(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got[name].weight, WEIGHTS.sum(), rtol=1e-6)
        assert got[name].total.dtype == jnp.float32


def test_chunked_is_whole():
    """Values and gradients to hidden, table and bias, to 1e-6. Fails if a chunk takes another's targets."""

    def f(hidden, table, bias, chunks):
        return cross_entropy(hidden, table, TARGETS, WEIGHTS, bias=bias, chunks=chunks, **FULL)["loss"].value

    both = [jax.value_and_grad(f, argnums=(0, 1, 2))(HIDDEN, TABLE, BIAS, chunks) for chunks in (1, 3)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *both)
    # The hand-written gradient of the projection is that of autodiff.
    plain = lambda h, t: (
        jnp.sum(jax.nn.log_softmax(jnp.einsum("bld,vd->blv", h, t))[:, :, 3] * WEIGHTS) / -WEIGHTS.sum()
    )
    ours = lambda h, t: cross_entropy(h, t, jnp.full((B, L), 3), WEIGHTS)["loss"].value
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        *(jax.grad(g, argnums=(0, 1))(HIDDEN, TABLE) for g in (plain, ours)),
    )


@pytest.mark.parametrize("size", [vocab.LEAST - 1, vocab.LEAST, vocab.LEAST + 507])
@pytest.mark.parametrize("seed", [0, 1])
def test_folded_rows_are_the_rows(size, seed):
    """Sums and gradients of the form for CPUs against the plain one, to 1e-6; with equal logits, and one that is infinite.

    Fails if equals are counted ahead of the first (`column <= at`)."""
    rng = np.random.default_rng(seed)
    hidden, table = (jnp.asarray(rng.integers(-2, 3, s), jnp.float32) for s in ((B, L, D), (size, D)))  # whole numbers: many are equal
    targets = jnp.asarray(rng.integers(0, size, (B, L)), jnp.int32).at[0, 0].set(size - 1)
    bias = jnp.zeros(size).at[3].set(-jnp.inf)
    found, want = (jax.value_and_grad(lambda h, t: (lambda m: (m["loss"].value, {n: v.value for n, v in m.items()}))(
        cross_entropy(h, t, targets.at[1, 1].set(jnp.argmax(hidden[1, 1] @ table.T + bias)), WEIGHTS, bias=bias, z_loss=0.01, form=form)),
        argnums=(0, 1), has_aux=True)(hidden, table) for form in ("cpu", "flat"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), found, want)
    assert want[0][1]["accuracy"] > 0


@pytest.mark.parametrize("size", [vocab.LEAST - 1, vocab.LEAST, vocab.LEAST + 507])
def test_statistics_of_rows(size):
    """Folded and whole, with an infinite logit: against float64, to 1e-6, with their gradients.

    Fails if what is over of a row is left out (`size > size` for `size > PARTS * fold` in vocab._along), or a part is
    (`range(1, PARTS)`).
    """
    rng = np.random.default_rng(size)
    logits, targets = 3 * rng.standard_normal((5, size)), rng.integers(4, size, 5)
    logits[:, 3] = -np.inf
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    (log_z, target), back = jax.vjp(lambda x: vocab.statistics(x, jnp.asarray(targets, jnp.int32)), jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(log_z, np.log(np.exp(logits).sum(1)), rtol=1e-6)
    np.testing.assert_allclose(target, logits[np.arange(5), targets], rtol=1e-6)
    want = p + 2 * np.eye(size)[targets]
    np.testing.assert_allclose(back((jnp.ones(5), jnp.full(5, 2.0)))[0], want, rtol=2e-6, atol=1e-7)


def test_one_chunk_of_logits_lives_at_a_time():
    """Memory of the compiled gradient falls with the chunks. Fails if a chunk's logits are kept for the backward pass:
    `_chunked.fun` for `_chunked` in cross_entropy."""
    hidden, table = jnp.zeros((4, 64, 8)), jnp.zeros((4096, 8))
    targets, weights = jnp.zeros((4, 64), jnp.int32), jnp.ones((4, 64))
    f = lambda h, t, chunks: cross_entropy(h, t, targets, weights, chunks=chunks)["loss"].value
    temp = {
        chunks: jax.jit(jax.grad(lambda h, t: f(h, t, chunks)))
        .lower(hidden, table)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for chunks in (1, 8)
    }
    assert temp[8] < temp[1] / 3, temp


def products(f, *arguments) -> list[tuple[int, ...]]:
    """The shapes of what matrix products give, wherever in the program of f they stand."""
    found = []

    def look(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                found.append(eqn.outvars[0].aval.shape)
            for inner in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    look(getattr(inner, "jaxpr", inner))

    look(jax.make_jaxpr(f)(*arguments).jaxpr)
    return found


def test_nothing_is_computed_twice():
    """Of a chunk: logits, the gradient of features, that of the table; and no product for what is frozen. Fails if chunks are
    made again: `_chunked.fun` for `_chunked` in cross_entropy, under jax.checkpoint (four)."""
    f = lambda h, t: cross_entropy(h, t, TARGETS, WEIGHTS, chunks=3, **FULL)["loss"].value
    logits, features, table = (B * L // 3, V), (B * L // 3, D), (V, D)
    assert sorted(products(jax.grad(f, argnums=(0, 1)), HIDDEN, TABLE)) == sorted([logits, features, table])
    # Both gradients of the projection are written in one function: the compiler drops the one that nobody uses.
    frozen = jax.jit(jax.grad(f)).lower(HIDDEN, TABLE).compile().as_text()
    assert f"f32[{V},{D}]" not in "".join(line.partition(" = ")[2].partition("(")[0] for line in frozen.splitlines() if " dot(" in line)
    assert products(f, HIDDEN, TABLE) == [logits]


@pytest.mark.parametrize("around", [jax.jit, jax.checkpoint, lambda f: lambda *x: lax.scan(lambda _, i: (None, f(*x)), None, jnp.arange(2))[1].sum() / 2])
def test_only_the_loss_of_chunks_has_a_gradient(around):
    """Fails if another's gradient is silently zero: drop the check in `_chunked_backward`. What surrounds it changes nothing."""
    def f(h, t, names):
        found = cross_entropy(h, t, TARGETS, WEIGHTS, chunks=3, **FULL)
        return sum(found[name].value for name in names)

    got = jax.grad(around(lambda h, t: f(h, t, ["loss"])), argnums=(0, 1))(HIDDEN, TABLE)
    want = jax.grad(lambda h, t: cross_entropy(h, t, TARGETS, WEIGHTS, **FULL)["loss"].value, argnums=(0, 1))(HIDDEN, TABLE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, want)
    for name in ("nll", "z_loss"):
        with pytest.raises(ValueError, match=f"only 'loss' has a gradient, and {name} was to have one"):
            jax.grad(around(lambda h, t: f(h, t, ["loss", name])))(HIDDEN, TABLE)


@pytest.mark.parametrize("form", ["flat", "apart"])
@pytest.mark.parametrize("p, q", [(2, 1), (1, 2), (2, 3)])
def test_parts_with_gradients_of_their_own(form, p, q):
    """Rows and positions in parts: the same sums and gradients, to 2e-6. Fails if `_parts` takes the first part for all."""
    def f(h, t, b, w, **how):
        sums = cross_entropy(h, t, jnp.tile(TARGETS, (1, 2)), w, bias=b, form=form, **how, **FULL)
        return 2.5 * sums["loss"].total, {name: mean.total for name, mean in sums.items()}

    arguments = jnp.tile(HIDDEN, (1, 2, 1)) * jnp.linspace(0.5, 1.5, 2 * L)[None, :, None], TABLE, BIAS, jnp.tile(WEIGHTS, (1, 2))
    own = lambda x: jnp.broadcast_to(x, (p, q, *x.shape))
    both = [jax.value_and_grad(f, argnums=(0, 1, 2, 3), has_aux=True)(*arguments, **how) for how in ({}, {"chunks": 2, "own": own})]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6), *both)


def test_accuracy_counts_the_first_of_equals():
    """All logits equal: only target 0 is right, as with argmax."""
    got = cross_entropy(jnp.zeros((1, 4, D)), TABLE, jnp.array([[0, 1, 2, 3]]), jnp.ones((1, 4)))
    assert got["accuracy"].total == 1


def test_split_vocabulary():
    """A vocabulary over 2 devices, features over 2, rows over 2: the same sums and gradients, to 1e-6."""
    hidden, targets, weights = (jnp.tile(x, (2,) + (1,) * (x.ndim - 1)) for x in (HIDDEN, TARGETS, WEIGHTS))
    f = jax.value_and_grad(
        lambda h, t: cross_entropy(h, t, targets, weights, chunks=3, **FULL)["loss"].value, argnums=(0, 1)
    )
    want = f(hidden, TABLE)
    layout = place.Layout(mesh.make(mesh.Config(data=2, fsdp=2, tensor=2)), rules.find("fsdp_tp"))
    with place.use(layout):
        table = jax.device_put(TABLE, layout.sharding("vocab", "embed"))
        got = jax.jit(f)(jax.device_put(hidden, layout.sharding("batch", "seq", "act_embed")), table)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-6), got, want)


def test_indivisible_length_raises():
    with pytest.raises(ValueError, match="6 cannot be cut into 4 chunks"):
        cross_entropy(HIDDEN, TABLE, TARGETS, WEIGHTS, chunks=4)
    with pytest.raises(ValueError, match="2 rows and 2 positions of a chunk cannot be computed in 1 x 4 parts"):
        cross_entropy(HIDDEN, TABLE, TARGETS, WEIGHTS, chunks=3, own=lambda x: jnp.broadcast_to(x, (1, 4, *x.shape)))

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What every encoder-decoder promises of both its sides: who sees whom, and that padding, packing and caching change no number."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core import tree
from jaxlm.core.errors import UserError
from jaxlm.training import flops, nonfinite
from tests.models.test_models import ONE, SOURCED, TWO, WEIGHT, L, V, close, close_packed, close_padded, jitted, model, params, weights

S = 17  # positions of the source; ONE and TWO are what the decoder reads
READ_ONE, READ_TWO = [11, 3, 12, 29, 13, 14, 1, 10], [21, 22, 20]  # their sources
parametrize = pytest.mark.parametrize("name", SOURCED)


def side(rows, length, fill):
    """tokens, segments and positions of rows of documents (lists, numbered as they come) and padding (ints)."""
    out = np.zeros((3, len(rows), length), np.int32)
    out[0] = fill
    for row, parts in enumerate(rows):
        at = number = 0
        for part in parts:
            if not isinstance(part, int):
                number += 1
                out[:, row, at : at + len(part)] = part, [number] * len(part), range(len(part))
            at += part if isinstance(part, int) else len(part)
    return dict(zip(("tokens", "segments", "positions"), jnp.asarray(out), strict=True))


def batch_of(rows, sources, fill=0):
    read = {f"source_{field}": x for field, x in side(sources, S, fill).items()}
    return {**side(rows, L, fill), **read}


RIGHT = batch_of([[ONE], [TWO]], [[READ_ONE], [READ_TWO]])
BOTH = weights((0, 0, ONE), (1, 0, TWO))


@parametrize
def test_who_sees_whom_by_gradient(name):
    """[query, token]: each position sees every token of its own source, itself and what came before in its own document, and no other.

    Fails if the decoder's mask is not causal (a copying model), the encoder's is, or the segments of the source are not compared.
    """
    built, p = model(name), params(name)
    draw = np.random.default_rng(2).permutation(V)
    one, two, read_one, read_two = (list(x) for x in np.split(draw[:25], [5, 11, 18]))
    batch = batch_of([[one, two]], [[read_one, 2, read_two]], fill=draw[25])

    def hidden(table):
        out = built.apply({**p, "embed": {"tokens": table}}, batch).hidden[0]
        return out @ WEIGHT[:1, : out.shape[-1]].T[:, 0] if out.shape[-1] <= V else out.sum(-1)

    jacobian = jax.jit(jax.jacrev(hidden))(p["embed"]["tokens"])
    seen = np.abs(jacobian).max(-1) > 0
    tokens = lambda row, among: [bool(seen[row, t]) for t in among]
    for start, document, own, other, before in ((0, one, read_one, [*read_two, *two], []), (5, two, read_two, [*read_one, *one], one)):
        for i in range(len(document)):
            assert all(tokens(start + i, own)), "a token of the source is not seen"
            assert not any(tokens(start + i, [*other, draw[25], *document[i + 1 :]])), "a token is seen that must not be"
            assert all(tokens(start + i, document[: i + 1]))


@parametrize
def test_an_encoder_sees_both_ways(name):
    """What is kept of the first token of a source depends on all of that source and of no other. Fails if the encoder is causal."""
    built, p = model(name), params(name)
    batch = batch_of([[ONE, TWO]], [[READ_ONE, READ_TWO]])

    def first(table):
        given = {**p, "embed": {"tokens": table}}
        return built.apply(given, batch, cache=built.cache(1, L, source=S)).cache["source"]["k"][0, 0, 0].ravel()

    seen = np.abs(jax.jit(jax.jacrev(first))(p["embed"]["tokens"])).max((0, 2)) > 0
    assert set(np.flatnonzero(seen)) == set(READ_ONE)


@parametrize
def test_padding_changes_nothing(name):
    """Padding of either side, left or right, whatever its tokens, leaves logits and gradients as they are, to 2e-5.

    Fails if keys of segment 0 are seen in the source, or positions count slots.
    """
    f, p = jitted(name), params(name)
    right = f(p, RIGHT, BOTH)
    other = f(p, batch_of([[ONE], [TWO]], [[READ_ONE], [READ_TWO]], fill=19), BOTH)
    left = f(p, batch_of([[7, ONE], [6, TWO]], [[4, READ_ONE], [14, READ_TWO]], fill=5), weights((0, 7, ONE), (1, 6, TWO)))
    close_padded(right, other, left)


@parametrize
def test_packed_is_unpacked(name):
    """Two pairs in one row give each one's logits and the sum of their gradients, to 2e-5. Fails if a segment reads another's source."""
    f, p = jitted(name), params(name)
    packed = f(p, batch_of([[ONE, TWO], []], [[READ_ONE, READ_TWO], []]), weights((0, 0, ONE), (0, 5, TWO)))
    alone = f(p, RIGHT, BOTH)
    close_packed(packed, alone)


@parametrize
def test_cached_is_uncached(name):
    """Source and prompt at once and then token by token give the logits of the whole, to 2e-5, for rows of unequal length.

    Fails if the source's keys are not kept (return the cache's own of decode), or distances are counted within a call.
    """
    built, p = model(name), params(name)
    batch = batch_of([[6, TWO], [7, ONE]], [[READ_TWO], [READ_ONE]])
    want = jitted(name)(p, batch, weights())[0]
    step = jax.jit(lambda p, b, cache: built.apply(p, b, cache=cache))
    part = lambda a, b: {k: v[:, a:b] for k, v in batch.items() if not k.startswith("source_")}
    cache, got = built.cache(2, L + 3, source=S), []
    structure = jax.tree.map(lambda x: (x.shape, x.dtype), cache)
    for a, b in [(0, 9), *((i, i + 1) for i in range(9, L))]:
        read = {k: v for k, v in batch.items() if k.startswith("source_")} if a == 0 else {}
        out = step(p, part(a, b) | read, cache)
        cache = out.cache
        got.append(out.logits)
        assert int(cache["index"]) == b and jax.tree.map(lambda x: (x.shape, x.dtype), cache) == structure
    got = np.concatenate(got, 1)
    for row, n in ((0, 6), (1, 5)):
        close(got[row, -n:], want[row, -n:])
    # Going back by rows, and on: each row has its own slots then.
    again = step(p, part(L - 1, L), built.rewind(cache, jnp.asarray([1, 1])))
    close(again.logits, got[:, -1:])


@pytest.mark.parametrize("name", ["transformer", "t5_v11"])
def test_ways_of_running(name):
    """Unrolled and rematerialised, and in bfloat16. Fails if a layer takes another's weights, or a bias loses its gradient."""
    plain = jitted(name)(params(name), RIGHT, BOTH)
    close(jitted(name, scan=False, remat="full")(params(name), RIGHT, BOTH), plain)
    built = model(name, dtype="bfloat16")
    out = jax.jit(built.apply)(params(name), RIGHT)
    assert out.hidden.dtype == jnp.bfloat16 and out.logits.dtype == jnp.float32
    assert built.cache(1, 4, source=3)["source"]["k"].dtype == jnp.bfloat16
    close(out.logits[0, : len(ONE)], plain[0][0, : len(ONE)], 0.08)


@pytest.mark.parametrize("field", ["embed_dropout", "attention_dropout", "residual_dropout", "mlp_dropout"])
@pytest.mark.parametrize("name", ["transformer", "t5"])
def test_dropout(name, field):
    """Each rate acts with a key only, alike for one key and otherwise for another, on both sides. Fails if a rate is not passed on."""
    built, p = model(name, **{field: 0.5}), params(name)
    draw = lambda number: None if number is None else jax.random.key(number, impl="rbg")
    filled = jitted_cache(name)
    read = jax.jit(lambda key: built.apply(p, RIGHT, key=key, cache=built.cache(2, L + 1, source=S)).cache["source"]["k"][0])
    write = jax.jit(lambda key: built.apply(p, {"tokens": RIGHT["tokens"][:, :1]}, key=key, cache=filled).cache["k"][-1])
    for f in (read, write):  # the encoder alone, and the decoder alone, by what the cache keeps of them
        one, again, other, without = (f(draw(number)) for number in (0, 0, 1, None))
        np.testing.assert_array_equal(one, again)
        assert not np.allclose(one, other) and not np.allclose(one, without), f
    np.testing.assert_array_equal(read(None), filled["source"]["k"][0])


@functools.cache
def jitted_cache(name):
    return jax.jit(lambda: model(name).apply(params(name), RIGHT, cache=model(name).cache(2, L + 1, source=S)).cache)()


@pytest.mark.parametrize("name", ["transformer", "t5"])
def test_init(name):
    """Logits of a fresh model spread by 1.2 at most, and two layers begin differently. Fails if T5's query begins as large as its key."""
    built = model(name)
    fresh = built.init(jax.random.key(0))
    logits = jax.jit(lambda p: built.apply(p, RIGHT).logits)(fresh)
    assert 0.001 < np.std(logits, -1).mean() < 1.2, np.std(logits, -1).mean()
    for x in (fresh["decoder"]["blocks"]["cross"]["q"]["kernel"], fresh["decoder"]["blocks"]["mlp"]["up"]["kernel"]):
        assert not np.array_equal(x[0], x[1])
    q, k = (np.std(fresh["decoder"]["blocks"]["cross"][x]["kernel"]) for x in "qk")
    np.testing.assert_allclose(k / q, SOURCED[name][1].head_dim ** 0.5 if "t5" in name else 1, rtol=0.1)


def test_offset_of_positions():
    """An offset of 2 is a table without its first 2 rows; a position beyond the table is NaN. Fails if the offset is added on one side."""
    p, batch = params("transformer_bart"), RIGHT | {"positions": RIGHT["positions"].at[1, 1].set(20)}
    cut = tree.map_with_path(lambda path, x: x[2:] if path.endswith("positions/table") else x, p)
    with_offset, without = (jax.jit(model("transformer_bart", **f).apply)(q, batch).hidden
                            for f, q in (({}, p), ({"position_offset": 0}, cut)))
    np.testing.assert_array_equal(with_offset, without)
    assert np.isnan(without[1, 1]).all() and np.isfinite(without[0]).all()


def test_what_is_refused():
    """A model without its source, a cache without room for it, and a source for a decoder: one error each, with the way out."""
    text = {"tokens": RIGHT["tokens"]}
    for name in ("transformer", "t5"):
        with pytest.raises(UserError, match="reads a source and the batch has no source_tokens.*objective=seq2seq"):
            model(name).apply(params(name), text)
        with pytest.raises(UserError, match="reads a source, for which its cache has no room: give source="):
            model(name).cache(1, 4)
        with pytest.raises(ValueError, match="a source of 17 positions and a cache with room for 3"):
            model(name).apply(params(name), RIGHT, cache=model(name).cache(2, L, source=3))
    with pytest.raises(UserError, match="reads no source: leave out source=3"):
        model("gpt").cache(1, 4, source=3)
    with pytest.raises(UserError, match="generate with a decoder"):
        model("bert").cache(1, 4, source=3)


def test_defaults_of_a_batch():
    """Without segments and positions on one side or both: one document a row, counted from 0."""
    whole = {"tokens": jnp.arange(2 * L).reshape(2, L), "source_tokens": jnp.arange(2 * S).reshape(2, S) % V}
    ids = lambda n: (jnp.ones((2, n), jnp.int32), jnp.tile(jnp.arange(n), (2, 1)))
    read = dict(zip(("source_segments", "source_positions"), ids(S), strict=True))
    run = jax.jit(lambda b: model("transformer").apply(params("transformer"), b).logits)
    close(run(whole), run({**whole, **read, **dict(zip(("segments", "positions"), ids(L), strict=True))}))
    close(run({**whole, **read}), run(whole))


def test_flops_of_both_sides():
    """Matrix products counted by hand: each stack's layers by its own number and length. Fails if a loop's body counts once."""
    c = SOURCED["t5_v11"][1]
    d, n, wide = c.embed, c.heads * c.head_dim, 2 * S  # tokens of the source, of 2 rows
    attention = lambda queries, keys, seen: 2 * d * n * (2 * queries + 2 * keys) + 4 * queries * seen * n
    mlp = lambda tokens: 2 * tokens * 3 * d * c.mlp
    read = c.layers * (attention(wide, wide, S) + mlp(wide))
    write = c.decoder_layers * (attention(2 * L, 2 * L, L) + attention(2 * L, wide, S) + mlp(2 * L))
    assert flops.count(lambda p: model("t5_v11").apply(p, RIGHT).hidden, model("t5_v11").abstract) == read + write


@pytest.mark.parametrize("path,scope", [
    ("encoder/blocks/mlp/up", "encoder/block/mlp"),
    ("decoder/blocks/cross/q", "decoder/block/cross/attention"),
])
def test_who_was_not_finite_first(path, scope):
    """The side, the module and the layer of an infinite number. Fails if the stacks have no scope of their own."""
    built = model("t5")
    spoil = lambda at, x: x.at[1, 3, 0].set(jnp.inf) if at == path + "/kernel" else x
    given = tree.map_with_path(spoil, jax.tree.map(jnp.asarray, params("t5")))
    stacked = [axes[0] == "layers" for axes in tree.flatten_axes(built.axes()).values()]
    args = (given, RIGHT)
    traced = nonfinite.Traced(lambda p, b: built.apply(p, b).hidden.sum(), args, [*tree.paths(given), *[""] * len(RIGHT)],
                              [*stacked, *[False] * len(RIGHT)])
    _, marks = jax.device_get(jax.jit(traced)(*args))
    first = traced.culprits(marks)[0]
    assert (first["module"], first["layer"], first["scope"]) == (path, 1, scope), first

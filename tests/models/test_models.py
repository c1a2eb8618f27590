# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What every model promises: who sees whom, and that padding, packing, caching, scanning and rematerialising change no number.

A variant is a family with fields; a family without one here fails. Tolerances are stated where numbers are compared.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlm.models
from jaxlm.core import tree
from jaxlm.core.errors import UserError
from jaxlm.layers.stack import REMAT
from jaxlm.models import albert, bert, gpt, llama, lstm, t5, transformer
from jaxlm.parallel import rules

V, L = 31, 12
VARIANTS = {
    "gpt": (gpt, gpt.Config(vocab_size=V, max_len=16, layers=2, heads=4, embed=24)),
    "gpt_sinusoidal": (
        gpt,
        gpt.Config(
            vocab_size=V,
            layers=2,
            heads=3,
            embed=24,
            mlp=32,
            positions="sinusoidal",
            bias=False,
            tie_embeddings=False,
            activation="relu2",
            scan=False,
        ),
    ),
    "llama": (llama, llama.Config(vocab_size=V, layers=2, heads=4, kv_heads=2, embed=24, mlp=32)),
    "llama_all": (
        llama,
        llama.Config(
            vocab_size=V,
            layers=3,
            heads=4,
            kv_heads=2,
            head_dim=8,
            embed=24,
            mlp=32,
            activation="gelu_tanh",
            norm_offset=1.0,
            sandwich=True,
            qk_norm=True,
            qkv_bias=True,
            out_bias=True,
            mlp_bias=True,
            tie_embeddings=True,
            embed_scale=True,
            query_scale=0.5,
            attention_soft_cap=5.0,
            logit_soft_cap=8.0,
            window=3,
            window_pattern="LLG",
            rope_local_theta=100.0,
            rope_scaling="yarn",
            rope_factor=2.0,
            rope_original_len=8,
        ),
    ),
    "bert": (
        bert,
        bert.Config(
            vocab_size=V,
            max_len=16,
            layers=2,
            heads=4,
            embed=24,
            embed_dropout=0.0,
            attention_dropout=0.0,
            residual_dropout=0.0,
        ),
    ),
    "bert_all": (
        bert,
        bert.Config(
            vocab_size=V,
            max_len=14,
            layers=3,
            heads=3,
            embed=24,
            mlp=32,
            embedding_size=16,
            types=0,
            position_offset=2,
            tie_embeddings=False,
            pair_head=False,
            discriminator=True,
            embed_dropout=0.0,
            attention_dropout=0.0,
            residual_dropout=0.0,
            scan=False,
        ),
    ),
    "lstm": (lstm, lstm.Config(vocab_size=V, layers=2, embed=24)),
    "gru": (
        lstm,
        lstm.Config(
            vocab_size=V, cell="gru", layers=3, embed=20, hidden=28, forget_bias=0.5, tie_embeddings=False, scan=False
        ),
    ),
    "albert": (albert, albert.Config(vocab_size=V, max_len=16, layers=3, heads=4, embed=24, embedding_size=12)),
}
CAUSAL = [name for name, (_, config) in VARIANTS.items() if getattr(config, "causal", True)]
ENCODERS = [name for name in VARIANTS if name not in CAUSAL]
VARIANTS["llama_moe"] = (
    llama,
    dataclasses.replace(VARIANTS["llama"][1], mlp=20, experts=5, experts_per_token=2, router_aux=0.5, router_z=0.25),
)
_NO_DROPOUT = {"embed_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0, "mlp_dropout": 0.0}
# Encoder-decoders, whose batches have a source: tests/models/test_encoder_decoders.py.
SOURCED = {
    "transformer": (transformer, transformer.Config(vocab_size=V, layers=2, heads=4, embed=24, mlp=32, **_NO_DROPOUT)),
    "transformer_bart": (
        transformer,
        transformer.Config(
            vocab_size=V,
            max_len=20,
            layers=1,
            decoder_layers=3,
            heads=4,
            decoder_heads=3,
            embed=24,
            mlp=32,
            decoder_mlp=40,
            positions="learned",
            position_offset=2,
            embed_scale=False,
            embed_norm=True,
            order="pre",
            activation="gelu",
            tie_embeddings=False,
            logit_bias=True,
            init_std=0.02,
            scan=False,
            **_NO_DROPOUT,
        ),
    ),
    "t5": (t5, t5.Config(vocab_size=V, layers=2, heads=4, head_dim=5, embed=24, mlp=32, buckets=8, max_distance=7, **_NO_DROPOUT)),
    "t5_v11": (
        t5,
        t5.Config(
            vocab_size=V,
            layers=2,
            decoder_layers=3,
            heads=3,
            head_dim=8,
            embed=24,
            mlp=32,
            gated=True,
            activation="gelu_tanh",
            tie_embeddings=False,
            logit_scale=False,
            **_NO_DROPOUT,
        ),
    ),
}
ALL = VARIANTS | SOURCED
WINDOWED = {"llama_all"}  # whose layers do not all reach every earlier position
parametrize = pytest.mark.parametrize("name", VARIANTS)


@functools.cache
def model(name: str, **changes):
    module, config = ALL[name]
    return module.build(dataclasses.replace(config, **changes))


@functools.cache
def params(name: str):
    """Every parameter random, biases and norms too, and large enough that attention is far from uniform."""
    draw = np.random.default_rng(0)
    return tree.map_with_path(
        lambda path, x: np.asarray(0.1 * ("scale" in path) + 0.3 * draw.standard_normal(x.shape), x.dtype),
        model(name).abstract,
    )


@functools.cache
def jitted(name: str, **changes):
    """(params, batch, cotangent [B, L, V]) -> logits and the gradient of their product with the cotangent."""
    built = model(name, **changes)

    def f(params, batch, weight):
        logits = built.apply(params, batch).logits
        return jnp.sum(logits * weight), logits

    return jax.jit(lambda *a: (lambda out, grad: (out[1], grad))(*jax.value_and_grad(f, has_aux=True)(*a)))


def batch_of(rows, fill=0):
    """rows: a list of lists of (document, first position) or an int of padding; row by row to the same length."""
    out = {k: [] for k in ("tokens", "segments", "positions")}
    for row in rows:
        tokens, segments, positions = [], [], []
        for number, part in enumerate(row, 1):
            padding = isinstance(part, int)
            tokens += [fill] * part if padding else list(part)
            segments += [0] * part if padding else [number] * len(part)
            positions += [0] * part if padding else range(len(part))
        assert len(tokens) == L
        for key, value in zip(out, (tokens, segments, positions)):
            out[key].append(value)
    return {k: jnp.asarray(v, jnp.int32) for k, v in out.items()}


ONE, TWO = [3, 1, 4, 15, 9], [2, 6, 5, 30, 8, 7]
WEIGHT = np.random.default_rng(1).standard_normal((L, V)).astype(np.float32)


def weights(*spans):
    """A cotangent [rows, L, V] that is not 0 at (row, start, document): the same numbers for the same document."""
    out = np.zeros((2, L, V), np.float32)
    for row, start, document in spans:
        at = 0 if document is ONE else len(ONE)
        out[row, start : start + len(document)] = WEIGHT[at : at + len(document)]
    return out


def close(found, expected, tolerance=2e-5):
    """Relative to the largest number of each array, or a hundredth of the largest of all: sums come in another order,
    and some gradients (of a key's bias) are 0 but for rounding."""
    largest = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    for (path, a), b in zip(tree.flatten(found).items(), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), largest / 100), err_msg=path)


def close_padded(right, other, left):
    """(logits, gradients) of ONE and TWO in a row each, padded on the right, so with other tokens, and on the left."""
    for row, document in ((0, ONE), (1, TWO)):
        n = len(document)
        close(other[0][row, :n], right[0][row, :n])
        close(left[0][row, -n:], right[0][row, :n])
    close(other[1], right[1])
    close(left[1], right[1])


def close_packed(packed, alone):
    """(logits, gradients) of ONE and TWO side by side in the first row, and in a row each."""
    close(packed[0][0, :5], alone[0][0, :5])
    close(packed[0][0, 5:11], alone[0][1, :6])
    close(packed[1], alone[1])


def test_every_family_is_here():
    folder = pathlib.Path(jaxlm.models.__file__).parent
    families = {
        p.stem for p in folder.glob("*.py") if "\ndef build(" in p.read_text() and "\nclass Config" in p.read_text()
    }
    assert families <= {module.__name__.rpartition(".")[2] for module, _ in ALL.values()}, "add a variant above"


@pytest.mark.parametrize("name", ALL)
def test_contract(name):
    """init has abstract's shapes, axes name every dimension with known names, and two inits of a key are one."""
    built = model(name)
    shapes = lambda t: jax.tree.map(lambda x: (x.shape, x.dtype.name), t)
    made = jax.eval_shape(built.init, jax.random.key(0))
    assert shapes(made) == shapes(built.abstract)
    found = jax.tree.leaves_with_path(built.axes(), is_leaf=lambda x: isinstance(x, tuple))
    flat = {tree.path_str(path): axes for path, axes in found}
    assert flat.keys() == tree.flatten(built.abstract).keys()
    for path, leaf in tree.flatten(built.abstract).items():
        assert len(flat[path]) == leaf.ndim, path
        rules.find("fsdp_tp").spec(flat[path])
        stacked = "blocks" in path.split("/") and not getattr(ALL[name][1], "shared", False)
        assert (flat[path][0] == "layers") == stacked, path


@pytest.mark.parametrize("name", ["gpt", "llama_all", "bert"])
def test_init(name):
    """Logits of a fresh model are near 0, so the loss is near ln V. Fails if a norm's scale does not start at 1."""
    built = model(name)
    fresh = jax.jit(built.init)(jax.random.key(0, impl="rbg"))
    logits = jax.jit(lambda p, b: built.apply(p, b).logits)(fresh, {"tokens": jnp.arange(2 * L).reshape(2, L)})
    assert logits.dtype == jnp.float32 and np.isfinite(logits).all()
    log_z = jax.nn.logsumexp(logits, -1) - logits.mean(-1)
    np.testing.assert_allclose(log_z.mean(), np.log(V), atol=0.2)
    offset = getattr(VARIANTS[name][1], "norm_offset", 0.0)
    for path, x in tree.flatten(fresh).items():
        assert "scale" not in path or (x + offset == 1).all(), path
        if path.startswith("blocks/") and "kernel" in path:
            assert not np.array_equal(x[0], x[1]), f"{path}: two layers begin alike"


def reach(name):
    """[query, key]: the largest |d hidden[query] / d embedding of key| over a row of distinct tokens."""
    built, tokens = model(name), jnp.asarray(np.random.default_rng(2).permutation(V)[:L])[None]

    def hidden(table):
        p = params(name)
        out = built.apply({**p, "embed": {**p["embed"], "tokens": table}}, {"tokens": tokens}).hidden[0]
        return out @ WEIGHT[:L, : out.shape[-1]].T

    def jacobian(table):
        _, back = jax.vjp(hidden, table)
        return jax.vmap(lambda t: back(jax.nn.one_hot(t, L)[:, None] * jnp.ones((1, L)))[0])(jnp.arange(L))

    return np.abs(jax.jit(jacobian)(params(name)["embed"]["tokens"])).max(-1)[:, tokens[0]]


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_by_gradient(name):
    """d hidden[t] / d embedding of a later token is exactly 0, of its own and (without a window) earlier ones is not.

    Fails if the mask is >= the other way round, or sees one slot ahead.
    """
    found = reach(name)
    assert (found[np.triu_indices(L, 1)] == 0).all()
    assert (found[np.diag_indices(L)] > 0).all()
    if name not in WINDOWED:
        assert (found[np.tril_indices(L)] > 0).all()


@pytest.mark.parametrize("name", ENCODERS)
def test_sees_both_ways_by_gradient(name):
    """Every position's vector depends on every token of the row. Fails if an encoder's mask is causal."""
    assert (reach(name) > 0).all()


@parametrize
def test_padding_changes_nothing(name):
    """Padding on the left or right, whatever its tokens, leaves logits and gradients as they are, to 2e-5.

    Fails if keys of segment 0 are seen, or positions count slots.
    """
    f, p = jitted(name), params(name)
    right = f(p, batch_of([[ONE, 7], [TWO, 6]]), weights((0, 0, ONE), (1, 0, TWO)))
    other = f(p, batch_of([[ONE, 7], [TWO, 6]], fill=11), weights((0, 0, ONE), (1, 0, TWO)))
    left = f(p, batch_of([[7, ONE], [6, TWO]]), weights((0, 7, ONE), (1, 6, TWO)))
    close_padded(right, other, left)


@parametrize
def test_packed_is_unpacked(name):
    """Two documents in one row give each one's logits, and the sum of their gradients, to 2e-5.

    Fails if segments are not compared.
    """
    f, p = jitted(name), params(name)
    packed = f(p, batch_of([[ONE, TWO, 1], [12]]), weights((0, 0, ONE), (0, 5, TWO)))
    alone = f(p, batch_of([[ONE, 7], [TWO, 6]]), weights((0, 0, ONE), (1, 0, TWO)))
    close_packed(packed, alone)


def test_router_terms_see_documents_only():
    """Balance and z loss are those of the real tokens, packed, padded or alone, and by both ways of running the layers.

    Fails if load() counts padding. A config without coefficients has no terms.
    """
    aux = lambda batch, **changes: model("llama_moe", **changes).apply(params("llama_moe"), batch).aux
    packed = aux(batch_of([[ONE, TWO, 1], [12]]))
    assert set(packed) == {"router_balance", "router_z"} and packed["router_balance"].weight == len(ONE) + len(TWO)
    assert packed["router_balance"].value >= 0.5 * 2 * 0.99 and packed["router_z"].value > 0
    for other in (aux(batch_of([[ONE, 7], [6, TWO]])), aux(batch_of([[ONE, TWO, 1], [12]], fill=3), scan=False)):
        close({k: v.total for k, v in other.items()}, {k: v.total for k, v in packed.items()})
    assert aux(batch_of([[ONE, TWO, 1], [12]]), router_aux=0.0, router_z=0.0) == {}


def test_defaults_of_a_batch():
    """Without segments and positions: one document a row, counted from 0."""
    whole = {"tokens": jnp.arange(2 * L).reshape(2, L)}
    full = {**whole, "segments": jnp.ones((2, L), jnp.int32), "positions": jnp.tile(jnp.arange(L), (2, 1))}
    for name in ("gpt", "llama", "bert", "bert_all"):
        run = jax.jit(lambda b, name=name: model(name).apply(params(name), b).logits)
        close(run(whole), run(full))  # two programs: a mask of ones is not compiled away everywhere


@pytest.mark.parametrize("name", ENCODERS)
def test_heads_of_an_encoder(name):
    """Padding on either side changes no head; told what to predict, the masked head sees those positions only.

    Fails if the pooler takes slot 0 of a row that is padded on the left, or `predict` is taken of another row.
    """
    built = model(name)
    run = jax.jit(lambda batch: built.apply(params(name), batch))
    right, left = run(batch_of([[ONE, 7], [TWO, 6]])), run(batch_of([[7, ONE], [6, TWO]], fill=5))
    for what in right.head:
        if what == "discriminator":
            close(left.head[what][1, 6:], right.head[what][1, :6])
        else:
            close(left.head[what], right.head[what])
    assert set(right.head) == {"bert": {"pooled", "pair"}, "bert_all": {"pooled", "discriminator"}}.get(
        name, {"pooled", "pair"}
    )
    predict = jnp.asarray([[4, 0, 2], [1, 5, 5]])
    chosen = run({**batch_of([[ONE, 7], [TWO, 6]]), "predict": predict})
    assert chosen.hidden.shape == (2, 3, right.hidden.shape[-1])
    close(chosen.logits, np.take_along_axis(np.asarray(right.logits), predict[:, :, None], 1))
    bare = {"masked_head": False, "pooler": False, "pair_head": False, "discriminator": False}
    without = model(name, **bare)
    out = without.apply({k: v for k, v in params(name).items() if k in without.abstract}, batch_of([[ONE, 7], [TWO, 6]]))
    assert out.hidden.shape == (2, L, 24) and out.head == {}
    with pytest.raises(UserError, match="no head over the vocabulary"):
        out.logits


def test_sentence_types_and_counted_positions():
    """Types move the vectors; without positions, an encoder with an offset counts the tokens that are not padding."""
    batch = batch_of([[ONE, TWO, 1], [TWO, 6]])
    types = jnp.zeros((2, L), jnp.int32)
    run = jax.jit(lambda batch: model("bert").apply(params("bert"), batch).hidden)
    np.testing.assert_array_equal(run({**batch, "types": types}), run(batch))
    assert not np.allclose(run({**batch, "types": types.at[:, 3:].set(1)}), run(batch))
    left = batch_of([[7, ONE], [6, TWO]])
    counted = {k: v for k, v in left.items() if k != "positions"}
    run = lambda batch: model("bert_all").apply(params("bert_all"), batch).hidden[0, 7:]
    np.testing.assert_allclose(run(counted), run(left), atol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_does_not_generate(name):
    """Fails if a cache is taken and not used: the continuation would be of a model that saw one token."""
    with pytest.raises(UserError, match="generate with a decoder"):
        model(name).cache(1, 4)
    with pytest.raises(UserError, match="generate with a decoder"):
        model(name).apply(params(name), batch_of([[ONE, 7], [TWO, 6]]), cache=model("gpt").cache(2, L))


@pytest.mark.parametrize("name", CAUSAL)
def test_cached_is_uncached(name):
    """A prompt at once and then token by token gives the logits of the whole, to 2e-5, for rows of unequal length.

    The rows are padded on the left. Fails if slots are counted as positions, or an empty slot is seen.
    """
    built, p = model(name), params(name)
    batch = batch_of([[6, TWO], [7, ONE]])
    want = jitted(name)(p, batch, weights())[0]
    step = jax.jit(lambda p, b, cache: built.apply(p, b, cache=cache))
    part = lambda a, b: {k: v[:, a:b] for k, v in batch.items()}
    cache, got = built.cache(2, L + 3), []
    structure = jax.tree.map(lambda x: (x.shape, x.dtype), cache)
    for a, b in [(0, 9), *((i, i + 1) for i in range(9, L))]:
        out = step(p, part(a, b), cache)
        cache = out.cache
        got.append(out.logits)
        assert int(cache.get("index", b)) == b and jax.tree.map(lambda x: (x.shape, x.dtype), cache) == structure
    got = np.concatenate(got, 1)
    for row, n in ((0, 6), (1, 5)):
        close(got[row, -n:], want[row, -n:])
    if "positions" in cache:  # of slots, which a recurrent state has none of
        np.testing.assert_array_equal(cache["segments"][:, :L], batch["segments"])
        np.testing.assert_array_equal(cache["positions"][:, :L], batch["positions"])


@pytest.mark.parametrize("name", ["gpt", "llama_all", "bert", "albert"])
def test_scan_is_unrolled(name):
    """The same tree, and the same logits and gradients to 2e-5. Fails if a layer takes another's window or weights."""
    batch, weight = batch_of([[ONE, TWO, 1], [TWO, 6]]), weights((0, 0, ONE), (1, 0, TWO))
    outs = [jitted(name, scan=scan)(params(name), batch, weight) for scan in (True, False)]
    close(*outs)


@functools.cache
def remat_grads(remat, scan, rate=0.0):
    """Gradients under a policy, and whether anything is rematerialised."""
    built = model("llama", scan=scan, remat=remat, attention_dropout=rate, residual_dropout=rate)
    key, batch = jax.random.key(0, impl="rbg"), batch_of([[ONE, TWO, 1], [TWO, 6]])
    f = jax.grad(lambda p: jnp.sum(built.apply(p, batch, key=key).logits[0, : len(ONE)] * WEIGHT[: len(ONE)]))
    traced = jax.jit(f).trace(params("llama"))
    return traced.lower().compile()(params("llama")), "prevent_cse" in str(traced.jaxpr)


@pytest.mark.parametrize(
    "remat,scan,rate", [*((r, True, 0.0) for r in REMAT if r != "none"), ("full", False, 0.0), ("full", True, 0.2)]
)
def test_remat_changes_nothing(remat, scan, rate):
    """Fails if a policy drops a gradient, or dropout is drawn anew in the second pass."""
    grads, again = remat_grads(remat, scan, rate)
    plain, once = remat_grads("none", True, rate)
    close(grads, plain)
    assert again and not once


@pytest.mark.parametrize("field", ["embed_dropout", "attention_dropout", "residual_dropout"])
@pytest.mark.parametrize("name", ["gpt", "llama", "bert", "albert"])
def test_dropout(name, field):
    """Each rate acts with a key only, alike for one key and otherwise for another. Fails if a rate is not passed on."""
    built, batch = model(name, **{field: 0.5}), batch_of([[ONE, TWO, 1], [TWO, 6]])
    f = jax.jit(lambda key: built.apply(params(name), batch, key=key).logits)
    one, again, other = (f(jax.random.key(i, impl="rbg")) for i in (0, 0, 1))
    without = built.apply(params(name), batch).logits
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other) and not np.allclose(one, without)
    np.testing.assert_array_equal(without, model(name).apply(params(name), batch).logits)


@pytest.mark.parametrize("field", ["embed_dropout", "layer_dropout", "output_dropout", "word_dropout", "weight_dropout"])
@pytest.mark.parametrize("locked", [False, True])
def test_recurrent_dropout(field, locked):
    """As above; and with `locked`, what is dropped at one position of a row is dropped at all. Fails if `shared` is left out."""
    built, batch = model("lstm", **{field: 0.5, "locked": locked}), batch_of([[ONE, TWO, 1], [TWO, 6]])
    f = jax.jit(lambda key: built.apply(params("lstm"), batch, key=key).hidden)
    one, again, other = (f(jax.random.key(i, impl="rbg")) for i in (0, 0, 1))
    without = built.apply(params("lstm"), batch).hidden
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other) and not np.allclose(one, without)
    if field == "output_dropout":
        dropped = np.asarray(one == 0)
        assert 0.3 < dropped.mean() < 0.7 and (dropped == dropped[:, :1]).all() == locked
    if field == "word_dropout":  # a row begins as the other, where its first word is kept
        np.testing.assert_array_equal(np.all(one[0, 5:11] == one[1, :6]), True)


@pytest.mark.parametrize("name", ["gpt", "llama_all", "bert"])
def test_bfloat16_compute(name):
    """Parameters stay float32, activations and cache are bfloat16, logits float32 and within 5 % of the largest."""
    built = model(name, dtype="bfloat16")
    out = jax.jit(built.apply)(params(name), batch_of([[ONE, TWO, 1], [TWO, 6]]))
    assert out.hidden.dtype == jnp.bfloat16 and out.logits.dtype == jnp.float32
    assert name in ENCODERS or built.cache(1, 4)["k"].dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(built.abstract)} == {jnp.dtype("float32")}
    want = jitted(name)(params(name), batch_of([[ONE, TWO, 1], [TWO, 6]]), weights())[0]
    close(out.logits[0, :11], want[0, :11], 0.05)


def test_beyond_a_table_is_nan():
    """A token or learned position outside its table shows at once, where jax would take the last row."""
    batch = batch_of([[ONE, TWO, 1], [TWO, 6]])
    for name, field, value in (("gpt", "tokens", V), ("gpt", "positions", 16), ("bert_all", "positions", 14), ("bert", "types", 2)):
        given = {"types": jnp.zeros((2, L), jnp.int32), **batch}
        out = model(name).apply(params(name), {**given, field: given[field].at[0, 0].set(value)})
        assert np.isnan(out.hidden[0, 0]).all() and np.isfinite(out.hidden[1]).all()


@pytest.mark.parametrize(
    "module,changes,words",
    [
        (gpt, {}, ["vocab_size is 0"]),
        (
            gpt,
            dict(vocab_size=V, embed=25, heads=4, activation="gelo", remat="ful", residual_dropout=1.0),
            ["multiple of heads=4", "did you mean 'gelu'", "remat is 'ful'", "residual_dropout"],
        ),
        (gpt, dict(vocab_size=V, layers=0, positions="rope"), ["layers is 0", "positions is 'rope'"]),
        (llama, dict(vocab_size=V, heads=6, kv_heads=4, head_dim=7), ["multiple of kv_heads", "even"]),
        (
            llama,
            dict(vocab_size=V, window_pattern="LX", rope_scaling="llama3"),
            ["window_pattern", "rope_original_len"],
        ),
        (
            llama,
            dict(vocab_size=V, experts=2, experts_per_token=3, mlp_bias=True, router_aux=-1.0),
            ["from 1 to experts=2", "experts have no bias", "router_aux is -1.0"],
        ),
        (lstm, dict(vocab_size=V, cell="lstn", hidden=-1, word_dropout=1.0), ["did you mean 'lstm'", "hidden is -1", "word_dropout"]),
        (bert, dict(vocab_size=V, heads=7, types=-1, pooler=False), ["multiple of heads", "types is -1", "pooler is false"]),
        (
            transformer,
            dict(vocab_size=V, heads=7, decoder_heads=5, decoder_layers=-1, position_offset=2, order="sandwich", mlp_dropout=1.0),
            ["multiple of heads", "multiple of decoder_heads", "decoder_layers is -1", "set it to 0", "order is 'sandwich'", "mlp_dropout"],
        ),
        (t5, dict(vocab_size=V, buckets=30, max_distance=15, head_dim=0), ["multiple of 4", "above buckets / 2 = 15", "head_dim is 0"]),
    ],
)
def test_bad_configs_name_every_problem(module, changes, words):
    with pytest.raises(UserError) as error:
        module.build(module.Config(**changes))
    assert all(word in str(error.value) for word in words), error.value

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Decoding: the cache, batches, pieces, limits and meshes change nothing but the speed."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.generate.batch import bucket
from jaxlm.generate.beam import Beams
from jaxlm.generate.decode import Decoder
from jaxlm.generate.score import Scorer
from jaxlm.generate.settings import Config
from jaxlm.models import bert, gpt, llama, lstm
from jaxlm.parallel import mesh, place, rules

EOT, VOCAB = 0, 29
PROMPTS = [[0, 3, 4], [0, 9], [0, 5, 6, 7, 8, 21, 22, 1, 2], [0, 11, 3, 3, 3]]
GREEDY = Config(max_new_tokens=12, temperature=0.0, stop_at_eot=False, chunk=5)
TENSOR = dict(data=2, fsdp=2, tensor=2)
SAMPLED = dataclasses.replace(GREEDY, temperature=1.3, top_k=20, top_p=0.95, seed=5)


@pytest.fixture(scope="module")
def decoder(plain):
    return Decoder(plain[0], EOT, VOCAB, max_len=64)


@pytest.fixture
def compiled():
    """A list that grows by one with every program compiled."""
    seen = []
    listen = lambda event, *_, **__: seen.append(event) if event.endswith("backend_compile_duration") else None
    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


def full_forward(forward, params, prompt, n, length=24):
    """Greedy ids and log-probabilities by a whole forward pass for every token, without a cache."""
    ids, logprobs = list(prompt), []
    for _ in range(n):
        batch = {"tokens": np.zeros((1, length), np.int32), "segments": np.zeros((1, length), np.int32),
                 "positions": np.arange(length, dtype=np.int32)[None]}
        batch["tokens"][0, :len(ids)], batch["segments"][0, :len(ids)] = ids, 1
        logits = np.asarray(forward(params, batch), np.float64)[0, len(ids) - 1]
        ids.append(int(np.argmax(logits[:VOCAB])))
        logprobs.append(logits[ids[-1]] - np.log(np.exp(logits).sum()))
    return ids[len(prompt):], logprobs


def joined(pieces):
    pieces = list(pieces)
    rows = range(len(pieces[0].counts))
    take = lambda name, row: np.concatenate([getattr(p, name)[row, :p.counts[row]] for p in pieces]).tolist()
    return [take("tokens", row) for row in rows], [take("logprobs", row) for row in rows], pieces


def test_cached_greedy_is_the_full_forward(plain, decoder):
    """Fails if a new token takes the last position again (`position=now.position`), or if padding is segment 1."""
    got = decoder.run(plain[1], PROMPTS, GREEDY)
    forward = jax.jit(lambda p, b: plain[0].apply(p, b).logits)
    for row, prompt in enumerate(PROMPTS):
        ids, logprobs = full_forward(forward, plain[1], prompt, 12)
        assert got.tokens[row].tolist() == ids
        np.testing.assert_allclose(got.logprobs[row], logprobs, atol=1e-4)
    assert len({tuple(row) for row in got.tokens.tolist()}) == len(PROMPTS)


def test_a_batch_is_each_prompt_alone(plain, decoder):
    """Fails if padding on the left is segment 1 (alone, there is less of it), or if a row is named by its place."""
    together = decoder.run(plain[1], PROMPTS, SAMPLED)
    config = dataclasses.replace(SAMPLED, prompt_bucket=8)
    assert together.lengths.tolist() == [12] * 4
    for row, prompt in enumerate(PROMPTS):
        alone = decoder.run(plain[1], [prompt], config, rows=[row])
        assert alone.tokens[0].tolist() == together.tokens[row].tolist()
        np.testing.assert_allclose(alone.logprobs[0], together.logprobs[row], atol=1e-4)


FAMILIES = {
    "gpt": gpt.Config(vocab_size=32, max_len=32, layers=2, heads=2, embed=16, init_std=0.5),
    "llama": llama.Config(vocab_size=32, max_len=32, layers=2, heads=4, kv_heads=2, embed=16, mlp=24, init_std=0.5),
    "lstm": lstm.Config(vocab_size=32, layers=2, embed=16, hidden=24, init_std=0.5),
}
MODULES = {"gpt": gpt, "llama": llama, "lstm": lstm}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_families_decode_as_they_compute(name, compiled):
    """Fails if a model masks cached keys by position instead of slot (`q_index=positions[0]` in layers/cache.py), or if
    progress is laid out as each program likes (`placed = None`)."""
    model = MODULES[name].build(FAMILIES[name])
    params = jax.jit(model.init)(jax.random.key(2))
    got = Decoder(model, EOT, VOCAB, max_len=32).run(params, PROMPTS, GREEDY)
    forward = jax.jit(lambda p, b: model.apply(p, b).logits)
    for row, prompt in enumerate(PROMPTS):
        ids, logprobs = full_forward(forward, params, prompt, 12)
        assert got.tokens[row].tolist() == ids
        np.testing.assert_allclose(got.logprobs[row], logprobs, atol=1e-4)
    layout = place.Layout(mesh.make(mesh.Config(**TENSOR)), rules.find("fsdp_tp"))
    params = jax.device_put(params, place.shardings(model.axes(), layout, params))
    split = Decoder(model, EOT, VOCAB, max_len=32, layout=layout)
    assert split.run(params, PROMPTS, GREEDY).tokens.tolist() == got.tokens.tolist()
    # The cache that a piece leaves is laid out as the one that it took: nothing is compiled for it.
    compiled.clear()
    assert joined(split.stream(params, PROMPTS, GREEDY))[0] == got.tokens.tolist() and not compiled


def test_sampling_follows_seed_and_row(plain, decoder):
    """Fails if rows share their random numbers, or if the seed is not used."""
    twice = decoder.run(plain[1], [PROMPTS[0]] * 4, SAMPLED)
    assert twice.tokens[0].tolist() != twice.tokens[1].tolist()
    other = decoder.run(plain[1], [PROMPTS[0]] * 4, dataclasses.replace(SAMPLED, seed=6))
    assert other.tokens.tolist() != twice.tokens.tolist()
    assert decoder.run(plain[1], [PROMPTS[0]] * 4, SAMPLED).tokens.tolist() == twice.tokens.tolist()
    assert twice.tokens.max() < VOCAB


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_pieces_are_the_whole(plain, decoder, chunk):
    """Fails if a piece starts where the one before it did (`now, shown = ahead, shown`)."""
    config = dataclasses.replace(SAMPLED, chunk=chunk)
    whole = decoder.run(plain[1], PROMPTS, config)
    tokens, logprobs, pieces = joined(decoder.stream(plain[1], PROMPTS, config))
    assert tokens == whole.tokens.tolist() and logprobs == whole.logprobs.tolist()
    assert [p.counts.max() for p in pieces] == {1: [1] * 12, 5: [1, 5, 5, 1], 100: [1, 11]}[chunk]


def test_rows_stop_at_eot(plain, decoder):
    """Fails if a row that has ended goes on drawing (`token = chosen`)."""
    free = decoder.run(plain[1], PROMPTS, SAMPLED)
    # Take the token that one row says early as the end: that row stops there, others where they say it or never.
    eot = int(free.tokens[1, 3])
    stopping = Decoder(plain[0], eot, VOCAB)
    config = dataclasses.replace(SAMPLED, stop_at_eot=True)
    got = stopping.run(plain[1], PROMPTS, config)
    for row in range(len(PROMPTS)):
        said = free.tokens[row].tolist()
        n = said.index(eot) + 1 if eot in said else 12
        assert got.lengths[row] == n and got.ended[row] == (eot in said)
        assert got.tokens[row].tolist() == said[:n] + [eot] * (12 - n)
        np.testing.assert_allclose(got.logprobs[row, :n], free.logprobs[row, :n], atol=1e-5)
        assert (got.logprobs[row, n:] == 0).all()
    tokens, _, _ = joined(stopping.stream(plain[1], PROMPTS, config))
    assert tokens == [row[:n].tolist() for row, n in zip(got.tokens, got.lengths, strict=True)]


def test_the_loop_stops_when_all_rows_have(recite, bytes_tokenizer):
    """Fails if `wanted` does not ask for a living row: the index would run to the limit."""
    model, params = recite([[], [72, 105]])
    decoder = Decoder(model, 256, 257)
    # So does streaming: no piece comes after the last end, however far the limit is.
    pieces = list(decoder.stream(params, [[256, 0], [256, 1]], Config(max_new_tokens=40, temperature=0.0, chunk=2)))
    assert [p.counts.tolist() for p in pieces] == [[1, 1], [0, 2]]
    cache, now, advance = decoder._start(params, [[256, 0], [256, 1]], Config(max_new_tokens=40, temperature=0.0), ())
    _, now = advance(cache, now, 40)
    assert int(now.index) == 3 and now.lengths.tolist() == [1, 3]


@pytest.mark.parametrize("name, sizes, rows, held", [
    ("dp", dict(data=4, fsdp=2), 8, 1), ("tp", dict(data=1, fsdp=2, tensor=4), 4, 2), ("fsdp_tp", TENSOR, 3, 3)])
def test_a_mesh_changes_nothing(plain, decoder, name, sizes, rows, held):
    """Fails if rows are never split (`if False` for `if split`), or are where they do not divide (3 over 4)."""
    model, params = plain
    prompts = (PROMPTS * 2)[:rows]
    expected = [decoder.run(params, half, SAMPLED, rows=range(at, at + 4)) for at, half in ((0, PROMPTS), (4, PROMPTS))]
    tokens, logprobs = (np.concatenate([getattr(x, name) for x in expected])[:rows] for name in ("tokens", "logprobs"))
    layout = place.Layout(mesh.make(mesh.Config(**sizes)), rules.find(name))
    params = jax.device_put(params, place.shardings(model.axes(), layout, params))
    if "tp" in name:
        assert not params["q"].sharding.is_fully_replicated
    with place.use(layout):
        inside = Decoder(model, EOT, VOCAB)
    got = inside.run(params, prompts, SAMPLED)
    assert got.tokens.tolist() == tokens.tolist()
    np.testing.assert_allclose(got.logprobs, logprobs, atol=1e-4)
    # Under the same rules in force, in pieces.
    with place.use(layout):
        again, _, _ = joined(inside.stream(params, prompts, SAMPLED))
    assert again == tokens.tolist()
    cache, _, _ = inside._start(params, prompts, SAMPLED, ())
    assert ("batch" in inside._programs.get(rows)[0].rules.acts) == (held < rows)
    assert cache["k"].sharding.shard_shape(cache["k"].shape)[1] == held


@pytest.mark.parametrize("sharded", [False, True])
def test_one_compilation_for_a_bucket(fresh, compiled, sharded):
    """Fails if the prompt is padded to its own length, or if there is room for just the new tokens."""
    model = fresh()
    params, layout = model.init(jax.random.key(0)), None
    if sharded:
        layout = place.Layout(mesh.make(mesh.Config(**TENSOR)), rules.find("fsdp_tp"))
        params = jax.device_put(params, place.shardings(model.axes(), layout, params))
    decoder = Decoder(model, EOT, VOCAB, max_len=64, layout=layout)
    compiled.clear()
    config = dataclasses.replace(SAMPLED, prompt_bucket=8, max_new_tokens=16)
    decoder.run(params, [[1]], config)
    assert len(compiled) == model.traces == 2  # the prefill and the loop
    for n in (2, 5, 8):
        decoder.run(params, [[1] * n], config)
        list(decoder.stream(params, [[2] * n], dataclasses.replace(config, seed=n, chunk=3, max_new_tokens=10)))
    assert len(compiled) == 2 == model.traces
    if not sharded:
        decoder.run(params, [[1] * 9], config)
        assert len(compiled) == 4


def test_the_cache_is_updated_in_place(plain, decoder):
    """Fails without `donate_argnums`."""
    cache, now, advance = decoder._start(plain[1], PROMPTS, GREEDY, ())
    after, later = advance(cache, now, 4)
    assert cache["k"].is_deleted() and not after["k"].is_deleted()
    assert int(now.index) == 1 and int(later.index) == 4


def test_the_host_transfers_only_what_it_says(plain, decoder):
    with jax.transfer_guard("disallow"):
        decoder.run(plain[1], PROMPTS, GREEDY)
        list(decoder.stream(plain[1], PROMPTS, GREEDY))


def test_an_empty_prompt_starts_from_eot(plain, decoder):
    got = decoder.run(plain[1], [[], [EOT], [1], [2]], GREEDY)
    assert got.tokens[0].tolist() == got.tokens[1].tolist()


def test_limits_and_settings_are_checked(plain, decoder):
    fits = [1] * 52
    assert decoder.run(plain[1], [fits], GREEDY).lengths.tolist() == [12]  # 52 + 12 = 64: the bucket gives way
    with pytest.raises(UserError, match="prompt 1 has 53 tokens .*_tokens is 12: .* 65, .* 64 positions .* 11 or less"):
        decoder.run(plain[1], [[1], fits + [1]], GREEDY)
    with pytest.raises(UserError, match="Shorten the prompt to 63"):
        decoder.run(plain[1], [[1] * 64], GREEDY)
    with pytest.raises(UserError, match="the id 29, outside the 29 ids"):
        decoder.run(plain[1], [[1, 29]], GREEDY)
    with pytest.raises(UserError, match="no prompts"):
        decoder.run(plain[1], [], GREEDY)
    with pytest.raises(UserError, match="flat sequence of token ids"):
        decoder.run(plain[1], [[0.5]], GREEDY)
    with pytest.raises(UserError, match="tokenizer has 40 ids and the model 32"):
        Decoder(plain[0], EOT, 40).run(plain[1], [[1]], GREEDY)
    with pytest.raises(UserError, match="end-of-text id 50"):
        Decoder(plain[0], 50, 40)
    with pytest.raises(ValueError, match="1 prompts and 2 row names"):
        decoder.run(plain[1], [[1]], GREEDY, rows=[0, 1])
    with pytest.raises(UserError, match="temperature is -1"):
        decoder.run(plain[1], [[1]], Config(temperature=-1.0))
    bad = Config(max_new_tokens=0, temperature=float("nan"), top_k=-1, top_p=0.0, seed=-1, prompt_bucket=0, chunk=0,
                 batch=0)
    assert len(bad.problems()) == 8 and Config().problems() == []
    layout = place.Layout(mesh.make(mesh.Config()), rules.find("dp"))
    with place.use(layout), pytest.raises(ValueError, match="another layout is in force"):
        decoder.run(plain[1], [[1]], GREEDY)


def test_an_encoder_cannot_continue():
    """Fails if an encoder gives a cache: it would continue text by looking ahead."""
    model = bert.build(bert.Config(vocab_size=32, max_len=32, layers=1, heads=2, embed=16))
    params = jax.jit(model.init)(jax.random.key(0))
    for kind in (Decoder, Beams):
        with pytest.raises(UserError, match="bert|encoder"):
            kind(model, EOT, VOCAB)
    with pytest.raises(UserError, match="bert|encoder"):
        Scorer(model, EOT, VOCAB).run(params, [[1, 2]], GREEDY)


def test_logits_that_are_not_finite_are_an_error(plain, decoder):
    """Fails if nothing looks: argmax over NaN answers with an id."""
    broken = dict(plain[1], up=plain[1]["up"] * jnp.nan)
    with pytest.raises(UserError, match="row 0 are not finite"):
        decoder.run(broken, PROMPTS, GREEDY)


def test_buckets():
    assert [bucket(n, 16) for n in (1, 16, 17, 33, 64, 65)] == [16, 16, 32, 64, 64, 128]

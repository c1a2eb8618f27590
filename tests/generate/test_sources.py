# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Encoder-decoders: whatever is padded, cached, cut in pieces or split over devices, a source has the targets that it has alone."""
import dataclasses

import jax
import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.data.tokenizers import byte
from jaxlm.generate import score
from jaxlm.generate.beam import Beams
from jaxlm.generate.decode import Decoder
from jaxlm.generate.settings import Config
from jaxlm.generate.text import generate
from jaxlm.models import gpt, t5, transformer
from jaxlm.parallel import mesh, place, rules
from tests.generate.test_decode import TENSOR, VOCAB, compiled, joined  # noqa: F401 (a fixture)

EOT, START, SAID, NEW = 0, 2, 5, 10  # some targets say SAID early: as eot it ends them
SMALL = dict(vocab_size=32, max_len=32, layers=2, decoder_layers=1, heads=4, embed=16, head_dim=4, mlp=24, tie_embeddings=False)
MODELS = {"transformer": transformer, "t5": t5}
SOURCES = [[3, 4, 9], [9], [5, 6, 7, 8, 21, 22, 1, 3, 11, 12, 13, 14, 15, 16, 17, 18, 19], [11, 3, 3, 3]]
BEGUN = [[START, 7], [START], [START, 5, 6, 3, 1], [START, 8]]
# No token comes twice, or the most probable text of random weights is one token all along.
GREEDY = Config(max_new_tokens=NEW, temperature=0.0, stop_at_eot=False, chunk=3, no_repeat_ngram=1)
SAMPLED = dataclasses.replace(GREEDY, temperature=1.3, top_k=20, top_p=0.95, seed=5)
BEAMS = dataclasses.replace(GREEDY, beams=3, n_best=3, stop_at_eot=True)


def made(name, seed=2, **changes):
    """(model, params) of which every parameter is large enough that all of a source moves the logits."""
    declared = MODELS[name].Config()
    model = MODELS[name].build(dataclasses.replace(declared, **{k: v for k, v in SMALL.items() if hasattr(declared, k)} | changes))
    params = jax.jit(model.init)(jax.random.key(seed))
    leaves, tree = jax.tree.flatten(params)
    draw = np.random.default_rng(seed)
    return model, jax.tree.unflatten(tree, [jax.numpy.asarray(x + 0.5 * draw.normal(size=x.shape).astype(np.float32)) for x in leaves])


@pytest.fixture(scope="module", params=MODELS)
def pair(request):
    model, params = made(request.param)
    return model, params, jax.jit(lambda p, b: jax.nn.log_softmax(model.apply(p, b).logits, axis=-1))


def decoder(model, **more):
    return Decoder(model, EOT, VOCAB, max_len=32, start=START, source_len=32, **more)


def after(forward, params, source, target, width=24):
    """Log-probabilities [n, V] after each token of one target, of one source, by the whole forward pass without a cache."""
    at, size = np.arange(width, dtype=np.int32)[None], len(target)
    row = lambda ids: np.pad(np.array(ids, np.int32), (0, width - len(ids)))[None]
    batch = {"tokens": row(target), "segments": (at < size).astype(np.int32), "positions": at, "source_tokens": row(source),
             "source_segments": (at < len(source)).astype(np.int32), "source_positions": at}
    return np.array(forward(params, batch))[0, :size]


@pytest.mark.parametrize("begun", [(), BEGUN], ids=["fresh", "begun"])
def test_greedy_is_the_full_forward(pair, begun):
    """A batch of unequal sources, each alone and uncached. Fails if the padding of a source is read (`np.zeros_like` of its
    segments are ones), or if a target does not begin with `start`."""
    model, params, forward = pair
    got = decoder(model).run(params, begun, GREEDY, sources=SOURCES)
    for row, source in enumerate(SOURCES):
        ids = list(begun[row] if begun else [START])
        first = len(ids)
        for _ in range(NEW):
            left = after(forward, params, source, ids)[-1, :VOCAB]
            left[ids] = -np.inf
            ids.append(int(np.argmax(left)))
        assert got.tokens[row].tolist() == ids[first:]
        said = after(forward, params, source, ids)
        np.testing.assert_allclose(got.logprobs[row], [said[i - 1, ids[i]] for i in range(first, len(ids))], atol=1e-4)
    assert len({tuple(row) for row in got.tokens.tolist()}) == len(SOURCES), "sources that change nothing test nothing"


def test_pieces_meshes_and_neighbours_change_nothing(pair, compiled):  # noqa: F811
    """Fails if a row is named by its place (np.arange for `rows` in Decoder._start), or if a program is compiled for sources of a
    like length (no `bucket` in Limits.batch). Rows of a source are split by the model's own activations: that prefill splits the
    batch changes nothing here."""
    model, params, _ = pair
    one = decoder(model)
    whole = one.run(params, (), SAMPLED, sources=SOURCES)
    tokens, logprobs, pieces = joined(one.stream(params, (), SAMPLED, sources=SOURCES))
    assert tokens == whole.tokens.tolist() and logprobs == whole.logprobs.tolist() and len(pieces) == 4
    for row in (0, 2):
        alone = one.run(params, (), SAMPLED, rows=[row], sources=[SOURCES[row]])
        assert alone.tokens[0].tolist() == whole.tokens[row].tolist()
    compiled.clear()
    one.run(params, [[START, 4]] * 4, SAMPLED, sources=[s + [1] * 5 for s in SOURCES])
    assert not compiled
    layout = place.Layout(mesh.make(mesh.Config(**TENSOR)), rules.find("fsdp_tp"))
    laid = jax.device_put(params, place.shardings(model.axes(), layout, params))
    split = decoder(model, layout=layout)
    assert split.run(laid, (), SAMPLED, sources=SOURCES).tokens.tolist() == tokens
    cache, _, _ = split._start(laid, (), SAMPLED, (), sources=SOURCES)
    assert cache["source"]["k"].sharding.shard_shape(cache["source"]["k"].shape)[1] == 1


def test_beams(pair):
    """A batch is each source alone, scores are those of the full forward, a mesh changes nothing. Fails if a beam reads the
    source of another row, or if the source is not repeated for every beam."""
    model, params, forward = pair
    beams = lambda **more: Beams(model, SAID, VOCAB, max_len=32, start=START, source_len=32, **more)
    found = beams().run(params, (), BEAMS, sources=SOURCES)
    assert found.ended.any() and len(set(found.lengths.ravel().tolist())) > 1
    for row, source in enumerate(SOURCES):
        for n in range(3):
            said = found.tokens[row, n, : found.lengths[row, n]].tolist()
            logprobs = after(forward, params, source, [START, *said])
            expected = sum(logprobs[i, token] for i, token in enumerate(said)) / len(said)
            np.testing.assert_allclose(found.scores[row, n], expected, atol=1e-4)
    alone = beams().run(params, (), BEAMS, sources=SOURCES[2:3])
    assert alone.tokens[0].tolist() == found.tokens[2].tolist()
    layout = place.Layout(mesh.make(mesh.Config(**TENSOR)), rules.find("fsdp_tp"))
    laid = jax.device_put(params, place.shardings(model.axes(), layout, params))
    assert beams(layout=layout).run(laid, (), BEAMS, sources=SOURCES).tokens.tolist() == found.tokens.tolist()


def test_given_targets(pair):
    """Fails if targets are scored under each other's sources (`sources` of the first batch for all)."""
    model, params, forward = pair
    targets = [[START, 3, 4, 5], [START, 9], [START, 1, 1, 1, 1, 8], [START, 20, 21]]
    scorer = score.Scorer(model, EOT, VOCAB, max_len=32, start=START, source_len=32)
    rows = scorer.run(params, targets, Config(batch=2), sources=SOURCES)
    for row, source, target in zip(rows, SOURCES, targets, strict=True):
        logprobs = after(forward, params, source, target)
        np.testing.assert_allclose(row, [logprobs[i, token] for i, token in enumerate(target[1:])], atol=1e-4)


def test_a_draft_that_reads_the_source(pair):
    """An encoder-decoder writes ahead for another; what comes is the model's own. Fails if the draft reads no source."""
    model, params, _ = pair
    small, others = made("transformer", 3, layers=1)
    expected = decoder(model).run(params, (), GREEDY, sources=SOURCES)
    for draft, weights in ((small, others), (model, params)):
        got = decoder(model, draft=draft).run((params, weights), (), GREEDY, sources=SOURCES)
        assert got.tokens.tolist() == expected.tokens.tolist()
    assert got.rounds.sum() < expected.rounds.sum()  # it agrees with itself


def test_what_does_not_fit(pair):
    model, params, _ = pair
    one, text = decoder(model), gpt.build(gpt.Config(vocab_size=32, max_len=32, layers=1, heads=2, embed=16))
    run = lambda prompts=(), sources=SOURCES, of=one: of.run(params, prompts, GREEDY, sources=sources)
    with pytest.raises(UserError, match="reads a source .* give sources"):
        run([[START]], ())
    with pytest.raises(UserError, match="source 1 is empty"):
        run(sources=[[1], []])
    with pytest.raises(UserError, match="4 sources and 1 prompts"):
        run([[START]])
    with pytest.raises(UserError, match="source 0 has 33 tokens .* 32 positions .* for a source"):
        run(sources=[[1] * 33])
    with pytest.raises(UserError, match=r"prompt 0 has 23 tokens \(start of the target included\) .* 33"):
        run([[START] * 23], [[1]])
    with pytest.raises(UserError, match="source 0 has the id 29, outside the 29 ids"):
        run(sources=[[29]])
    with pytest.raises(UserError, match="that a target begins with, 40"):
        Decoder(model, EOT, VOCAB, start=40)
    # Each kind of model says itself what it cannot be given.
    for wrong in (lambda: Decoder(model, EOT, VOCAB), lambda: decoder(text), lambda: decoder(model, draft=text),
                  lambda: Beams(text, EOT, VOCAB, start=START), lambda: score.Scorer(model, EOT, VOCAB)):
        with pytest.raises(UserError, match="source"):
            wrong()
    with pytest.raises(UserError, match="reads no source"):
        run(of=Decoder(text, EOT, VOCAB))


def test_texts():
    """Text in, text out, in the order given though short sources go first, batch by batch. Fails if results keep the order of
    decoding, if a source is read without its end, or if n_best results are not each with its source."""
    tokenizer = byte.build(byte.Config())
    model, params = made("transformer", vocab_size=260)
    texts, done, pieces = ["a long source", "x", "two words", "yy"], [], {}
    config = dataclasses.replace(SAMPLED, batch=2, max_new_tokens=6)
    out = generate(model, params, tokenizer, config=config, sources=texts, max_len=32, source_len=32, on_done=done.append)
    assert [r.source for r in out] == texts and done == [2, 2] and {r.prompt for r in out} == {""}
    one = Decoder(model, tokenizer.eot, 257, max_len=32, start=tokenizer.vocabulary.start, source_len=32)
    ids = one.run(params, (), config, sources=[[*text.encode(), tokenizer.eot] for text in texts])
    assert [r.tokens.tolist() for r in out] == ids.tokens.tolist()
    shown = generate(None, params, tokenizer, ["A"] * 4, config, lambda i, piece: pieces.setdefault(i, []).append(piece), sources=texts, decoder=one)
    assert ["".join(pieces.get(i, [])) for i in range(4)] == [r.text for r in shown] and shown[0].logprobs.tolist() != out[0].logprobs.tolist()
    beams = dataclasses.replace(config, temperature=0.0, top_k=0, top_p=1.0, beams=2, n_best=2)
    best = generate(model, params, tokenizer, config=beams, sources=texts, max_len=32)
    assert [r.source for r in best] == [text for text in texts for _ in range(2)] and best[0].score >= best[1].score
    with pytest.raises(UserError, match="source 1 is empty"):
        generate(model, params, tokenizer, config=config, sources=["a", ""])
    with pytest.raises(TypeError, match="list of strings"):
        generate(model, params, tokenizer, config=config, sources="a")
    scorer = score.Scorer(model, tokenizer.eot, 257, max_len=32, start=tokenizer.vocabulary.start)
    found = score.choose(scorer, params, tokenizer, (), ["ja", "nein"], config, sources=texts[:2])
    for text, row in zip(texts, found, strict=False):
        for choice in row:
            [alone] = score.score(scorer, params, tokenizer, [choice.text], config, sources=[text])
            assert abs(alone.logprob - choice.logprob) < 1e-4 and len(alone.tokens) == len(choice.text)

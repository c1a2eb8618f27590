# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Greedy and beam search give the tokens that transformers gives; a batch is each alone; a mesh changes nothing."""
import dataclasses
import importlib
import importlib.util

import jax
import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.generate import decode
from jaxlm.generate.beam import Beams
from jaxlm.generate.decode import Decoder
from jaxlm.generate.settings import Config
from jaxlm.models import lstm
from jaxlm.parallel import mesh, place, rules
from tests.generate.test_decode import EOT, FAMILIES, PROMPTS, SAMPLED, TENSOR, VOCAB
from tests.reference.test_reference import HERE as REFERENCES
from tests.reference.test_reference import model_of, stored, to_params

HERE = REFERENCES.parent / "generate"
NEW = 12  # as in make_references
BASE = Config(max_new_tokens=NEW, temperature=0.0, batch=50)
BAD = ((5,), (7, 9), (11, 2, 4))
# The settings of make_references, in our words.
SEARCHES = {
    "greedy": BASE,
    "greedy_penalties": dataclasses.replace(BASE, repetition_penalty=1.4, no_repeat_ngram=2, bad_words=("given as ids",), min_new_tokens=4),
    "beam4": dataclasses.replace(BASE, beams=4, n_best=4),
    "beam4_early": dataclasses.replace(BASE, beams=4, n_best=2, early_stopping="true", length_penalty=0.6),
    "beam4_never": dataclasses.replace(BASE, beams=4, n_best=2, early_stopping="never", length_penalty=2.0),
    "beam3_penalties": dataclasses.replace(BASE, beams=3, n_best=3, repetition_penalty=1.3, no_repeat_ngram=3, min_new_tokens=3),
    "beam4_forced": dataclasses.replace(BASE, beams=4, n_best=2, forced_bos=7, length_penalty=2.0),
}
START = 2  # also as there
# bart and the decoders make every search; of these two the ones that differ by model. -m slow makes them all.
SOME = {"t5": ("greedy", "beam4"), "marian": ("greedy", "beam4", "beam4_forced")}


def prompts(seed):
    rng = np.random.default_rng(seed)
    return [rng.integers(4, 37, rng.integers(1, 16)) for _ in range(50)]


def ours(case, seed, end, searches):
    """As make_references.generated, for texts that end at the id `end`."""
    hf, model, tensors = model_of(case)
    params = jax.device_put(to_params(hf, tensors, model))
    reads = hf.get("is_encoder_decoder", False)
    limits = dict(eot=end, vocab=37, max_len=40) | (dict(start=START, source_len=40) if reads else {})
    given = dict(prompts=(), sources=prompts(seed)) if reads else dict(prompts=prompts(seed))
    decoder, beams, out = Decoder(model, **limits), Beams(model, **limits), {}
    for search in searches:
        config = SEARCHES[search]
        bad = BAD if config.bad_words else ()
        if config.beams == 1:
            out[search] = decoder.run(params, config=config, bad_words=bad, **given).tokens
        else:
            found = beams.run(params, config=config, bad_words=bad, **given)
            out[search] = found.tokens.reshape(-1, NEW)
            out[search + "/scores"] = found.scores.reshape(-1)
    return out


def same(got, expected):
    assert got.keys() == expected.keys()
    for search, value in expected.items():
        if search.endswith("scores"):
            np.testing.assert_allclose(got[search], value, atol=1e-4, rtol=1e-4)
        else:
            differ = [row for row in range(len(value)) if got[search][row].tolist() != value[row].tolist()]
            assert not differ, f"{search}: rows {differ}"


with np.load(HERE / "references.npz") as file:
    NAMES = sorted({key.partition("/")[0] for key in file.files} - {"filters"})


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_those_of_transformers(name):
    """50 prompts of 1 to 15 tokens, padded on the left, or sources, greedy and beams. Fails if a beam keeps its old cache
    (`take` returns its cache), or if the length penalty counts from 0 (`now.index` for `count`)."""
    with np.load(HERE / "references.npz") as file:
        expected = {key.partition("/")[2]: file[key] for key in file.files if key.startswith(name + "/")}
    end = int(expected.pop("end"))
    searches = [search for search in SEARCHES if search in expected and search in SOME.get(name, SEARCHES)]
    got = ours(stored(name, 0), 0, end, searches)
    same(got, {key: value for key, value in expected.items() if key.partition("/")[0] in searches})
    for search in ("greedy", "beam4"):
        assert 0.1 < (got[search] == end).any(axis=1).mean() < 0.9, "a search in which nothing ends, or all does, compares little"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_those_of_the_transformers_installed(name):
    """The same with other prompts and weights, against the library itself."""
    if not (importlib.util.find_spec("torch") and importlib.util.find_spec("transformers")):
        pytest.skip("torch and transformers are not installed")
    theirs = importlib.import_module("tests.generate.make_references")
    case = stored(name, 1)
    expected = theirs.generated(name, case, 1)
    end = int(expected.pop("end"))
    same(ours(case, 1, end, [search for search in SEARCHES if search in expected]), expected)


BEAMS = dataclasses.replace(BASE, beams=3, n_best=3, max_new_tokens=10)


SAID = 23  # some of the texts that the plain model finds say this early: there they end


@pytest.fixture(scope="module")
def found(plain):
    return Beams(plain[0], SAID, VOCAB, max_len=64).run(plain[1], PROMPTS, BEAMS)


def test_a_batch_is_each_prompt_alone(plain, found):
    """Fails if padding counts as history or a row stops when another does (`hopeful.any()` for `hopeful` in the ranking)."""
    alone = Beams(plain[0], SAID, VOCAB, max_len=64)
    config = dataclasses.replace(BEAMS, prompt_bucket=8)
    for row, prompt in enumerate(PROMPTS):
        one = alone.run(plain[1], [prompt], config)
        assert one.tokens[0].tolist() == found.tokens[row].tolist()
        np.testing.assert_allclose(one.scores[0], found.scores[row], atol=1e-4)
    assert found.ended.any() and not found.ended.all()


def agree(model, params, prompts, found):
    """Log-probabilities and scores are those of the whole forward pass over each of the texts found."""
    forward = jax.jit(lambda p, b: jax.nn.log_softmax(model.apply(p, b).logits, axis=-1))
    for row, prompt in enumerate(prompts):
        assert (np.diff(found.scores[row]) <= 0).all()
        for n in range(found.tokens.shape[1]):
            size = found.lengths[row, n]
            said = found.tokens[row, n, :size].tolist()
            ids, at = np.zeros((1, 24), np.int32), np.arange(24, dtype=np.int32)[None]
            ids[0, : len(prompt) + size] = prompt + said
            full = {"tokens": ids, "segments": (at < len(prompt) + size).astype(np.int32), "positions": at}
            logprobs = np.asarray(forward(params, full))[0]
            expected = [logprobs[len(prompt) + i - 1, token] for i, token in enumerate(said)]
            np.testing.assert_allclose(found.logprobs[row, n, :size], expected, atol=1e-4)
            np.testing.assert_allclose(found.scores[row, n], sum(expected) / size, atol=1e-4)


def test_scores_and_log_probabilities_are_the_models(plain, found):
    """Fails if log-probabilities stay with the beam that was there before."""
    agree(*plain, PROMPTS, found)


def test_a_state_instead_of_slots():
    """A recurrent state decodes, is searched and drawn from as keys and values are, and a batch is each prompt alone. Fails if a loop
    counts on slots, an index or positions in a cache, or if a beam's state is not the one that it continues."""
    model = lstm.build(FAMILIES["lstm"])
    params = jax.jit(model.init)(jax.random.key(5))
    decoder, beams, alone = Decoder(model, SAID, VOCAB), Beams(model, SAID, VOCAB), dict(prompt_bucket=16)
    found, drawn = beams.run(params, PROMPTS, BEAMS), decoder.run(params, PROMPTS, SAMPLED)
    agree(model, params, PROMPTS, found)
    for row, prompt in enumerate(PROMPTS):
        one = beams.run(params, [prompt], dataclasses.replace(BEAMS, **alone))
        assert one.tokens[0].tolist() == found.tokens[row].tolist()
        again = decoder.run(params, [prompt], dataclasses.replace(SAMPLED, **alone), rows=[row])
        assert again.tokens[0].tolist() == drawn.tokens[row].tolist()
        np.testing.assert_allclose(again.logprobs[0], drawn.logprobs[row], atol=1e-4)


@pytest.mark.parametrize("name, sizes, rows", [("tp", dict(data=1, tensor=4, fsdp=2), 4), ("fsdp_tp", TENSOR, 3)])
def test_a_mesh_changes_nothing(plain, found, name, sizes, rows):
    """Fails if rows that do not divide over the mesh are split (`dropped = ("seq",)` in Programs.get)."""
    model, params = plain
    layout = place.Layout(mesh.make(mesh.Config(**sizes)), rules.find(name))
    params = jax.device_put(params, place.shardings(model.axes(), layout, params))
    beams = Beams(model, SAID, VOCAB, max_len=64, layout=layout)
    got = beams.run(params, PROMPTS[:rows], BEAMS)
    assert not params["q"].sharding.is_fully_replicated and ("batch" in beams._programs.get(rows)[0].rules.acts) == (rows == 4)
    assert got.tokens.tolist() == found.tokens[:rows].tolist()
    np.testing.assert_allclose(got.scores, found.scores[:rows], atol=1e-4)


def test_what_beams_cannot_do(plain):
    beams, decoder = Beams(plain[0], EOT, VOCAB, max_len=64), Decoder(plain[0], EOT, VOCAB, max_len=64)
    with pytest.raises(UserError, match="beam search cannot stream"):
        beams.stream(plain[1], PROMPTS, BEAMS)
    for call in (decoder.run, lambda *args: list(decoder.stream(*args))):
        with pytest.raises(UserError, match="beams is 3: .* neither streams"):
            call(plain[1], PROMPTS, BEAMS)
    with pytest.raises(UserError, match="temperature 0.8: beam search draws nothing"):
        beams.run(plain[1], PROMPTS, Config(beams=2))
    with pytest.raises(UserError, match="prompt 0 has 60 tokens"):
        beams.run(plain[1], [[1] * 60], BEAMS)
    broken = dict(plain[1], up=plain[1]["up"] * np.nan)
    with pytest.raises(UserError, match="not finite"):
        Beams(plain[0], SAID, VOCAB, max_len=64).run(broken, PROMPTS, BEAMS)
    assert decode.logits_are_fine(np.zeros((2, 3))) is None

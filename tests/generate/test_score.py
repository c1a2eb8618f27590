# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Given text: log-probabilities by the definition, the choice among texts, and stop strings in pieces."""
import jax
import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.generate import score
from jaxlm.generate.decode import Decoder
from jaxlm.generate.settings import Config
from jaxlm.generate.stop import Stops
from jaxlm.parallel import mesh, place, rules
from tests.generate.test_decode import EOT, PROMPTS, TENSOR, VOCAB

CONFIG = Config(batch=3, prompt_bucket=8)


def test_log_probabilities_are_those_of_decoding(plain):
    """What decoding says of the tokens it chose, scoring says of the same tokens. Fails if a token is scored by the logits
    at its own place (`batch["tokens"]` for `after`), or if padding is seen."""
    done = Decoder(plain[0], EOT, VOCAB, max_len=64).run(plain[1], PROMPTS, Config(max_new_tokens=9, temperature=0.0, stop_at_eot=False))
    scorer = score.Scorer(plain[0], EOT, VOCAB, max_len=64)
    sequences = [[*prompt, *new] for prompt, new in zip(PROMPTS, done.tokens.tolist(), strict=True)]
    rows = scorer.run(plain[1], sequences, CONFIG)
    for row, ids, logprobs in zip(rows, sequences, done.logprobs, strict=True):
        assert len(row) == len(ids) - 1
        np.testing.assert_allclose(row[-9:], logprobs, atol=1e-4)
    layout = place.Layout(mesh.make(mesh.Config(**TENSOR)), rules.find("fsdp_tp"))
    params = jax.device_put(plain[1], place.shardings(plain[0].axes(), layout, plain[1]))
    for one, two in zip(rows, score.Scorer(plain[0], EOT, VOCAB, 64, layout).run(params, sequences, CONFIG), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)
    # All logits of a position sum to one: exp of the log-probabilities over every next id.
    every = scorer.run(plain[1], [[*PROMPTS[0], i] for i in range(VOCAB)], Config(batch=VOCAB))
    full = jax.jit(lambda p, b: plain[0].apply(p, b).logits)(plain[1], {
        "tokens": np.array([PROMPTS[0]], np.int32), "segments": np.ones((1, 3), np.int32), "positions": np.arange(3, dtype=np.int32)[None]})
    np.testing.assert_allclose([row[-1] for row in every], jax.nn.log_softmax(full[0, -1])[:VOCAB], atol=1e-4)


@pytest.fixture(scope="module")
def scorer(fresh):
    model = fresh(vocab=260)
    return score.Scorer(model, 256, 257, max_len=64), model.init(jax.random.key(0))


def test_texts_and_choices(scorer, bytes_tokenizer):
    """Fails if a choice is compared by its mean, or if the prompt is counted (`row` for `row[-len(ids):]`)."""
    one, params = scorer
    scored = score.score(one, params, bytes_tokenizer, ["é!", "b"], CONFIG, ["a", ""])
    whole = score.score(one, params, bytes_tokenizer, ["aé!"], CONFIG)[0]
    assert [len(s.logprobs) for s in scored] == [3, 1] and scored[0].tokens.tolist() == list("é!".encode())
    np.testing.assert_allclose(whole.logprobs[1:], scored[0].logprobs, atol=1e-4)
    assert abs(scored[0].logprob - scored[0].logprobs.sum()) < 1e-4
    choices = ["yes", "no", "perhaps"]
    found = score.choose(one, params, bytes_tokenizer, ["x", "yz"], choices, CONFIG)
    for prompt, row in zip(["x", "yz"], found, strict=True):
        sums = {c: score.score(one, params, bytes_tokenizer, [c], CONFIG, [prompt])[0].logprob for c in choices}
        assert [c.text for c in row] == sorted(choices, key=lambda c: -sums[c])
        np.testing.assert_allclose([c.logprob for c in row], sorted(sums.values(), reverse=True), atol=1e-4)
        weights = np.exp([sums[c.text] for c in row])
        np.testing.assert_allclose([c.probability for c in row], weights / weights.sum(), atol=1e-4)


def test_bad_input(scorer, bytes_tokenizer):
    one, params = scorer
    with pytest.raises(UserError, match="has no tokens"):
        score.score(one, params, bytes_tokenizer, ["a", ""], CONFIG)
    with pytest.raises(UserError, match="two choices or more, all different: 'a'"):
        score.choose(one, params, bytes_tokenizer, ["p"], ["a"], CONFIG)
    with pytest.raises(UserError, match="all different"):
        score.choose(one, params, bytes_tokenizer, ["p"], ["a", "a"], CONFIG)
    with pytest.raises(UserError, match="prompt 0 has 71 tokens .document separator included., more than the 64 positions"):
        score.score(one, params, bytes_tokenizer, ["x" * 70], CONFIG)
    broken = dict(params, up=params["up"] * np.nan)
    with pytest.raises(UserError, match="not finite"):
        score.score(one, broken, bytes_tokenizer, ["ab"], CONFIG)

    class Encoder:
        def cache(self, rows, length):
            raise UserError("an encoder has no cache")

    with pytest.raises(UserError, match="an encoder"):
        score.Scorer(Encoder(), 256, 257).run({}, [[1, 2]], CONFIG)


def test_stop_strings_across_pieces():
    """Whatever the pieces: the text before the first stop string that is whole. Fails if only the newest piece is looked
    at, if `_overlap` may hold the whole stop string, or if the longest beginning is not the one held."""
    rng = np.random.default_rng(0)
    for _ in range(2000):
        text = "".join(rng.choice(list("ab€"), rng.integers(0, 12)))
        stops = {"".join(rng.choice(list("ab€"), rng.integers(1, 4))) for _ in range(rng.integers(1, 4))}
        ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
        expected = text[:min(ends)[1]] if ends else text
        one, said = Stops(tuple(stops)), []
        cuts = sorted(rng.integers(0, len(text) + 1, 4).tolist())
        for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            said.append(one.push(text[start:end]))
            assert not any(stop in "".join(said) for stop in stops)
        said.append(one.flush())
        assert "".join(said) == expected and one.found == bool(ends)
    # Nothing is held that cannot become one.
    one = Stops(("STOP",))
    assert [one.push(x) for x in ("S", "TX", "ST", "OP after")] == ["", "STX", "", ""] and one.found
    with pytest.raises(UserError, match="zero length"):
        Stops(("a", ""))
    assert "stop has a text of zero length, which is everywhere: take it out" in Config(stop=("",)).problems()

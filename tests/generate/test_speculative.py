# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A draft changes how often the model is called, and nothing else: tokens when greedy, the distribution when drawn."""
import dataclasses

import jax
import numpy as np
import pytest
import scipy.stats

from jaxlm.core.errors import UserError
from jaxlm.generate.decode import Decoder
from jaxlm.generate.settings import Config
from jaxlm.models import gpt, lstm
from jaxlm.parallel import mesh, place, rules
from tests.generate.test_decode import EOT, FAMILIES, MODULES, PROMPTS, TENSOR, VOCAB, joined
from tests.ops.test_sample import exact

# Keys that a window hides must be hidden whatever was taken back.
CONFIGS = {"gpt": FAMILIES["gpt"], "llama": dataclasses.replace(FAMILIES["llama"], window=5)}
GREEDY = Config(max_new_tokens=18, temperature=0.0, stop_at_eot=False, chunk=5, speculate=4)
# Less padding than the others have, so that padding is seen to change nothing.
SHORT = dataclasses.replace(GREEDY, prompt_bucket=14)
SAMPLED = Config(max_new_tokens=3, temperature=1.1, top_k=4, top_p=0.97, stop_at_eot=False, speculate=3, seed=11)


@pytest.fixture(scope="module", params=list(CONFIGS))
def pair(request):
    """(model, draft, params): the draft has one layer and, but for noise, the model's first weights."""
    name = request.param
    model = MODULES[name].build(CONFIGS[name])
    params = jax.jit(model.init)(jax.random.key(2))
    keys = iter(jax.random.split(jax.random.key(3), 100))
    noisy = jax.tree.map(lambda x: np.asarray(x + 0.04 * jax.random.normal(next(keys), x.shape)), params)
    return model, model, (params, noisy)


# What does not depend on the family is asked of one.
ONE = pytest.mark.parametrize("pair", ["gpt"], indirect=True)


def decoder(pair, draft=True, **more):
    return Decoder(pair[0], EOT, VOCAB, max_len=32, draft=pair[1] if draft else None, **more)


def test_greedy_is_the_models_own(pair):
    """Fails if what was rejected stays in a cache (`ahead - taken - 1`), if a position is counted twice, or if the token
    instead is the draft's. Unequal prompts, and one that ends at the model's last position."""
    params = pair[2]
    expected = decoder(pair, draft=False).run(params[0], PROMPTS, GREEDY)
    both = decoder(pair)
    got = both.run(params, PROMPTS, GREEDY)
    assert got.tokens.tolist() == expected.tokens.tolist() and got.lengths.tolist() == expected.lengths.tolist()
    assert got.ended.tolist() == expected.ended.tolist()
    np.testing.assert_allclose(got.logprobs, expected.logprobs, atol=1e-4)
    assert (got.rounds <= expected.rounds).all() and got.rounds.sum() < expected.rounds.sum()
    # In pieces, and each alone.
    pieces = joined(both.stream(params, PROMPTS, GREEDY))
    assert pieces[0] == [row[:n].tolist() for row, n in zip(got.tokens, got.lengths, strict=True)] and len(pieces[2]) > 2
    alone = both.run(params, [PROMPTS[2]], SHORT)
    assert alone.tokens[0].tolist() == got.tokens[2].tolist() and alone.rounds[0] == got.rounds[2]
    long = [[1 + i % 7 for i in range(14)]]
    assert both.run(params, long, SHORT).tokens.tolist() == decoder(pair, draft=False).run(params[0], long, SHORT).tokens.tolist()


@ONE
def test_rows_end(pair):
    """At the first eot among what is accepted, and nowhere else. Fails if what was drafted behind one stays (`fresh &=`)."""
    params, config = pair[2], dataclasses.replace(GREEDY, stop_at_eot=True)
    free = decoder(pair, draft=False).run(params[0], PROMPTS, GREEDY).tokens
    eot = int(free[1, 5])
    expected = Decoder(pair[0], eot, VOCAB, max_len=32).run(params[0], PROMPTS, config)
    got = Decoder(pair[0], eot, VOCAB, max_len=32, draft=pair[1]).run(params, PROMPTS, config)
    assert got.tokens.tolist() == expected.tokens.tolist() and got.lengths.tolist() == expected.lengths.tolist()
    assert got.ended.tolist() == expected.ended.tolist() and got.ended.any() and len(set(got.lengths.tolist())) > 1


@ONE
def test_penalties_see_what_was_drafted(pair):
    """Fails if a drafted token is judged by the history before the round (`now.tokens` for `tokens`)."""
    config = dataclasses.replace(GREEDY, repetition_penalty=1.5, frequency_penalty=0.3, no_repeat_ngram=2, bad_words=("ids",),
                                 min_new_tokens=6)
    bad = ((3,), (4, 5))
    expected = decoder(pair, draft=False).run(pair[2][0], PROMPTS, config, bad_words=bad)
    assert decoder(pair).run(pair[2], PROMPTS, config, bad_words=bad).tokens.tolist() == expected.tokens.tolist()
    assert expected.tokens.tolist() != decoder(pair, draft=False).run(pair[2][0], PROMPTS, GREEDY).tokens.tolist()


def exact_three(model, params, prompt):
    """The probability of every (first, second, third) token, filtered, in float64."""
    forward = jax.jit(lambda p, b: model.apply(p, b).logits)

    def after(rests):
        ids = np.array([[*prompt, *rest] for rest in rests], np.int32)
        logits = np.asarray(forward(params, {"tokens": ids, "segments": np.ones_like(ids)}))[:, -1]
        return [exact(row, 1.1, 4, 0.97, VOCAB) for row in logits]

    out = {(): 1.0}
    for _ in range(3):
        rests = list(out)
        out = {(*rest, i): out[rest] * p for rest, row in zip(rests, after(rests), strict=True) for i, p in enumerate(row) if p > 0}
    return out


@ONE
@pytest.mark.parametrize("drafted", [True, False])
def test_what_is_drawn_follows_the_exact_distribution(pair, drafted):
    """Chi-square over all first three tokens of 6,000 rows, with the draft and without. Fails if the token instead is
    drawn from p (not p - q), if a draft is taken by `draws < p`, or if two uses share a key (_TAKE = _DRAFT)."""
    rows, prompt = 6000, [0, 9, 4]
    expected = exact_three(pair[0], pair[2][0], prompt)
    got = decoder(pair, drafted).run(pair[2] if drafted else pair[2][0], [prompt] * rows, SAMPLED)
    seen = dict.fromkeys(expected, 0)
    for row in got.tokens.tolist():
        assert tuple(row) in seen, f"{row} cannot be drawn"
        seen[tuple(row)] += 1
    common = [key for key, p in expected.items() if p * rows >= 5]
    observed = [*(seen[key] for key in common), rows - sum(seen[key] for key in common)]
    wanted = [*(expected[key] * rows for key in common), rows * (1 - sum(expected[key] for key in common))]
    observed, wanted = (x if wanted[-1] >= 5 else [*x[:-2], x[-2] + x[-1]] for x in (observed, wanted))
    statistic = sum((o - w) ** 2 / w for o, w in zip(observed, wanted, strict=True))
    assert len(wanted) > 8 and statistic < scipy.stats.chi2.ppf(0.9999, len(wanted) - 1), statistic
    if drafted:
        # Some drafts are taken and some are not, or nothing was tested; and neighbours do not matter.
        assert set(got.rounds.tolist()) == {1, 2}
        few = decoder(pair).run(pair[2], [prompt] * 3, SAMPLED, rows=[7, 4000, 12])
        assert few.tokens.tolist() == got.tokens[[7, 4000, 12]].tolist()


@ONE
def test_a_mesh_changes_nothing(pair):
    model, draft, params = pair
    config = dataclasses.replace(GREEDY, temperature=0.9, top_k=8)
    expected = decoder(pair).run(params, PROMPTS, config)
    layout = place.Layout(mesh.make(mesh.Config(**TENSOR)), rules.find("fsdp_tp"))
    laid = tuple(jax.device_put(p, place.shardings(model.axes(), layout, p)) for p in params)
    got = decoder(pair, layout=layout).run(laid, PROMPTS, config)
    assert got.tokens.tolist() == expected.tokens.tolist() and got.rounds.tolist() == expected.rounds.tolist()


@ONE
def test_drafts_that_do_not_fit(pair):
    model, _, params = pair
    other = gpt.build(dataclasses.replace(FAMILIES["gpt"], vocab_size=20))
    weights = jax.jit(other.init)(jax.random.key(0))
    with pytest.raises(UserError, match="draft model knows 20 ids and the model 32"):
        Decoder(model, EOT, draft=other).run((params[0], weights), PROMPTS, GREEDY)
    with pytest.raises(UserError, match="tokenizer has 29 ids and the model 20"):
        Decoder(model, EOT, VOCAB, draft=other).run((params[0], weights), PROMPTS, GREEDY)

    state = lstm.build(FAMILIES["lstm"])  # a state cannot be taken back, of the model or of the draft
    for one, two in ((state, model), (model, state)):
        with pytest.raises(UserError, match="a LSTM cannot take back what it has read"):
            Decoder(one, EOT, draft=two)

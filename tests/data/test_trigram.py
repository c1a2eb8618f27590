# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The trigram baseline: its probabilities sum to one, it agrees with a slow version, and it learns."""
import collections
import math

import numpy as np
import pytest

from jaxlm.data import trigram


def slow(train, held_out):
    """The formula of the module, one byte at a time."""
    n = [collections.Counter() for _ in range(3)]
    for text in filter(None, train):
        x = [255, 255, *text, 255]
        for i in range(2, len(x)):
            for k in range(3):
                n[k][tuple(x[i - k:i + 1])] += 1

    def p(context, c):
        k = len(context)
        lower = p(context[1:], c) if k else 1 / 256
        seen = {key: v for key, v in n[k].items() if key[:k] == context}
        total, kinds = sum(seen.values()), len(seen)
        return (seen.get((*context, c), 0) + kinds * lower) / (total + kinds) if total else lower
    bits = size = 0
    for text in filter(None, held_out):
        x = [255, 255, *text, 255]
        size += len(text)
        bits -= sum(math.log2(p(tuple(x[i - 2:i]), x[i])) for i in range(2, len(x)))
    for context in ((), (97,), (97, 98), (1, 2)):
        assert sum(p(context, c) for c in range(256)) == pytest.approx(1)
    return bits / size


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_the_formula(seed, monkeypatch):
    """Fails if _mix leaves out the kinds in the denominator, or if counts keep the gaps between documents."""
    r = np.random.default_rng(seed)
    texts = [bytes(r.choice(list(b"abc \xc3\xa9"), r.integers(0, 20)).astype(np.uint8)) for _ in range(15)]
    train, held_out = texts[:10], [*texts[10:], b"zzz"]
    expected = slow(train, held_out)
    assert trigram.bits_per_byte(iter(train), iter(held_out)) == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr(trigram, "_BLOCK", 50)
    assert trigram.bits_per_byte(train, held_out) == pytest.approx(expected, abs=1e-12)


def test_more_structure_fewer_bits():
    r = np.random.default_rng(0)
    noise = [bytes(r.integers(0, 128, 2000, np.uint8)) for _ in range(20)]
    assert 6.9 < trigram.bits_per_byte(noise[:10], noise[10:]) < 8
    assert trigram.bits_per_byte([b"abcabcabc" * 99] * 5, [b"abcabc" * 99]) < 0.1


def test_bad_input():
    for train, held_out in (([], [b"a"]), ([b"a"], []), ([b""], [b"a"]), ([b"\xff"], [b"a"])):
        with pytest.raises(ValueError):
            trigram.bits_per_byte(train, held_out)

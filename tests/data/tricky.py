# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Texts that tokenizers disagree about, and a small corpus with their characters."""

TEXTS = [
    "", "   ", "\t\n\r", "The QUICK brown fox", "naïve café ÀÉÎ", "Straße ẞ İstanbul", "我喜欢自然语言处理", "日本語のテキスト",
    "안녕하세요", "a\u0301b e\u0301", "\x00\x01ctrl\x7f\x9f\ufffdend", "zero\u200bwidth\u200djoined", "x" * 100, "x" * 101,
    "e\u0301" * 60, "don't won't I'm", "!?...---''``", "\U0001f600\U0001f389\U0001f469\u200d\U0001f469", "hello,world(1+2)", "١٢٣ ½ ﬁ Ⅷ ™",
    "  two   spaces  ", "\u2028line\u2029 \u00a0nbsp\u3000wide", "\ufeffbom", "नमस्ते ว่าน", "mixed中文english", "[CLS] a [SEP]<s></s>",
    "[MASK] <mask><pad> [UNK]", "<0x41> <|endoftext|>", "▁under _score_ ##ing ##", "a" * 5000,
]
CORPUS = [
    "the quick brown fox jumps over the lazy dog and the naive cafe waits in istanbul. " * 12,
    "Der Straßenbahnfahrer hört übermorgen auf; Äpfel und Öl kosten 12,50 Euro! " * 12,
    "我喜欢自然语言处理。日本語のテキスト 안녕하세요 " * 12, "don't won't I'm (1+2) [x] <y> ... hello, world? \U0001f600 " * 12,
]

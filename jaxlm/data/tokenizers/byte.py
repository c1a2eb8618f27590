# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Bytes as tokens: 256 ids and the document separator. Nothing to train, no text it cannot write."""
import dataclasses
from collections.abc import Callable, Iterator

from jaxlm.data.tokenizers import learn
from jaxlm.data.tokenizers.tokenizer import ByteTokenizer


@dataclasses.dataclass(frozen=True)
class Config:
    """special_tokens: further special tokens ("<|mask|>"), with ids from 257."""
    special_tokens: tuple = ()

    def problems(self) -> list[str]:
        return learn.repeated(self.special_tokens, ("<|endoftext|>",))


def build(config: Config, documents: Callable[[], Iterator[str]] | None = None) -> ByteTokenizer:
    """The tokenizer; `documents` are not looked at."""
    return ByteTokenizer(config.special_tokens)

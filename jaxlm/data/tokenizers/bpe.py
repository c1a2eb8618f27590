# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Byte-level BPE learned from the documents at hand, with the `tokenizers` library: same documents, same vocabulary.

Every byte is a token, so no text is unknown and every text comes back exactly.
"""
import dataclasses
from collections.abc import Callable, Iterator

import tokenizers

from jaxlm.core.errors import UserError
from jaxlm.core.log import Progress, say
from jaxlm.data.tokenizers.byte import repeated
from jaxlm.data.tokenizers.tokenizer import JsonTokenizer

EOT = "<|endoftext|>"
# What it makes depends on the documents, so it is kept in the cache of the run rather than made again.
LEARNS = True
_BATCH_CHARACTERS = 1 << 20


@dataclasses.dataclass(frozen=True)
class Config:
    """vocab_size: with the 256 bytes and the special tokens. min_frequency: pairs seen less often are not merged.

    special_tokens: further ones after <|endoftext|>, "<|mask|>" say.
    """
    vocab_size: int = 8192
    min_frequency: int = 2
    special_tokens: tuple = ()

    def problems(self) -> list[str]:
        found = repeated(self.special_tokens)
        least = 257 + len(self.special_tokens)
        if self.vocab_size < least:
            found.append(f"tokenizer.vocab_size={self.vocab_size} must be at least {least}: 256 bytes and the "
                         "special tokens")
        if self.min_frequency < 1:
            found.append(f"tokenizer.min_frequency={self.min_frequency} must be at least 1")
        return found


def build(config: Config, documents: Callable[[], Iterator[str]] | None = None) -> JsonTokenizer:
    """Learn a tokenizer from `documents()`. A small corpus may give fewer tokens than asked for; this is said."""
    if documents is None:
        raise UserError("tokenizer 'bpe' learns from documents and none are given here: use the tokenizer of a "
                        "checkpoint or a tokenizer.json")
    return train(documents(), config.vocab_size, config.min_frequency, config.special_tokens)


def train(documents: Iterator[str], vocab_size: int, min_frequency: int = 2,
          special_tokens: tuple[str, ...] = ()) -> JsonTokenizer:
    """Byte-level BPE (Sennrich et al. 2016; byte alphabet and word pattern of GPT-2). `<|endoftext|>` is id 0."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=[EOT, *special_tokens], show_progress=False,
        # The order of the library's own list changes from run to run.
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    with Progress(None, f"training a tokenizer of {vocab_size} tokens", "characters", unit_scale=True) as bar:
        made.train_from_iterator(_batches(documents, bar), trainer)
    if bar.count == 0:
        raise UserError("there is no text to train the tokenizer on: look at the source")
    result = JsonTokenizer(made.to_str(), EOT)
    if result.vocab_size < vocab_size:
        say(f"tokenizer: the text gives {result.vocab_size} tokens, fewer than tokenizer.vocab_size={vocab_size}")
    return result


def _batches(documents: Iterator[str], bar: Progress) -> Iterator[list[str]]:
    """Lists of documents of about a million characters: the library counts the words of one list on all cores."""
    batch, size = [], 0
    for text in documents:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            bar.update(size)
            batch, size = [], 0
    if batch:
        yield batch
        bar.update(size)

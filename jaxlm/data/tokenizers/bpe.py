# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Byte-level BPE learned from the documents at hand, with the `tokenizers` library: same documents, same vocabulary.

Every byte is a token, so no text is unknown and every text comes back exactly.
"""
import dataclasses
import json

import tokenizers

from jaxlm.data.tokenizers import learn, pairs
from jaxlm.data.tokenizers.tokenizer import JsonTokenizer, usual

EOT = "<|endoftext|>"
# What it makes depends on the documents, so it is kept in the cache of the run rather than made again.
LEARNS = True


@dataclasses.dataclass(frozen=True)
class Config:
    """vocab_size: with the 256 bytes and the special tokens. min_frequency: pairs seen less often are not merged.

    special_tokens: further ones after <|endoftext|>: "<|mask|>" say, or RoBERTa's ("<s>", "</s>", "<pad>", "<mask>").
    """
    vocab_size: int = 8192
    min_frequency: int = 2
    special_tokens: tuple = ()

    def problems(self) -> list[str]:
        found = learn.repeated(self.special_tokens, (EOT,))
        least = 257 + len(self.special_tokens)
        if self.vocab_size < least:
            found.append(f"tokenizer.vocab_size={self.vocab_size} must be at least {least}: 256 bytes and the "
                         "special tokens")
        if self.min_frequency < 1:
            found.append(f"tokenizer.min_frequency={self.min_frequency} must be at least 1")
        return found


def build(config: Config, documents: learn.Documents | None = None) -> JsonTokenizer:
    """Learn a tokenizer from `documents()`: byte-level BPE (Sennrich et al. 2016; byte alphabet and word pattern of GPT-2).

    `<|endoftext|>` is id 0. A small corpus may give fewer tokens than asked for; this is said.
    """
    documents, special = learn.needed(documents, "bpe"), (EOT, *config.special_tokens)
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.train_from_iterator(
        learn.batches(documents(), f"training a tokenizer of {config.vocab_size} tokens"),
        tokenizers.trainers.BpeTrainer(
            vocab_size=config.vocab_size, min_frequency=config.min_frequency, special_tokens=list(special),
            # The order of the library's own list changes from run to run.
            show_progress=False, initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())))
    content = json.loads(made.to_str())
    names = {role: usual(role, special) for role in ("cls", "sep", "mask")}
    if names["cls"] and names["sep"]:
        content["post_processor"] = pairs.processor(*((names[r], special.index(names[r])) for r in ("cls", "sep")))
    # Words bring their space with them: the one that is masked too.
    return learn.built(content, special, EOT, config.vocab_size, lstrip=names["mask"])

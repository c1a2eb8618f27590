# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""WordPiece learned from the documents at hand, with BERT's normaliser: same documents, same vocabulary.

A word is a piece and ##pieces that go on with it, or [UNK]; case, accents and white space are lost where they are not kept.
"""
import collections
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import tokenizers

from jaxlm.core.errors import UserError
from jaxlm.data.tokenizers import learn, pairs
from jaxlm.data.tokenizers.tokenizer import JsonTokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# What it makes depends on the documents, so it is kept in the cache of the run rather than made again.
LEARNS = True
_PREFIX = "##"


@dataclasses.dataclass(frozen=True)
class Config:
    """vocab_size: with the special tokens [PAD] [UNK] [CLS] [SEP] [MASK] and all pieces of one character.

    lowercase: "The" and "the" are one word. strip_accents: "é" is "e"; "auto" does it where it lower-cases, as BERT does.
    space_chinese: each Chinese character is a word. alphabet: so many different characters are kept; a word with a rarer
    one is [UNK]. min_frequency: pairs seen less often are not joined. special_tokens: further ones.
    """
    vocab_size: int = 8192
    lowercase: bool = True
    strip_accents: str = "auto"
    space_chinese: bool = True
    alphabet: int = 1000
    min_frequency: int = 2
    special_tokens: tuple = ()

    def problems(self) -> list[str]:
        found = learn.repeated(self.special_tokens, SPECIAL)
        if self.strip_accents not in ("auto", "yes", "no"):
            found.append(f"tokenizer.strip_accents={self.strip_accents!r} must be auto, yes or no")
        if self.alphabet < 1:
            found.append(f"tokenizer.alphabet={self.alphabet} must be at least 1")
        if self.min_frequency < 1:
            found.append(f"tokenizer.min_frequency={self.min_frequency} must be at least 1")
        least = len(SPECIAL) + len(self.special_tokens) + 2
        if self.vocab_size < least:
            found.append(f"tokenizer.vocab_size={self.vocab_size} must be at least {least}: the special tokens and pieces "
                         "of one character")
        return found


def build(config: Config, documents: learn.Documents | None = None) -> JsonTokenizer:
    """Learn a tokenizer from `documents()`, which is read twice. A small corpus may give fewer tokens than asked for; this is said."""
    documents, special = learn.needed(documents, "wordpiece"), (*SPECIAL, *config.special_tokens)
    strip = {"auto": None, "yes": True, "no": False}[config.strip_accents]
    normalizer = tokenizers.normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=config.space_chinese, strip_accents=strip, lowercase=config.lowercase)
    singles = _singles(config, documents, normalizer)
    least = len(special) + len(singles)
    if config.vocab_size < least:
        raise UserError(
            f"tokenizer.vocab_size={config.vocab_size} is too small for this text: it must be at least {least}, "
            f"{len(special)} special tokens and {len(singles)} pieces of one character; raise it or lower tokenizer.alphabet")
    # With the pieces of one character in a fixed place, and only so, the same documents give the same vocabulary: the
    # library meets them in the order of a hash table, and pairs that are equally frequent are joined by their ids.
    alphabet = [s for s in singles if not s.startswith(_PREFIX)]
    made = _model(normalizer)
    made.train_from_iterator(
        learn.batches(documents(), f"training a tokenizer of {config.vocab_size} tokens"),
        tokenizers.trainers.WordPieceTrainer(
            vocab_size=config.vocab_size, min_frequency=config.min_frequency, special_tokens=[*special, *singles],
            initial_alphabet=alphabet, limit_alphabet=len(alphabet), show_progress=False))
    return learn.built(finished(json.loads(made.to_str()), "[CLS]", "[SEP]"), special, "[SEP]", config.vocab_size)


def finished(content: dict[str, Any], cls: str, sep: str) -> dict[str, Any]:
    """`content`, a tokenizer.json of a WordPiece model, with BERT's way to read text, to write it and to join pairs."""
    vocab = content["model"]["vocab"]
    return {**content, "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": pairs.processor((cls, vocab[cls]), (sep, vocab[sep])),
            "decoder": {"type": "WordPiece", "prefix": _PREFIX, "cleanup": True}}


def _model(normalizer: Any) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizer, tokenizers.pre_tokenizers.BertPreTokenizer()
    return made


def _singles(config: Config, documents: learn.Documents, normalizer: Any) -> list[str]:
    """The pieces of one character, at the beginning of words and then within them, of the most frequent characters."""
    counts = collections.Counter()

    def counted() -> Iterator[list[str]]:
        for batch in learn.batches(documents(), "counting the characters of the text"):
            for text in batch:
                counts.update(normalizer.normalize_str(text))
            yield batch

    first = _model(normalizer)
    first.train_from_iterator(counted(), tokenizers.trainers.WordPieceTrainer(vocab_size=0, show_progress=False))
    met = first.get_vocab()
    counts = collections.Counter({c: n for c, n in counts.items() if c in met})
    if not counts:
        raise learn.no_text()
    kept = learn.most_frequent(counts, config.alphabet)
    learn.say_rare(counts, kept, "[UNK]")
    return [*kept, *(_PREFIX + c for c in kept if _PREFIX + c in met)]

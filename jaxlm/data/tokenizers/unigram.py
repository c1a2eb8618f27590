# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Unigram pieces learned from the documents at hand, as SentencePiece has them: same documents, same vocabulary.

Words begin with ▁; white space is one space. Characters without a piece are written as bytes.
"""
import collections
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import tokenizers

from jaxlm.core.errors import UserError, nearest
from jaxlm.data.tokenizers import learn, pairs
from jaxlm.data.tokenizers.tokenizer import JsonTokenizer
from jaxlm.data.tokenizers.words import SPACE

# Special tokens in the order of their ids, the one that ends a document, and roles that these names do not tell.
SPECIAL = {"albert": (("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"), "[SEP]", {}),
           "t5": (("<pad>", "</s>", "<unk>"), "</s>", {"start": "<pad>"})}
# What it makes depends on the documents, so it is kept in the cache of the run rather than made again.
LEARNS = True
_BYTES = tuple(f"<0x{i:02X}>" for i in range(256))
# Log probability of what no text may become, the name of a special token or of a byte: any other spelling is likelier.
_NEVER = -1e4
# The library sums in the order of a hash table: the last digits of a score differ from one training to the next.
_DIGITS = 4


@dataclasses.dataclass(frozen=True)
class Config:
    """vocab_size: with the special tokens, 256 bytes and all pieces of one character.

    specials: "albert" (<pad> <unk> [CLS] [SEP] [MASK]; a sequence is [CLS] a [SEP] b [SEP]) or "t5" (<pad> </s> <unk>;
    a </s> b </s>; a decoder begins every target with <pad>). special_tokens: further ones. lowercase, strip_accents: both
    are on in ALBERT. byte_fallback: a character without a piece is written as its UTF-8 bytes, not as <unk>. alphabet: so
    many different characters have a piece of their own.
    """
    vocab_size: int = 8192
    specials: str = "albert"
    special_tokens: tuple = ()
    lowercase: bool = False
    strip_accents: bool = False
    byte_fallback: bool = True
    alphabet: int = 1000

    def problems(self) -> list[str]:
        if self.specials not in SPECIAL:
            return [f"tokenizer.specials={self.specials!r} is unknown{nearest(self.specials, SPECIAL)}: use "
                    f"{' or '.join(SPECIAL)}"]
        found = learn.repeated(self.special_tokens, SPECIAL[self.specials][0])
        if self.alphabet < 1:
            found.append(f"tokenizer.alphabet={self.alphabet} must be at least 1")
        least = len(_fixed(self)) + 2
        if self.vocab_size < least:
            found.append(f"tokenizer.vocab_size={self.vocab_size} must be at least {least}: the special tokens, the bytes "
                         "and pieces of one character")
        return found


def build(config: Config, documents: learn.Documents | None = None) -> JsonTokenizer:
    """Learn a tokenizer from `documents()`, which is read twice (Kudo 2018). A small corpus may give fewer tokens than
    asked for; this is said."""
    documents, (_, eot, roles) = learn.needed(documents, "unigram"), SPECIAL[config.specials]
    special, fixed, normalizer = _special(config), _fixed(config), _normalizer(config)
    counts = collections.Counter()
    for batch in learn.batches(documents(), "counting the characters of the text"):
        for text in batch:
            counts.update(normalizer.normalize_str(text))
    counts = collections.Counter({c: n for c, n in counts.items() if not c.isspace()})
    if not counts:
        raise learn.no_text()
    kept = learn.most_frequent(counts, config.alphabet)
    learn.say_rare(counts, kept, "bytes" if config.byte_fallback else "<unk>")
    # The characters of names that a text may spell.
    alphabet = sorted({*kept, *"".join(fixed)} if config.byte_fallback else {*kept, *"".join(special)})
    least = len(fixed) + len({*alphabet, SPACE})
    if config.vocab_size < least:
        raise UserError(
            f"tokenizer.vocab_size={config.vocab_size} is too small for this text: it must be at least {least}, "
            f"{len(fixed)} special tokens and bytes and {least - len(fixed)} pieces of one character; raise it or lower "
            "tokenizer.alphabet")
    rare = str.maketrans({c: " " for c in counts.keys() - set(kept)})

    def read() -> Iterator[list[str]]:
        for batch in learn.batches(documents(), f"training a tokenizer of {config.vocab_size} tokens"):
            yield [normalizer.normalize_str(text).translate(rare) for text in batch]

    made = tokenizers.Tokenizer(tokenizers.models.Unigram())
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.WhitespaceSplit(),
        tokenizers.pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")])
    made.train_from_iterator(read(), tokenizers.trainers.UnigramTrainer(
        vocab_size=config.vocab_size - len(fixed) + 1, unk_token="<unk>", special_tokens=["<unk>"],
        initial_alphabet=alphabet, show_progress=False))
    made.normalizer = normalizer
    made.decoder = tokenizers.decoders.Sequence([
        tokenizers.decoders.ByteFallback(),
        tokenizers.decoders.Metaspace(replacement=SPACE, prepend_scheme="always")])
    content = json.loads(made.to_str())
    pieces = _settled({piece: score for piece, score in content["model"]["vocab"] if piece != "<unk>"},
                      config.vocab_size - len(fixed))
    content["model"] = {"type": "Unigram", "unk_id": fixed.index("<unk>"), "byte_fallback": config.byte_fallback,
                        "vocab": [*([name, _NEVER] for name in fixed), *pieces]}
    content["post_processor"] = _processor(config, fixed)
    return learn.built(content, special, eot, config.vocab_size, roles=roles)


def _special(config: Config) -> tuple[str, ...]:
    return (*SPECIAL[config.specials][0], *config.special_tokens)


def _fixed(config: Config) -> tuple[str, ...]:
    """The names of the first ids, which no text decides."""
    return (*_special(config), *(_BYTES if config.byte_fallback else ()))


def _normalizer(config: Config) -> Any:
    """SentencePiece's nmt_nfkc, with what ALBERT takes away before it."""
    n = tokenizers.normalizers
    accents = [n.NFKD(), n.StripAccents()] if config.strip_accents else []
    return n.Sequence([n.Nmt(), *accents, n.NFKC(), *([n.Lowercase()] if config.lowercase else [])])


def _settled(scores: dict[str, float], limit: int) -> list[list]:
    """At most `limit` [piece, score] from the likeliest on, the same after every training on the same documents."""
    floor, singles = min(scores.values()), sum(len(piece) == 1 for piece in scores)
    # Characters that the library drops and puts back get the least score and a little more each, in the order met.
    near = floor + 1e-4 * (singles + 1)
    settled = {piece: floor if len(piece) == 1 and score < near else score for piece, score in scores.items()}
    order = sorted(([piece, round(score, _DIGITS)] for piece, score in settled.items()), key=lambda p: (-p[1], p[0]))
    # Put back over the size that was asked for: longer pieces make room.
    longer = limit - singles
    kept = {piece for piece, _ in [p for p in order if len(p[0]) > 1][:longer]}
    return [p for p in order if len(p[0]) == 1 or p[0] in kept]


def _processor(config: Config, fixed: tuple[str, ...]) -> dict:
    if config.specials == "albert":
        return pairs.processor(*((name, fixed.index(name)) for name in ("[CLS]", "[SEP]")))
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    texts = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    return {"type": "TemplateProcessing", "single": [texts[0], end], "pair": [texts[0], end, texts[1], end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [fixed.index("</s>")], "tokens": ["</s>"]}}}

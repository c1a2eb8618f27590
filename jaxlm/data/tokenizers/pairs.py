# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""How an encoder is fed one text or a pair: special tokens around them, types, and truncation of the longer one first."""
import dataclasses
import json

import numpy as np
import tokenizers

FIRST, SECOND = 0, 1
_SPECIAL = -1


@dataclasses.dataclass(frozen=True)
class Template:
    """Parts of a sequence in order, each (source, id, type): FIRST or SECOND text, or a special token by its id."""
    single: tuple[tuple[int, int, int], ...]
    pair: tuple[tuple[int, int, int], ...]

    def __call__(self, first: np.ndarray, second: np.ndarray | None = None,
                 max_len: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """(ids, types), int32 [length], of the ids of one text or two.

        max_len > 0: at most so many ids; the longer text loses its end first, then both in turn. ValueError where the
        special tokens alone are more.
        """
        parts = self.single if second is None else self.pair
        texts = [first] if second is None else [first, second]
        if max_len:
            room = max_len - sum(source == _SPECIAL for source, _, _ in parts)
            if room < 0:
                raise ValueError(f"max_len {max_len} is less than the {max_len - room} special tokens of a sequence")
            kept = shares([len(t) for t in texts], room)
            texts = [t[:n] for t, n in zip(texts, kept)]
        ids = [np.array([i]) if source == _SPECIAL else texts[source] for source, i, _ in parts]
        types = [np.full(len(piece), part[2]) for piece, part in zip(ids, parts)]
        return np.concatenate(ids).astype(np.int32), np.concatenate(types).astype(np.int32)


def shares(lengths: list[int], room: int) -> list[int]:
    """How many ids of one text or two fit: the longer gives first; where both give, the second (or longer) keeps the odd one."""
    if sum(lengths) <= room:
        return lengths
    if len(lengths) == 1:
        return [room]
    short = min(min(lengths), room // 2)
    return [short, room - short] if lengths[0] <= lengths[1] else [room - short, short]


def of_processor(processor: dict | None) -> Template | None:
    """What the post-processor of a tokenizer.json does; None where it adds nothing (ByteLevel)."""
    # Seen rather than read: there are several kinds, and sequences of them.
    probe = tokenizers.Tokenizer.from_str(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": None, "post_processor": processor, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"x": 0}, "unk_token": "x"}}))
    single, pair = (tuple(
        (_SPECIAL if source is None else source, i if source is None else 0, kind)
        for source, i, kind in zip(e.sequence_ids, e.ids, e.type_ids)) for e in (probe.encode("x"), probe.encode("x", "x")))
    if all(source != _SPECIAL for source, _, _ in pair):
        return None
    return Template(single, pair)


def processor(cls: tuple[str, int], sep: tuple[str, int]) -> dict:
    """A post-processor for a tokenizer.json, from two tokens (name, id).

    [CLS] a [SEP] b [SEP] with types 0 and 1 (Devlin et al. 2018); where texts end with </s>, as RoBERTa has it,
    <s> a </s></s> b </s>, all of type 0 (Liu et al. 2019).
    """
    def special(token: tuple[str, int], kind: int) -> dict:
        return {"SpecialToken": {"id": token[0], "type_id": kind}}

    def text(name: str, kind: int) -> dict:
        return {"Sequence": {"id": name, "type_id": kind}}

    single = [special(cls, 0), text("A", 0), special(sep, 0)]
    second = [special(sep, 0), text("B", 0), special(sep, 0)] if sep[0] == "</s>" else [text("B", 1), special(sep, 1)]
    return {"type": "TemplateProcessing", "single": single, "pair": single + second,
            "special_tokens": {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in (cls, sep)}}

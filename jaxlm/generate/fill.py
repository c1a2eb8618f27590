# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Texts with blanks: what a model that was trained to denoise puts in the place of <extra_id_0>, <extra_id_1>, ..."""
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxlm.core.errors import UserError
from jaxlm.data.tokenizers.tokenizer import SENTINEL


def blanked(tokenizer: Any, text: str) -> np.ndarray:
    """int32 ids of a text in which the names of sentinels are blanks, ended by eot as in training.

    UserError where it has none, one twice, or one that the tokenizer does not know.
    """
    names = [found[0] for found in SENTINEL.finditer(text)]
    unknown = [name for name in names if name not in tokenizer.special]
    if not names or unknown or len({*names}) < len(names):
        what = "has no blank" if not names else f"has {unknown[0]}, which the tokenizer does not know" if unknown else "has a blank twice"
        raise UserError(f"generate.fill: the text {text[:60]!r} {what}: write <extra_id_0> for its first blank, <extra_id_1> for the next, "
                        f"of the {len(tokenizer.vocabulary.sentinels)} that there are")
    ids: list[int] = []
    for part, name in zip(SENTINEL.split(text)[::2], [*names, None], strict=True):
        # A word of byte-level BPE brings the space before it: so does the one that is missing.
        part = part.removesuffix(" ") if name and getattr(tokenizer, "byte_level", False) else part
        ids += [*map(int, tokenizer.encode(part)), *([] if name is None else [tokenizer.special[name]])]
    return np.array([*ids, tokenizer.eot], np.int32)


def filled(tokenizer: Any, source: Sequence[int], target: Sequence[int]) -> str:
    """The text of `blanked` with what the target tells behind each sentinel in its place; a blank that it says nothing of
    stays as its name."""
    blanks, told, last = {*tokenizer.vocabulary.sentinels}, {}, []
    for token in map(int, target):
        if token in blanks:
            last = told.setdefault(token, [])
        elif token != tokenizer.eot:
            last.append(token)
    text = [t for token in map(int, source[:-1]) for t in told.get(token, [token])]
    return tokenizer.decode(text, special=True)

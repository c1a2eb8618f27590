# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Which tokens go on with the word before them: what masking of whole words needs to know."""
import json
from collections.abc import Sequence

import numpy as np

SPACE = "▁"  # stands for a space in SentencePiece vocabularies


def of_bytes(tokens: Sequence[bytes]) -> np.ndarray:
    """bool [size] of tokens that are bytes: True where one does not begin with white space; special ones are given as b""."""
    return np.array([token[:1].strip() != b"" for token in tokens], bool)


def of_pieces(names: Sequence[str], content: dict) -> np.ndarray | None:
    """bool [size] of a tokenizer.json whose tokens are text; special tokens are given as "". None where words do not show.

    WordPiece marks what goes on (##), SentencePiece's kinds (Unigram and BPE) what begins (▁).
    """
    model = content["model"]
    prefix = model.get("continuing_subword_prefix")
    if prefix:
        return np.array([name.startswith(prefix) for name in names], bool)
    steps = json.dumps([content.get(part) for part in ("normalizer", "pre_tokenizer", "decoder")], ensure_ascii=False)
    if SPACE not in steps or model.get("end_of_word_suffix"):
        return None
    # A byte of a character that has no piece of its own is written <0x0A>: a line break begins a word too.
    spaces = {f"<0x{ord(c):02X}>" for c in "\t\n\v\f\r "}
    return np.array([name != "" and name not in spaces and not name.startswith(SPACE) for name in names], bool)

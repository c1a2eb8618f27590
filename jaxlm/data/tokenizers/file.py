# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A tokenizer someone else made: any Hugging Face tokenizer.json (GPT-2, Llama, BERT, T5, ...)."""
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator

from jaxlm.core.errors import UserError, nearest
from jaxlm.data.tokenizers import chat
from jaxlm.data.tokenizers.tokenizer import JsonTokenizer


@dataclasses.dataclass(frozen=True)
class Config:
    """path: a tokenizer.json, or a folder that holds one. eot: name of the document separator, "" to find it."""
    path: str = ""
    eot: str = ""

    def problems(self) -> list[str]:
        if self.path.strip():
            return []
        return ["tokenizer.path is empty: name a tokenizer.json or a folder that holds one"]


def build(config: Config, documents: Callable[[], Iterator[str]] | None = None) -> JsonTokenizer:
    """Read the tokenizer; `documents` are not looked at. Raises UserError."""
    path = pathlib.Path(os.path.expanduser(config.path))
    if path.is_dir():
        path = path / "tokenizer.json"
    if not path.is_file():
        there = os.listdir(path.parent) if path.parent.is_dir() else []
        raise UserError(f"tokenizer.path: {path} does not exist{nearest(path.name, there)}; it must be a Hugging Face "
                        "tokenizer.json (tokenizer.save_pretrained(folder) of a fast tokenizer writes one)")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"cannot read {path}: {e}") from e
    return JsonTokenizer(text, config.eot, str(path), chat.beside(path))

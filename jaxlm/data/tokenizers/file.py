# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A tokenizer someone else made: any Hugging Face tokenizer.json, BERT's vocab.txt, or GPT-2's vocab.json and merges.txt."""
import dataclasses
import json
import os
import pathlib

from jaxlm.core.errors import UserError, nearest
from jaxlm.data.tokenizers import chat, learn, vocabularies
from jaxlm.data.tokenizers.tokenizer import ROLES, JsonTokenizer

# What a folder may hold, the most complete first.
_FILES = ("tokenizer.json", "vocab.txt", "vocab.json")
_KNOWN = "a Hugging Face tokenizer.json, a vocab.txt (WordPiece), a vocab.json with merges.txt, or a folder with one of these"


@dataclasses.dataclass(frozen=True)
class Config:
    """path: tokenizer.json, vocab.txt, vocab.json or merges.txt, or a folder that holds such a file.

    eot: name of the document separator; pad, cls, sep, mask: names of an encoder's tokens; "" to find them. start: name of
    the token that a decoder which reads a source begins every target with (T5: <pad>); "": the separator. begin: name of the
    token that is first in every source and (after start) in every target (BART: <s>); "": none. Sentinels are the special
    tokens <extra_id_0>, <extra_id_1>, ... that it has. casing: "cased" or "uncased", for a vocab.txt; "" to read it from the
    tokenizer_config.json beside it.
    """
    path: str = ""
    eot: str = ""
    pad: str = ""
    cls: str = ""
    sep: str = ""
    mask: str = ""
    start: str = ""
    begin: str = ""
    casing: str = ""

    def problems(self) -> list[str]:
        found = []
        if not self.path.strip():
            found.append("tokenizer.path is empty: name a tokenizer.json or a folder that holds one")
        if self.casing not in ("", "cased", "uncased"):
            found.append(f"tokenizer.casing={self.casing!r} must be cased or uncased")
        return found


def build(config: Config, documents: learn.Documents | None = None) -> JsonTokenizer:
    """Read the tokenizer; `documents` are not looked at. Raises UserError."""
    path = _file(pathlib.Path(os.path.expanduser(config.path)))
    beside = _settings(path.parent / "tokenizer_config.json")
    named = {role: vocabularies.name(beside.get(f"{role}_token")) for role in ROLES}
    if config.casing:
        beside = {**beside, "do_lower_case": config.casing == "uncased", "strip_accents": None}
    if path.name in ("vocab.json", "merges.txt"):
        text = vocabularies.byte_level(path.parent, beside)
    elif path.suffix == ".txt":
        text = vocabularies.wordpiece(path, beside)
    else:
        text = _read(path)
        _agrees(path, text, beside)
    template = chat.beside(path)
    found = JsonTokenizer(text, config.eot, str(path), template)
    # What the page says, then what stands beside the tokenizer, then the usual names.
    roles = {role: getattr(config, role) or named[role] for role in ROLES if getattr(config, role) or named[role] in found.special}
    roles |= {"begin": config.begin} if config.begin else {}
    return JsonTokenizer(text, config.eot, str(path), template, roles) if roles else found


def _file(path: pathlib.Path) -> pathlib.Path:
    """The file to read."""
    if path.is_dir():
        there = sorted(os.listdir(path))
        if {"source.spm", "target.spm"} <= {*there} and "tokenizer.json" not in there:
            raise UserError(f"tokenizer.path: {path} has a SentencePiece model for each side (source.spm, target.spm: Marian), which is not read "
                            "here: set it to a tokenizer.json that gives the ids of its vocab.json for both sides")
        found = [path / name for name in _FILES if name in there] + [path / n for n in there if n.endswith(".model")]
        if not found:
            raise UserError(f"tokenizer.path: the folder {path} holds no tokenizer: it must be {_KNOWN}")
        path = found[0]
    if not path.is_file():
        there = os.listdir(path.parent) if path.parent.is_dir() else []
        raise UserError(f"tokenizer.path: {path} does not exist{nearest(path.name, there)}; it must be {_KNOWN} "
                        "(tokenizer.save_pretrained(folder) of a fast tokenizer writes one)")
    if path.suffix == ".model":
        raise UserError(f"{path} is a SentencePiece model, which is not read here: where transformers and sentencepiece are "
                        "installed, AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes a tokenizer.json")
    return path


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"cannot read {path}: {e}") from e


def _settings(path: pathlib.Path) -> dict:
    """The tokenizer_config.json beside a tokenizer, {} where there is none."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(_read(path))
    except ValueError as e:
        raise UserError(f"{path} is not JSON ({e}): restore it, or remove it and set tokenizer.casing") from e
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a JSON object: restore it, or remove it and set tokenizer.casing")
    return found


def _agrees(path: pathlib.Path, text: str, beside: dict) -> None:
    """UserError where a tokenizer.json keeps case and what stands beside it does not, or the reverse."""
    try:
        normalizer = json.loads(text).get("normalizer") or {}
    except (ValueError, AttributeError):
        return  # said by the one who reads it
    wanted = beside.get("do_lower_case")
    if normalizer.get("type") == "BertNormalizer" and wanted is not None and normalizer.get("lowercase") != wanted:
        raise UserError(
            f"{path} has lowercase={normalizer.get('lowercase')} and do_lower_case={wanted} is asked for (by tokenizer.casing "
            "or the tokenizer_config.json beside it): make them agree, the model was trained with one of them")

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Tokenizers from before tokenizer.json: a vocab.txt (WordPiece), or vocab.json and merges.txt (byte-level BPE)."""
import json
import pathlib
from typing import Any

from jaxlm.core.errors import UserError
from jaxlm.data.tokenizers import alphabet, pairs
from jaxlm.data.tokenizers.tokenizer import ROLES, SEPARATORS
from jaxlm.data.tokenizers.wordpiece import finished

_UNKNOWN = ("[UNK]", "<unk>", "<|endoftext|>")


def name(token: Any) -> str:
    """Name of a token of a tokenizer_config.json, which is text or an object; "" where there is none."""
    return str(token.get("content", "")) if isinstance(token, dict) else token if isinstance(token, str) else ""


def wordpiece(path: pathlib.Path, settings: dict) -> str:
    """The tokenizer.json of a vocab.txt; `settings` is the content of a tokenizer_config.json."""
    try:
        # Not splitlines(): vocabularies have pieces that are line separators of Unicode.
        with open(path, encoding="utf-8") as lines:
            vocab = {line.rstrip("\n"): i for i, line in enumerate(lines)}
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"cannot read {path}: {e}") from e
    special = _special(vocab, settings)
    unknown, cls, sep = (name(settings.get(f"{role}_token")) or f"[{role.upper()}]" for role in ("unk", "cls", "sep"))
    missing = [token for token in (unknown, cls, sep) if token not in vocab]
    if missing:
        raise UserError(f"{path} has {len(vocab)} lines and none is {' or '.join(missing)}: it is not the vocabulary of a WordPiece "
                        "tokenizer, one token a line, or a part is missing, or a tokenizer_config.json beside it must name them")
    lower = settings.get("do_lower_case")
    if lower is None:
        raise UserError(f"{path} does not say whether it is of a cased or an uncased model, and no tokenizer_config.json beside "
                        "it does: set tokenizer.casing to cased or uncased")
    if settings.get("do_basic_tokenize") is False:
        raise UserError(f"the tokenizer_config.json beside {path} has do_basic_tokenize=false, words split at spaces alone, which "
                        "is not supported: save the tokenizer as a tokenizer.json")
    content = {
        **_empty(special),
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "lowercase": bool(lower),
                       "handle_chinese_chars": bool(settings.get("tokenize_chinese_chars", True)),
                       "strip_accents": settings.get("strip_accents")},
        "model": {"type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocab}}
    return json.dumps(finished(content, cls, sep))


def byte_level(folder: pathlib.Path, settings: dict) -> str:
    """The tokenizer.json of a folder's vocab.json and merges.txt (GPT-2, RoBERTa); `settings`, a tokenizer_config.json."""
    files = [folder / "vocab.json", folder / "merges.txt"]
    texts = []
    for file in files:
        if not file.is_file():
            raise UserError(f"{file} is missing: {files[0].name} and {files[1].name} are read together")
        try:
            texts.append(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as e:
            raise UserError(f"cannot read {file}: {e}") from e
    try:
        vocab = json.loads(texts[0])
    except ValueError as e:
        raise UserError(f"{files[0]} is not JSON ({e}): copy it again") from e
    if not isinstance(vocab, dict) or not all(isinstance(i, int) and i >= 0 for i in vocab.values()):
        raise UserError(f"{files[0]} is not a vocabulary, an object from tokens to ids: copy it again")
    if not all(c in vocab for c in alphabet.characters()) or any(token.endswith("</w>") for token in vocab):
        raise UserError(f"{files[0]} is not byte-level BPE as GPT-2 has it: save the tokenizer as a tokenizer.json")
    lines = texts[1].split("\n")
    merges = [line.split(" ") for line in lines[lines[0].startswith("#version"):] if line.strip()]
    wrong = next((m for m in merges if len(m) != 2 or not {*m, "".join(m)} <= vocab.keys()), None)
    if wrong:
        raise UserError(f"{files[1]} joins {' '.join(wrong)!r}, which {files[0].name} does not have: they are of two tokenizers, or "
                        "one of them is damaged")
    more = folder / "added_tokens.json"
    if more.exists():
        raise UserError(f"{more} is not read: save the tokenizer as a tokenizer.json")
    special = _special(vocab, settings)
    space = bool(settings.get("add_prefix_space", False))
    content = {
        **_empty(special),
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": merges}}
    if {"<s>", "</s>"} <= vocab.keys():
        content["post_processor"] = pairs.processor(("<s>", vocab["<s>"]), ("</s>", vocab["</s>"]))
    return json.dumps(content)


def _special(vocab: dict[str, int], settings: dict) -> dict[str, int]:
    """The special tokens that a vocabulary has, under the usual names or those that `settings` gives."""
    usual = {*(n for names in ROLES.values() for n in names), *SEPARATORS, *_UNKNOWN}
    stated = {name(settings.get(f"{role}_token")) for role in (*ROLES, "bos", "eos", "unk")}
    return {token: i for token, i in sorted(vocab.items(), key=lambda item: item[1]) if token in usual | stated}


def _empty(special: dict[str, int]) -> dict:
    added = [{"id": i, "content": token, "single_word": False, "lstrip": token == "<mask>", "rstrip": False, "normalized": False,
              "special": True} for token, i in special.items()]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": None, "post_processor": None, "decoder": None}

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The files of a tokenizer in a model's folder as Hugging Face reads it."""
import json

from jaxlm.data.tokenizers.tokenizer import ROLES, Tokenizer

_INPUTS = ("input_ids", "token_type_ids", "attention_mask")


def hf_files(tokenizer: Tokenizer, max_len: int = 0, types: bool = True, sides: bool = False) -> dict[str, str]:
    """{name: text} of tokenizer.json and what stands beside it; `AutoTokenizer.from_pretrained(folder)` gives the same ids.

    max_len: positions that the model has, 0 not to say. types: the model has token types (DistilBERT has none). sides: of an
    encoder-decoder, which reads a text as in training where the reader puts the special tokens around it: with its end.
    """
    content = json.loads(tokenizer.to_hf_json())
    if sides and tokenizer.own_template is None:
        content["post_processor"] = _around(tokenizer)
    names = {f"{role}_token": tokenizer.role(role) for role in ROLES if role != "start"}  # which config.json tells
    eot = next((name for name, i in tokenizer.special.items() if i == tokenizer.eot), None)
    if eot != "[SEP]":
        # RoBERTa and Llama begin a document with <s>, GPT-2 with what ended the one before, T5 with nothing.
        begin = "<s>" if "<s>" in tokenizer.special else eot if eot != "</s>" else None
        names |= {"eos_token": eot, "bos_token": begin}
    names["unk_token"] = tokenizer.unknown
    names = {role: name for role, name in sorted(names.items()) if name}
    pair = tokenizer.template.pair if names.keys() >= {"cls_token", "sep_token"} else ()
    inputs = [name for name in _INPUTS if name != "token_type_ids" or types and any(kind for _, _, kind in pair)]
    config = {
        # Not BertTokenizer and its like: those build the tokenizer anew from settings, this one is tokenizer.json itself.
        "tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": inputs, "clean_up_tokenization_spaces": False,
        "add_prefix_space": '"add_prefix_space": true' in json.dumps(content.get("pre_tokenizer")),
        **({"model_max_length": max_len} if max_len else {}), **names}
    return {"tokenizer.json": json.dumps(content, ensure_ascii=False), "tokenizer_config.json": json.dumps(config, indent=2),
            "special_tokens_map.json": json.dumps(names, indent=2)}


def _around(tokenizer: Tokenizer) -> dict:
    """A post-processor that ends a text with eot, behind the token of the role begin where there is one."""
    name = {i: name for name, i in tokenizer.special.items()}
    begin, end = tokenizer.roles.get("begin"), name[tokenizer.eot]
    special = lambda token: [{"SpecialToken": {"id": token, "type_id": 0}}] if token else []
    side = lambda of: [*special(begin), {"Sequence": {"id": of, "type_id": 0}}, *special(end)]
    ids = {token: tokenizer.special[token] for token in (begin, end) if token}
    return {"type": "TemplateProcessing", "single": side("A"), "pair": [*side("A"), *side("B")],
            "special_tokens": {token: {"id": token, "ids": [i], "tokens": [token]} for token, i in ids.items()}}

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The config page of a Hugging Face folder: its model, its tokenizer, and what such a model is trained on until told otherwise."""
from typing import Any

from ml_collections import ConfigDict

from jaxlm import build
from jaxlm.checkpoints.hf import folder


def page(source: folder.Folder) -> ConfigDict:
    """A locked config: text (Python's own) for a decoder or an encoder, for an encoder-decoder pairs.source and pairs.target."""
    kind = build.find("model", source.model).Config
    pairs, causal = getattr(kind, "source", False), getattr(kind, "causal", True)
    config = build.defaults(model=source.model, objective="seq2seq" if pairs else "causal_lm" if causal else "mlm",
                            source="parallel" if pairs else "text", tokenizer="file")
    with config.unlocked():
        config.model.update(source.fields)
    # Of both sides: data.source_len is data.seq_len until set.
    config.data.seq_len = min(config.data.seq_len, source.fields.get("max_len", config.data.seq_len))
    config.data.packing = "pairs" if pairs else config.data.packing
    config.source.path, config.tokenizer.path = "pairs" if pairs else "{stdlib}", str(source.path.resolve())
    if pairs:
        config.generate.update(folder.answers(source.path, source.hf))
    return config


def tokenizer(config: ConfigDict, source: folder.Folder) -> Any:
    """The config's tokenizer; the roles that an encoder-decoder's folder gives it are in the config from then on."""
    made = build.build(config, "tokenizer", None)
    if not getattr(build.section(config, "model"), "source", False):
        return made
    given = {role: name for role, name in folder.target_roles(source.hf, made).items() if not config.tokenizer[role]}
    config.tokenizer.update(given)
    return build.build(config, "tokenizer", None) if given else made

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""GPT-2 as Hugging Face stores it. Its Conv1D weights are [in, out]: nothing is transposed."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlm.checkpoints.hf import table
from jaxlm.checkpoints.hf.table import Row
from jaxlm.core.errors import UserError

MODEL = "gpt"
MODEL_TYPES = ("gpt2",)
PREFIX = "transformer."
# Causal masks that old files carry, and the head, which is the embedding.
IGNORE = r"\.attn\.(masked_)?bias$|^lm_head\.weight$"

_H, _B = "transformer.h.{}.", "blocks/"
TABLE = (
    Row("transformer.wte.weight", "embed/tokens"),
    Row("transformer.wpe.weight", "embed/positions"),
    *(
        Row(f"{_H}{theirs}.{'weight' if ours in ('scale', 'kernel') else 'bias'}", f"{_B}{path}/{ours}", part=part)
        for theirs, path, leaves, part in (
            ("ln_1", "norm1", ("scale", "bias"), (0, 1)),
            ("attn.c_attn", "attention/q", ("kernel", "bias"), (0, 3)),
            ("attn.c_attn", "attention/k", ("kernel", "bias"), (1, 3)),
            ("attn.c_attn", "attention/v", ("kernel", "bias"), (2, 3)),
            ("attn.c_proj", "attention/o", ("kernel", "bias"), (0, 1)),
            ("ln_2", "norm2", ("scale", "bias"), (0, 1)),
            ("mlp.c_fc", "mlp/up", ("kernel", "bias"), (0, 1)),
            ("mlp.c_proj", "mlp/down", ("kernel", "bias"), (0, 1)),
        )
        for ours in leaves
    ),
    Row("transformer.ln_f.weight", "norm/scale"),
    Row("transformer.ln_f.bias", "norm/bias"),
    Row("lm_head.weight", "head/table"),
)

ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
}


def config_from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of models/gpt.py's Config from a config.json; UserError for what that model cannot do."""
    if (
        hf.get("scale_attn_by_inverse_layer_idx")
        or not hf.get("scale_attn_weights", True)
        or hf.get("add_cross_attention")
    ):
        raise UserError(
            "this gpt2 config scales attention by layer, not at all, or adds cross-attention: not supported"
        )
    activation = hf.get("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        raise UserError(f"activation_function '{activation}' of this gpt2 config is not supported")
    return dict(
        vocab_size=hf["vocab_size"],
        max_len=hf["n_positions"],
        layers=hf["n_layer"],
        heads=hf["n_head"],
        embed=hf["n_embd"],
        mlp=hf.get("n_inner") or 0,
        activation=ACTIVATIONS[activation],
        norm_eps=float(hf.get("layer_norm_epsilon", 1e-5)),
        tie_embeddings=hf.get("tie_word_embeddings", True),
        positions="learned",
        bias=True,
    )


def params_from_hf(tensors: Mapping[str, np.ndarray], abstract: Any) -> dict[str, Any]:
    """Parameters like `abstract` (the model's) from a file's tensors; UserError when they do not fit."""
    tied = "head" not in abstract
    return table.to_params(tensors, TABLE, abstract, prefix=PREFIX, ignore=IGNORE if tied else IGNORE.split("|")[0])

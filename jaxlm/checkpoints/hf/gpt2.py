# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""GPT-2 as Hugging Face stores it. Its Conv1D weights are [in, out]: nothing is transposed."""

from collections.abc import Collection, Mapping
from typing import Any

from jaxlm.checkpoints.hf import table
from jaxlm.checkpoints.hf.table import Format, Row
from jaxlm.core.errors import UserError

MODELS = {"gpt2": "gpt"}
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

# Of several names for one function, the first is what is written.
ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
}


def config_from_hf(hf: Mapping[str, Any], names: Collection[str] = ()) -> dict[str, Any]:
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
        embed_dropout=float(hf.get("embd_pdrop", 0.1)),
        attention_dropout=float(hf.get("attn_pdrop", 0.1)),
        residual_dropout=float(hf.get("resid_pdrop", 0.1)),
        init_std=float(hf.get("initializer_range", 0.02)),
    )


def config_to_hf(config: Any, kind: str) -> dict[str, Any]:
    """The config.json of a models/gpt.py Config."""
    c = config
    return dict(
        architectures=["GPT2LMHeadModel"],
        model_type=kind,
        vocab_size=c.vocab_size,
        n_positions=c.max_len,
        n_layer=c.layers,
        n_head=c.heads,
        n_embd=c.embed,
        n_inner=c.mlp or None,
        activation_function=table.their_name(ACTIVATIONS, c.activation),
        layer_norm_epsilon=c.norm_eps,
        tie_word_embeddings=c.tie_embeddings,
        embd_pdrop=c.embed_dropout,
        attn_pdrop=c.attention_dropout,
        resid_pdrop=c.residual_dropout,
        initializer_range=c.init_std,
    )


def form(kind: str, paths: Collection[str]) -> Format:
    """The table for a model with these parameters."""
    # Causal masks that old files carry, and of a tied model the head, which is the embedding.
    ignore = r"\.attn\.(masked_)?bias$" + ("" if "head/table" in paths else r"|^lm_head\.weight$")
    return Format(TABLE, prefix="transformer.", ignore=ignore)

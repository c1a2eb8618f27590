# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""BART and Marian as Hugging Face stores them: models/transformer.py with one table for source, target and head.

Marian's positions are sines, which its files leave out. The bias of the logits is a buffer there and a parameter here.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from jaxlm.checkpoints.hf import table
from jaxlm.checkpoints.hf.table import Format, Row
from jaxlm.core.errors import UserError

MODELS = {"bart": "transformer", "marian": "transformer"}
ARCHITECTURES = {"bart": ("BartForConditionalGeneration", "BartModel"), "marian": ("MarianMTModel", "MarianModel")}
NORM_EPS = 1e-5  # torch's own: no field says it
OFFSET = 2  # rows of BART's table of positions that are not used

# Of several names for one function, the first is what is written.
ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "swish": "silu", "silu": "silu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
BIAS = "final_logits_bias"


def _side(side: str) -> tuple[Row, ...]:
    theirs, ours = f"model.{side}", f"{side}/blocks"
    pairs = lambda hf, path, inputs: (Row(f"{hf}.weight", f"{path}/{'kernel' if inputs else 'scale'}", inputs), Row(f"{hf}.bias", f"{path}/bias"))
    rows = [Row(f"{theirs}.embed_positions.weight", f"{side}/positions/table"), *pairs(f"{theirs}.layernorm_embedding", f"{side}/positions/norm", 0)]
    layer = f"{theirs}.layers.{{}}."
    for attention, path, norm, norm_path in (("self_attn", "attention", "self_attn_layer_norm", "norm1"),
                                             ("encoder_attn", "cross", "encoder_attn_layer_norm", "norm_cross")):
        for x in "qkv":
            rows += pairs(f"{layer}{attention}.{x}_proj", f"{ours}/{path}/{x}", 1)
        rows += [*pairs(f"{layer}{attention}.out_proj", f"{ours}/{path}/o", 2), *pairs(layer + norm, f"{ours}/{norm_path}", 0)]
    for name, path, inputs in (("fc1", "mlp/up", 1), ("fc2", "mlp/down", 1), ("final_layer_norm", "norm2", 0)):
        rows += pairs(layer + name, f"{ours}/{path}", inputs)
    return tuple(rows)


TABLE = (Row("model.shared.weight", "embed/tokens"), *_side("encoder"), *_side("decoder"), Row(BIAS, "logit_bias", ones=1))
# What files may repeat of the one table; versions, and of Marian the sines, that older ones carry.
_REPEATS = dict.fromkeys(("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"), "model.shared.weight")
_IGNORED = {"bart": r"^model\.(encoder|decoder)\.version$", "marian": r"^model\.(encoder|decoder)\.embed_positions\.weight$"}


def form(kind: str, paths: Collection[str]) -> Format:
    """The table for a model with these parameters."""
    return Format(TABLE, prefix="model.", ignore=_IGNORED[kind], repeats=_REPEATS)


def config_from_hf(hf: Mapping[str, Any], names: Collection[str] = ()) -> dict[str, Any]:
    """Fields of models/transformer.py's Config from a config.json and the names in its file; UserError for what it cannot do."""
    kind = hf["model_type"]
    table.known_architecture(hf, ARCHITECTURES[kind])
    name = hf.get("activation_function", "gelu")
    if name not in ACTIVATIONS:
        raise UserError(f"activation_function '{name}' of this {kind} config is not supported: there are {', '.join(ACTIVATIONS)}")
    if not hf.get("share_encoder_decoder_embeddings", True) or hf.get("decoder_vocab_size", hf["vocab_size"]) not in (None, hf["vocab_size"]):
        raise UserError(f"this {kind} config has a vocabulary for each side (share_encoder_decoder_embeddings=false): not supported, one "
                        "table is read by both")
    if not hf.get("tie_word_embeddings", True):
        raise UserError(f"this {kind} config has tie_word_embeddings=false, a table for each side and for the head: not supported")
    # Spelled out by files from before transformers 4, for other kin of theirs.
    for field, wanted in (("normalize_before", False), ("add_final_layer_norm", False), ("normalize_embedding", kind == "bart"),
                          ("static_position_embeddings", kind == "marian")):
        if bool(hf.get(field, wanted)) != wanted:
            raise UserError(f"{field}={hf[field]} of this {kind} config is not supported: {kind} has {wanted}")
    for field in ("encoder_layerdrop", "decoder_layerdrop"):
        if hf.get(field):
            raise UserError(f"this {kind} config trains with {field}={hf[field]}, whole layers left out: not supported (0 reads the same weights)")
    rate = float(hf.get("dropout", 0.1))
    return dict(
        vocab_size=hf["vocab_size"],
        max_len=hf["max_position_embeddings"],
        layers=table.either(hf, "encoder_layers", "num_hidden_layers"),
        decoder_layers=table.either(hf, "decoder_layers", "num_hidden_layers"),
        heads=table.either(hf, "encoder_attention_heads", "num_attention_heads"),
        decoder_heads=table.either(hf, "decoder_attention_heads", "num_attention_heads"),
        embed=table.either(hf, "d_model", "hidden_size"),
        mlp=hf["encoder_ffn_dim"],
        decoder_mlp=hf["decoder_ffn_dim"],
        positions="learned" if kind == "bart" else "sinusoidal",
        position_offset=OFFSET if kind == "bart" else 0,
        embed_scale=bool(hf.get("scale_embedding", False)),
        embed_norm=kind == "bart",
        order="post",
        activation=ACTIVATIONS[name],
        norm_eps=NORM_EPS,
        tie_embeddings=True,
        logit_bias=BIAS in names,
        init_std=float(hf.get("init_std", 0.02)),
        embed_dropout=rate,
        residual_dropout=rate,
        attention_dropout=float(hf.get("attention_dropout", 0.0)),
        mlp_dropout=float(hf.get("activation_dropout", 0.0)),
    )


def config_to_hf(config: Any, kind: str) -> dict[str, Any]:
    """The config.json of a models/transformer.py Config as `kind`; what `kind` has no field for is left out."""
    c = canonical(config)
    return dict(
        architectures=[ARCHITECTURES[kind][0]],
        model_type=kind,
        vocab_size=c.vocab_size,
        max_position_embeddings=c.max_len,
        encoder_layers=c.layers,
        decoder_layers=c.decoder_layers,
        encoder_attention_heads=c.heads,
        decoder_attention_heads=c.decoder_heads,
        d_model=c.embed,
        encoder_ffn_dim=c.mlp,
        decoder_ffn_dim=c.decoder_mlp,
        scale_embedding=c.embed_scale,
        activation_function=table.their_name(ACTIVATIONS, c.activation),
        tie_word_embeddings=c.tie_embeddings,
        init_std=c.init_std,
        dropout=c.residual_dropout,
        attention_dropout=c.attention_dropout,
        activation_dropout=c.mlp_dropout,
        is_encoder_decoder=True,
        **({"share_encoder_decoder_embeddings": True, "decoder_vocab_size": c.vocab_size} if kind == "marian" else {}),
    )


def canonical(config: Any) -> Any:
    """The same model with every field that has two spellings in one."""
    c = config
    mlp = c.mlp or 4 * c.embed
    return dataclasses.replace(c, mlp=mlp, decoder_mlp=c.decoder_mlp or mlp, decoder_layers=c.size_decoder_layers, decoder_heads=c.size_decoder_heads)

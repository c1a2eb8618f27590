# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""T5 as Hugging Face stores it: v1.0, and v1.1 and FLAN, whose head is a table of its own and whose logits are not scaled.

Before transformers 5 tie_word_embeddings=false said both; since then scale_decoder_outputs says the one and the file the other.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from jaxlm.checkpoints.hf import table
from jaxlm.checkpoints.hf.table import Format, Row
from jaxlm.core.errors import UserError

MODELS = {"t5": "t5"}
ARCHITECTURES = ("T5ForConditionalGeneration", "T5Model")

# Of several names for one function, the first is what is written.
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu", "silu": "silu", "swish": "silu"}
GATED = "gated-"


def _side(side: str, sublayers: tuple[tuple[str, str, str], ...]) -> tuple[Row, ...]:
    """Rows of a stack: for each sublayer their name, ours and its norm's."""
    block = f"{side}.block.{{}}.layer."
    rows = [Row(f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", f"{side}/relative/table"),
            Row(f"{side}.final_layer_norm.weight", f"{side}/norm/scale")]
    for i, (theirs, ours, norm) in enumerate(sublayers):
        rows.append(Row(f"{block}{i}.layer_norm.weight", f"{side}/blocks/{norm}/scale"))
        names = {"wi": "up", "wi_0": "gate", "wi_1": "up", "wo": "down"} if ours == "mlp" else {x: x for x in "qkvo"}
        rows += [Row(f"{block}{i}.{theirs}.{name}.weight", f"{side}/blocks/{ours}/{path}/kernel", 2 if path == "o" else 1)
                 for name, path in names.items()]
    return tuple(rows)


_SELF, _CROSS, _MLP = ("SelfAttention", "attention", "norm1"), ("EncDecAttention", "cross", "norm_cross"), ("DenseReluDense", "mlp", "norm2")
TABLE = (
    Row("shared.weight", "embed/tokens"),
    *_side("encoder", (_SELF, _MLP)),
    *_side("decoder", (_SELF, _CROSS, _MLP)),
    Row("lm_head.weight", "head/table"),
)
# What files may repeat, and a table that no layer reads.
_SHARED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_UNUSED = r"^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$"


def form(kind: str, paths: Collection[str]) -> Format:
    """The table for a model with these parameters."""
    gated = any(path.endswith("mlp/gate/kernel") for path in paths)
    unused = ".wi." if gated else ".wi_"
    repeats = (*_SHARED, *(() if "head/table" in paths else ("lm_head.weight",)))
    return Format(tuple(row for row in TABLE if unused not in row.hf), ignore=_UNUSED, repeats=dict.fromkeys(repeats, "shared.weight"))


def config_from_hf(hf: Mapping[str, Any], names: Collection[str] = ()) -> dict[str, Any]:
    """Fields of models/t5.py's Config from a config.json, old spelling or new; UserError for what that model cannot do."""
    table.known_architecture(hf, ARCHITECTURES)
    layers, feed = table.either(hf, "num_layers", "num_hidden_layers"), hf.get("feed_forward_proj", "relu")
    name = "gelu_new" if feed == "gated-gelu" else feed.removeprefix(GATED)
    if name not in ACTIVATIONS:
        raise UserError(f"feed_forward_proj '{feed}' of this t5 config is not supported: there are {', '.join(ACTIVATIONS)}, and with {GATED}")
    if hf.get("dense_act_fn", name) != name or hf.get("is_gated_act", feed.startswith(GATED)) != feed.startswith(GATED):
        raise UserError(f"this t5 config says feed_forward_proj '{feed}' and dense_act_fn '{hf.get('dense_act_fn')}', is_gated_act "
                        f"{hf.get('is_gated_act')}, which are two models: make them agree")
    tied = hf.get("tie_word_embeddings", True) is not False
    scale = hf.get("scale_decoder_outputs", tied)
    rate = float(hf.get("dropout_rate", 0.1))
    return dict(
        vocab_size=hf["vocab_size"],
        layers=layers,
        decoder_layers=hf.get("num_decoder_layers") or layers,
        heads=table.either(hf, "num_heads", "num_attention_heads"),
        head_dim=table.either(hf, "d_kv", "head_dim"),
        embed=table.either(hf, "d_model", "hidden_size"),
        mlp=hf["d_ff"],
        gated=feed.startswith(GATED),
        activation=ACTIVATIONS[name],
        buckets=hf.get("relative_attention_num_buckets", 32),
        max_distance=hf.get("relative_attention_max_distance", 128),
        norm_eps=float(hf.get("layer_norm_epsilon", 1e-6)),
        tie_embeddings=tied and (scale or "lm_head.weight" not in names),
        logit_scale=scale,
        embed_dropout=rate,
        attention_dropout=rate,
        residual_dropout=rate,
        mlp_dropout=rate,
    )


def config_to_hf(config: Any, kind: str) -> dict[str, Any]:
    """The config.json of a models/t5.py Config, of the head in both spellings."""
    c = config
    name = table.their_name(ACTIVATIONS, c.activation)
    # "gated-gelu" means gelu_new; another spelling of the same would be read as another function by older readers.
    feed = ("gated-gelu" if name == "gelu_new" else GATED + name) if c.gated else name
    if c.gated and c.activation == "gelu":
        raise UserError("a gated exact gelu has no name in a t5 config: 'gated-gelu' means its tanh form")
    if not c.tie_embeddings and c.logit_scale:
        raise UserError("t5 scales logits only where the head is the embedding's table: set logit_scale to false")
    return dict(
        architectures=[ARCHITECTURES[0]],
        model_type=kind,
        vocab_size=c.vocab_size,
        d_model=c.embed,
        d_kv=c.head_dim,
        d_ff=c.mlp,
        num_layers=c.layers,
        num_decoder_layers=c.size_decoder_layers,
        num_heads=c.heads,
        relative_attention_num_buckets=c.buckets,
        relative_attention_max_distance=c.max_distance,
        feed_forward_proj=feed,
        dense_act_fn=name,
        is_gated_act=c.gated,
        layer_norm_epsilon=c.norm_eps,
        tie_word_embeddings=c.tie_embeddings,
        scale_decoder_outputs=c.logit_scale,
        dropout_rate=c.residual_dropout,
        is_encoder_decoder=True,
    )


def canonical(config: Any) -> Any:
    """The same model with every field that has two spellings in one."""
    return dataclasses.replace(config, decoder_layers=config.size_decoder_layers)

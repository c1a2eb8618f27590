# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""BERT and its kin as Hugging Face stores them: BERT, RoBERTa, DistilBERT, ELECTRA, and ALBERT, which is a model of its own.

Which heads there are is told by the file: a model saved as one architecture may carry another one's head too.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from jaxlm.checkpoints.hf import table
from jaxlm.checkpoints.hf.table import Format, Row
from jaxlm.core.errors import UserError, nearest

MODELS = {"bert": "bert", "roberta": "bert", "distilbert": "bert", "electra": "bert", "albert": "albert"}

# Of several names for one function, the first is what is written.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
}

# The heads of each architecture, in the order of choice when a model with these heads is written.
ARCHITECTURES: dict[str, dict[str, set[str]]] = {
    "bert": {
        "BertForPreTraining": {"masked_head", "pair_head", "pooler"},
        "BertForMaskedLM": {"masked_head"},
        "BertForNextSentencePrediction": {"pair_head", "pooler"},
        "BertModel": set(),
    },
    "roberta": {"RobertaForMaskedLM": {"masked_head"}, "RobertaModel": set()},
    "distilbert": {"DistilBertForMaskedLM": {"masked_head"}, "DistilBertModel": set()},
    "electra": {
        "ElectraForPreTraining": {"discriminator"},
        "ElectraForMaskedLM": {"masked_head"},
        "ElectraModel": set(),
    },
    "albert": {
        "AlbertForPreTraining": {"masked_head", "pair_head", "pooler"},
        "AlbertForMaskedLM": {"masked_head"},
        "AlbertModel": set(),
    },
}


def _linear(theirs: str, ours: str, inputs: int = 1) -> tuple[Row, Row]:
    return Row(f"{theirs}.weight", f"{ours}/kernel", inputs), Row(f"{theirs}.bias", f"{ours}/bias")


def _norm(theirs: str, ours: str) -> tuple[Row, Row]:
    return Row(f"{theirs}.weight", f"{ours}/scale"), Row(f"{theirs}.bias", f"{ours}/bias")


def _body(prefix: str, layer: str, projection: str, q: str, k: str, v: str, o: str, norm1: str, up: str, down: str, norm2: str):
    tables, block = f"{prefix}.embeddings.", f"{prefix}.{layer}."
    return (
        Row(f"{tables}word_embeddings.weight", "embed/tokens"),
        Row(f"{tables}position_embeddings.weight", "embed/positions"),
        Row(f"{tables}token_type_embeddings.weight", "embed/types"),
        *_norm(f"{tables}LayerNorm", "embed/norm"),
        *_linear(f"{prefix}.{projection}", "embed/projection"),
        *_linear(block + q, "blocks/attention/q"),
        *_linear(block + k, "blocks/attention/k"),
        *_linear(block + v, "blocks/attention/v"),
        *_linear(block + o, "blocks/attention/o", 2),
        *_norm(block + norm1, "blocks/norm1"),
        *_linear(block + up, "blocks/mlp/up"),
        *_linear(block + down, "blocks/mlp/down"),
        *_norm(block + norm2, "blocks/norm2"),
    )


def _masked(dense: str, norm: str, bias: str, table: str) -> tuple[Row, ...]:
    return (
        *_linear(dense, "masked/dense"),
        *_norm(norm, "masked/norm"),
        Row(bias, "masked/bias"),
        Row(table, "masked/table"),
    )


_BERT_LAYER = (
    "encoder.layer.{}", "embeddings_project", "attention.self.query", "attention.self.key", "attention.self.value",
    "attention.output.dense", "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
)
ROWS: dict[str, tuple[Row, ...]] = {
    "bert": (
        *_body("bert", *_BERT_LAYER),
        *_linear("bert.pooler.dense", "pooler/dense"),
        *_masked("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias",
                 "cls.predictions.decoder.weight"),
        *_linear("cls.seq_relationship", "pair"),
    ),
    "roberta": (
        *_body("roberta", *_BERT_LAYER),
        *_linear("roberta.pooler.dense", "pooler/dense"),
        *_masked("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder.weight"),
    ),
    "electra": (
        *_body("electra", *_BERT_LAYER),
        *_masked("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head.bias", "generator_lm_head.weight"),
        *_linear("discriminator_predictions.dense", "discriminator/dense"),
        *_linear("discriminator_predictions.dense_prediction", "discriminator/out"),
    ),
    "distilbert": (
        *_body("distilbert", "transformer.layer.{}", "embeddings_project", "attention.q_lin", "attention.k_lin", "attention.v_lin",
               "attention.out_lin", "sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm"),
        *_masked("vocab_transform", "vocab_layer_norm", "vocab_projector.bias", "vocab_projector.weight"),
    ),
    "albert": (
        *_body("albert", "encoder.albert_layer_groups.0.albert_layers.0", "encoder.embedding_hidden_mapping_in", "attention.query",
               "attention.key", "attention.value", "attention.dense", "attention.LayerNorm", "ffn", "ffn_output",
               "full_layer_layer_norm"),
        *_linear("albert.pooler", "pooler/dense"),
        *_masked("predictions.dense", "predictions.LayerNorm", "predictions.bias", "predictions.decoder.weight"),
        *_linear("sop_classifier.classifier", "pair"),
    ),
}
# By which of our parameters a head is known.
_HEADS = {"masked_head": "masked/", "pair_head": "pair/", "pooler": "pooler/", "discriminator": "discriminator/"}
# The masked head's bias stands in the file once; older files repeat it, and the table that is that of the embeddings.
_REPEATED = {"bert": r"cls\.predictions\.decoder", "roberta": r"lm_head\.decoder", "electra": r"generator_lm_head",
             "distilbert": r"vocab_projector", "albert": r"predictions\.decoder"}
# The names of a norm's weights in files converted from TensorFlow's.
_RENAMED = ((r"\.gamma$", ".weight"), (r"\.beta$", ".bias"))


def form(kind: str, paths: Collection[str]) -> Format:
    """The table for a model of this kind with these parameters."""
    tied = r"weight|bias" if "masked/table" not in paths else "bias"
    repeated = rf"^{_REPEATED[kind]}\.({tied})$" if kind not in ("electra", "distilbert") else rf"^{_REPEATED[kind]}\.weight$"
    bare = not any(path.startswith(("masked/", "pair/", "discriminator/")) for path in paths)
    return Format(ROWS[kind], prefix=f"{kind}.", ignore=rf"embeddings\.position_ids$|{repeated}", bare=bare, renamed=_RENAMED)


def _heads(hf: Mapping[str, Any], names: Collection[str]) -> dict[str, bool]:
    """The heads that the architecture has, and those of which the file holds anything."""
    kind = hf["model_type"]
    known = ARCHITECTURES[kind]
    architecture = (hf.get("architectures") or list(known)[-1:])[0]
    if architecture not in known:
        raise UserError(f"architecture '{architecture}' has a head that is not here{nearest(architecture, known)} There are: "
                        f"{', '.join(known)}. Its body alone can be read: AutoModel.from_pretrained(FOLDER).save_pretrained(OTHER)")
    bare = lambda name: name.removeprefix(f"{kind}.")
    held = {bare(row.hf): head for head, start in _HEADS.items() for row in ROWS[kind] if row.ours.startswith(start)}
    present = {held[bare(name)] for name in names if bare(name) in held}
    return {head: head in known[architecture] | present for head in _HEADS}


def config_from_hf(hf: Mapping[str, Any], names: Collection[str] = ()) -> dict[str, Any]:
    """Fields of models/bert.py's (albert.py's) Config from a config.json and the names in its file; UserError for what it cannot do."""
    kind = hf["model_type"]
    if hf.get("is_decoder") or hf.get("position_embedding_type", "absolute") != "absolute":
        raise UserError(f"this {kind} config asks for a decoder or for relative positions: not supported")
    if hf.get("num_hidden_groups", 1) != 1 or hf.get("inner_group_num", 1) != 1:
        raise UserError("this albert config has more than one group of layers: not supported")
    heads = _heads(hf, names)
    if kind == "distilbert":
        hf = {"hidden_act": hf["activation"], "num_hidden_layers": hf["n_layers"], "num_attention_heads": hf["n_heads"],
              "hidden_size": hf["dim"], "intermediate_size": hf["hidden_dim"], "hidden_dropout_prob": hf.get("dropout", 0.1),
              "attention_probs_dropout_prob": hf.get("attention_dropout", 0.1), "type_vocab_size": 0, **hf}
    name = hf.get("hidden_act", "gelu_new" if kind == "albert" else "gelu")
    if name not in ACTIVATIONS:
        raise UserError(f"hidden_act '{name}' of this {kind} config is not supported")
    if kind in ("roberta", "electra") and heads["masked_head"] and name != "gelu":
        raise UserError(f"hidden_act '{name}' of this {kind} config: its masked head uses gelu all the same, ours one function for both")
    offset = hf.get("pad_token_id", 1) + 1 if kind == "roberta" else 0
    rate = 0.0 if kind == "albert" else 0.1
    return dict(
        vocab_size=hf["vocab_size"],
        max_len=hf["max_position_embeddings"] - offset,
        layers=hf["num_hidden_layers"],
        heads=hf["num_attention_heads"],
        embed=hf["hidden_size"],
        mlp=hf["intermediate_size"],
        embedding_size=hf["embedding_size"] if kind in ("albert", "electra") else hf["hidden_size"],
        types=hf["type_vocab_size"],
        position_offset=offset,
        activation=ACTIVATIONS[name],
        norm_eps=float(hf.get("layer_norm_eps", 1e-12)),
        tie_embeddings=hf.get("tie_word_embeddings", True),
        **heads,
        embed_dropout=float(hf.get("hidden_dropout_prob", rate)),
        residual_dropout=float(hf.get("hidden_dropout_prob", rate)),
        attention_dropout=float(hf.get("attention_probs_dropout_prob", rate)),
        init_std=float(hf.get("initializer_range", 0.02)),
    )


def config_to_hf(config: Any, kind: str) -> dict[str, Any]:
    """The config.json of a models/bert.py (albert.py) Config as `kind`, of the architecture with its heads."""
    c = config
    heads = {head for head in _HEADS if getattr(c, head)}
    architecture = next(name for name, needed in ARCHITECTURES[kind].items() if needed <= heads)
    if kind != "distilbert" and not c.types:
        raise UserError(f"types is 0, and {kind} has sentence types")
    name = table.their_name(ACTIVATIONS, c.activation)
    out = dict(
        architectures=[architecture],
        model_type=kind,
        vocab_size=c.vocab_size,
        max_position_embeddings=c.max_len + c.position_offset,
        tie_word_embeddings=c.tie_embeddings,
        initializer_range=c.init_std,
    )
    if kind == "distilbert":
        return out | dict(
            n_layers=c.layers, n_heads=c.heads, dim=c.embed, hidden_dim=c.mlp or 4 * c.embed, activation=name,
            dropout=c.residual_dropout, attention_dropout=c.attention_dropout, sinusoidal_pos_embds=False,
        )
    if kind in ("albert", "electra"):
        out["embedding_size"] = c.embedding_size or c.embed
    if kind == "roberta":  # positions are counted on from the number of the padding token
        out["pad_token_id"] = c.position_offset - 1
    return out | dict(
        num_hidden_layers=c.layers,
        num_attention_heads=c.heads,
        hidden_size=c.embed,
        intermediate_size=c.mlp or 4 * c.embed,
        type_vocab_size=c.types,
        hidden_act=name,
        layer_norm_eps=c.norm_eps,
        hidden_dropout_prob=c.residual_dropout,
        attention_probs_dropout_prob=c.attention_dropout,
    )


def canonical(config: Any) -> Any:
    """The same model with every field that has two spellings, or no effect, in one."""
    c = config
    return dataclasses.replace(
        c,
        mlp=c.mlp or 4 * c.embed,
        embedding_size=c.embedding_size or c.embed,
        tie_embeddings=c.tie_embeddings or not c.masked_head,
    )

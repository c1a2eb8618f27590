# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The Llama family as Hugging Face stores it: Llama, Mistral, Mixtral, Qwen 2 and 3, Gemma 1, 2 and 3 (text)."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

from jaxlm.checkpoints.hf import table
from jaxlm.checkpoints.hf.table import Format, Row
from jaxlm.core.errors import UserError

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}
MODELS = dict.fromkeys(ARCHITECTURES, "llama")

_L, _B = "model.layers.{}.", "blocks/"
_COMMON = (
    Row("model.embed_tokens.weight", "embed/tokens"),
    *(
        Row(f"{_L}{theirs}.{suffix}", f"{_B}{path}/{ours}", inputs=n if ours == "kernel" else 0)
        for theirs, path, n in (
            ("self_attn.q_proj", "attention/q", 1),
            ("self_attn.k_proj", "attention/k", 1),
            ("self_attn.v_proj", "attention/v", 1),
            ("self_attn.o_proj", "attention/o", 2),
            ("mlp.gate_proj", "mlp/gate", 1),
            ("mlp.up_proj", "mlp/up", 1),
            ("mlp.down_proj", "mlp/down", 1),
        )
        for suffix, ours in (("weight", "kernel"), ("bias", "bias"))
    ),
    Row(f"{_L}self_attn.q_norm.weight", f"{_B}attention/q_norm/scale"),
    Row(f"{_L}self_attn.k_norm.weight", f"{_B}attention/k_norm/scale"),
    Row(f"{_L}input_layernorm.weight", f"{_B}norm1/scale"),
    Row("model.norm.weight", "norm/scale"),
    Row("lm_head.weight", "head/table"),
)
TABLE = (*_COMMON, Row(f"{_L}post_attention_layernorm.weight", f"{_B}norm2/scale"))
# Mixtral: a tensor for each expert of each layer.
EXPERTS_TABLE = (
    *(row for row in TABLE if "mlp" not in row.ours),
    Row(f"{_L}block_sparse_moe.gate.weight", f"{_B}mlp/router/kernel", inputs=1),
    *(
        Row(f"{_L}block_sparse_moe.experts.{{}}.{theirs}.weight", f"{_B}mlp/{ours}/kernel", inputs=1)
        for theirs, ours in (("w1", "gate"), ("w3", "up"), ("w2", "down"))
    ),
)
# Gemma 2 and 3: four norms a layer, and the name that elsewhere is the second norm is here the first one's counterpart.
SANDWICH_TABLE = (
    *_COMMON,
    Row(f"{_L}post_attention_layernorm.weight", f"{_B}post_norm1/scale"),
    Row(f"{_L}pre_feedforward_layernorm.weight", f"{_B}norm2/scale"),
    Row(f"{_L}post_feedforward_layernorm.weight", f"{_B}post_norm2/scale"),
)

# Of several names for one function, the first is what is written.
ACTIVATIONS = {
    "silu": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
}


def config_from_hf(hf: Mapping[str, Any], names: Collection[str] = ()) -> dict[str, Any]:
    """Fields of models/llama.py's Config from a config.json, old spelling or new; UserError for what it cannot do."""
    kind = hf["model_type"]
    gemma, newer = kind.startswith("gemma"), kind in ("gemma2", "gemma3_text")
    heads, layers = hf["num_attention_heads"], hf["num_hidden_layers"]
    # Gemma 1's files may say "gelu"; the weights were trained with the tanh form, which is what the reference runs.
    name = hf.get("hidden_activation") or hf.get("hidden_act") or "silu"
    if name not in ACTIVATIONS:
        raise UserError(f"hidden_act '{name}' of this {kind} config is not supported")
    if hf.get("use_bidirectional_attention"):
        raise UserError(f"this {kind} config asks for bidirectional attention: not supported")
    if hf.get("router_jitter_noise"):
        raise UserError(f"this {kind} config trains with router_jitter_noise: not supported (set it to 0 to do without)")
    out = dict(
        vocab_size=hf["vocab_size"],
        max_len=hf["max_position_embeddings"],
        layers=layers,
        heads=heads,
        kv_heads=hf.get("num_key_value_heads") or heads,
        embed=hf["hidden_size"],
        head_dim=hf.get("head_dim") or hf["hidden_size"] // heads,
        mlp=hf["intermediate_size"],
        activation="gelu_tanh" if kind == "gemma" else ACTIVATIONS[name],
        norm_eps=float(hf.get("rms_norm_eps", 1e-6)),
        norm_offset=1.0 if gemma else 0.0,
        sandwich=newer,
        qk_norm=kind in ("qwen3", "gemma3_text"),
        qkv_bias=kind == "qwen2" or bool(hf.get("attention_bias")),
        out_bias=kind != "qwen2" and bool(hf.get("attention_bias")),
        mlp_bias=bool(hf.get("mlp_bias")),
        # Every Gemma ties, and its file may leave the field out.
        tie_embeddings=hf.get("tie_word_embeddings", gemma),
        embed_scale=gemma,
        query_scale=hf["query_pre_attn_scalar"] ** -0.5 if newer else 0.0,
        attention_soft_cap=float(hf.get("attn_logit_softcapping") or 0.0) if newer else 0.0,
        logit_soft_cap=float(hf.get("final_logit_softcapping") or 0.0) if newer else 0.0,
        attention_dropout=float(hf.get("attention_dropout") or 0.0),
        init_std=float(hf.get("initializer_range", 0.02)),
    )
    if kind == "mixtral":
        out |= dict(
            experts=hf["num_local_experts"],
            experts_per_token=hf.get("num_experts_per_tok", 2),
            router_aux=float(hf.get("router_aux_loss_coef", 0.001)),
        )
    return out | _window(hf, kind, layers) | _rope(hf, kind)


def _window(hf: Mapping[str, Any], kind: str, layers: int) -> dict[str, Any]:
    window = hf.get("sliding_window") or 0
    if kind.startswith("qwen") and not hf.get("use_sliding_window"):
        window = 0
    if not window or kind in ("llama", "gemma"):
        return dict(window=0)
    types = hf.get("layer_types")
    if types:
        pattern = "".join({"sliding_attention": "L", "full_attention": "G"}[name] for name in types)
    elif kind in ("mistral", "mixtral"):
        pattern = "L"
    elif kind.startswith("qwen"):
        first = min(hf.get("max_window_layers", 28), layers)
        pattern = "G" * first + "L" * (layers - first)
    else:
        every = 2 if kind == "gemma2" else hf.get("sliding_window_pattern", 6)
        pattern = "L" * (every - 1) + "G"
    return dict(window=window, window_pattern=pattern)


def _rope(hf: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """rope_parameters (new) holds theta and scaling; rope_theta and rope_scaling (old) stand side by side."""
    scaling = dict(hf.get("rope_parameters") or hf.get("rope_scaling") or {})
    out: dict[str, Any] = {}
    default_theta = 10000.0
    if kind == "mixtral":
        default_theta = 1000000.0
    if kind == "gemma3_text":
        default_theta = 1000000.0
        local = scaling.get("sliding_attention") or {}
        out["rope_local_theta"] = float(local.get("rope_theta") or hf.get("rope_local_base_freq") or 10000.0)
        if "full_attention" in scaling:
            scaling = dict(scaling["full_attention"])
    out["rope_theta"] = float(scaling.get("rope_theta") or hf.get("rope_theta") or default_theta)
    name = scaling.get("rope_type") or scaling.get("type") or "default"
    if scaling.get("partial_rotary_factor", hf.get("partial_rotary_factor", 1.0)) != 1.0:
        raise UserError(f"this {kind} config rotates only a part of each head: not supported")
    if name == "default":
        return out
    if name not in ("linear", "llama3", "yarn"):
        raise UserError(
            f"rope type '{name}' of this {kind} config is not supported: it changes with the input's length. "
            "There are linear, llama3, yarn, and ntk at a fixed factor (rope_scaling=ntk)."
        )
    out |= dict(rope_scaling=name, rope_factor=float(scaling["factor"]))
    if name != "linear":
        original = scaling.get("original_max_position_embeddings") or hf["max_position_embeddings"]
        out["rope_original_len"] = int(original)
    if name == "llama3":
        out |= dict(rope_low=float(scaling["low_freq_factor"]), rope_high=float(scaling["high_freq_factor"]))
    if name == "yarn":
        out |= dict(
            rope_beta_fast=float(scaling.get("beta_fast") or 32),
            rope_beta_slow=float(scaling.get("beta_slow") or 1),
            rope_truncate=bool(scaling.get("truncate", True)),
            rope_attention_factor=_yarn_factor(scaling),
        )
    return out


def _yarn_factor(scaling: Mapping[str, Any]) -> float:
    """The factor on sine and cosine where the file states it, or by two mscales (DeepSeek's); else 0, by the paper."""
    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        grown = lambda m: 0.1 * m * math.log(scaling["factor"]) + 1.0 if scaling["factor"] > 1 else 1.0
        return grown(scaling["mscale"]) / grown(scaling["mscale_all_dim"])
    return 0.0


def config_to_hf(config: Any, kind: str) -> dict[str, Any]:
    """The config.json of a models/llama.py Config as `kind`, rotary fields in both spellings.

    What `kind` has no field for is left out: who reads it back must find the same config.
    """
    c = config
    newer = kind in ("gemma2", "gemma3_text")
    name = table.their_name(ACTIVATIONS, c.activation)
    out = dict(
        architectures=[ARCHITECTURES[kind]],
        model_type=kind,
        vocab_size=c.vocab_size,
        max_position_embeddings=c.max_len,
        num_hidden_layers=c.layers,
        num_attention_heads=c.heads,
        num_key_value_heads=c.size_kv_heads,
        hidden_size=c.embed,
        head_dim=c.size_head_dim,
        intermediate_size=c.mlp,
        rms_norm_eps=c.norm_eps,
        tie_word_embeddings=c.tie_embeddings,
        attention_dropout=c.attention_dropout,
        initializer_range=c.init_std,
        **{"hidden_activation" if newer else "hidden_act": name},
    )
    if kind == "mixtral":
        out |= dict(num_local_experts=c.experts, num_experts_per_tok=c.experts_per_token, router_aux_loss_coef=c.router_aux)
    if kind not in ("mistral", "mixtral", "qwen2"):
        out["attention_bias"] = c.qkv_bias
    if kind == "llama":
        out["mlp_bias"] = c.mlp_bias
    if newer:
        out |= dict(
            query_pre_attn_scalar=round((c.query_scale or c.size_head_dim**-0.5) ** -2),
            attn_logit_softcapping=c.attention_soft_cap or None,
            final_logit_softcapping=c.logit_soft_cap or None,
        )
    if kind not in ("llama", "gemma"):
        out["sliding_window"] = c.window or None
    if newer or kind.startswith("qwen"):
        local = [c.window > 0 and c.window_pattern[i % len(c.window_pattern)] == "L" for i in range(c.layers)]
        out["layer_types"] = ["sliding_attention" if x else "full_attention" for x in local]
        if kind.startswith("qwen"):
            out["use_sliding_window"] = c.window > 0
            if any(local):
                out["max_window_layers"] = local.index(True)
    return out | _rope_to_hf(c, kind)


def _rope_to_hf(c: Any, kind: str) -> dict[str, Any]:
    """Readers of the old spelling ignore the new one, and would take 10000 for a theta that they do not find."""
    scaling: dict[str, Any] = dict(rope_type=c.rope_scaling, factor=c.rope_factor)
    if c.rope_scaling == "none":
        scaling = dict(rope_type="default")
    elif c.rope_scaling != "linear":
        scaling["original_max_position_embeddings"] = c.rope_original_len
    if c.rope_scaling == "llama3":
        scaling |= dict(low_freq_factor=c.rope_low, high_freq_factor=c.rope_high)
    if c.rope_scaling == "yarn":
        scaling |= dict(beta_fast=c.rope_beta_fast, beta_slow=c.rope_beta_slow, truncate=c.rope_truncate)
        if c.rope_attention_factor:
            scaling["attention_factor"] = c.rope_attention_factor
    new = dict(scaling, rope_theta=c.rope_theta)
    out = dict(rope_parameters=new, rope_theta=c.rope_theta)
    if c.rope_scaling != "none":
        out["rope_scaling"] = scaling
    if kind == "gemma3_text":
        out["rope_local_base_freq"] = c.rope_local_theta
        out["rope_parameters"] = dict(full_attention=new, sliding_attention=dict(rope_type="default", rope_theta=c.rope_local_theta))
    return out


def canonical(config: Any) -> Any:
    """The same model with every field that has two spellings, or no effect, in one."""
    c, default = config, type(config)()
    unused = {"none": "factor original_len low high", "linear": "original_len low high", "yarn": "low high", "llama3": ""}
    yarn = "" if c.rope_scaling == "yarn" else " beta_fast beta_slow truncate attention_factor"
    fields = [f"rope_{name}" for name in (unused.get(c.rope_scaling, "") + yarn).split()]
    fields += [] if c.experts else ["experts_per_token"]
    pattern = "".join(c.window_pattern[i % len(c.window_pattern)] for i in range(c.layers))
    window = c.window if "L" in pattern else 0
    return dataclasses.replace(
        c,
        **{name: getattr(default, name) for name in fields},
        kv_heads=c.size_kv_heads,
        head_dim=c.size_head_dim,
        query_scale=c.query_scale or c.size_head_dim**-0.5,
        window=window,
        window_pattern=pattern if window else "L",
    )


def form(kind: str, paths: Collection[str]) -> Format:
    """The table for a model with these parameters."""
    # Frequencies that old files carry, and of a tied model the head, which is the embedding.
    ignore = r"rotary_emb\.inv_freq$" + ("" if "head/table" in paths else r"|^lm_head\.weight$")
    rows = SANDWICH_TABLE if "blocks/post_norm1/scale" in paths else EXPERTS_TABLE if "blocks/mlp/router/kernel" in paths else TABLE
    return Format(rows, prefix="model.", ignore=ignore)

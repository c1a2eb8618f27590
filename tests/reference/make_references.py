# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Logits of the reference implementations (torch, transformers) for tiny random models, to compare ours with.

    python tests/reference/make_references.py        # writes <name>.npz beside this file

Every parameter gets noise, norms and biases too: with a fresh model's zeros and ones a wrong map of them passes.
Weights are multiples of 1 / 64, stored as int8: exact, and small. Names are those of the saved file, not of the module.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file

HERE = pathlib.Path(__file__).parent
STEP = 64.0
ROWS, LENGTH, REAL = 2, 23, 17  # the second row has REAL tokens, then padding
SOURCE, SOURCE_REAL = 29, 11  # the same of an encoder's side

_BASE = dict(
    vocab_size=37,
    hidden_size=20,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=28,
    max_position_embeddings=64,
)
_LLAMA = dict(_BASE, num_key_value_heads=2, head_dim=6, tie_word_embeddings=False)
_GEMMA = dict(_BASE, num_key_value_heads=2, head_dim=6)
_ENCODER = dict(_BASE, type_vocab_size=3)
_T5 = dict(
    vocab_size=37,
    d_model=20,
    d_kv=6,
    d_ff=28,
    num_layers=2,
    num_decoder_layers=3,
    num_heads=4,
    relative_attention_num_buckets=12,
    relative_attention_max_distance=16,
    decoder_start_token_id=0,
)
_BART = dict(
    vocab_size=37,
    d_model=20,
    encoder_layers=2,
    decoder_layers=3,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=28,
    decoder_ffn_dim=28,
    max_position_embeddings=40,
)

# name: (model class, config class, fields). Windows and first lengths are shorter than LENGTH.
CASES = {
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        dict(vocab_size=37, n_positions=40, n_embd=20, n_layer=2, n_head=5, n_inner=28),
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", dict(_LLAMA, attention_bias=True, mlp_bias=True)),
    "llama_linear": (
        "LlamaForCausalLM",
        "LlamaConfig",
        dict(_LLAMA, rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=3.0)),
    ),
    "llama_llama3": (
        "LlamaForCausalLM",
        "LlamaConfig",
        dict(
            _LLAMA,
            head_dim=10,
            rope_parameters=dict(
                rope_type="llama3",
                rope_theta=5000.0,
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=16,
            ),
        ),
    ),
    "llama_yarn": (
        "LlamaForCausalLM",
        "LlamaConfig",
        dict(
            _LLAMA,
            head_dim=10,
            rope_parameters=dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16),
        ),
    ),
    "mistral": ("MistralForCausalLM", "MistralConfig", dict(_LLAMA, sliding_window=5)),
    "mixtral": (
        "MixtralForCausalLM",
        "MixtralConfig",
        dict(_LLAMA, sliding_window=5, num_local_experts=5, num_experts_per_tok=2, router_aux_loss_coef=0.02),
    ),
    "qwen2": (
        "Qwen2ForCausalLM",
        "Qwen2Config",
        dict(
            {k: v for k, v in _LLAMA.items() if k != "head_dim"},
            hidden_size=24,
            num_hidden_layers=3,
            use_sliding_window=True,
            sliding_window=6,
            max_window_layers=1,
        ),
    ),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", dict(_LLAMA, tie_word_embeddings=True)),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", _GEMMA),
    "gemma2": (
        "Gemma2ForCausalLM",
        "Gemma2Config",
        dict(
            _GEMMA,
            num_hidden_layers=3,
            sliding_window=5,
            query_pre_attn_scalar=9,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=3.0,
        ),
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        dict(
            _GEMMA,
            num_hidden_layers=3,
            sliding_window=5,
            query_pre_attn_scalar=9,
            sliding_window_pattern=3,
            rope_parameters=dict(
                full_attention=dict(rope_type="linear", rope_theta=100000.0, factor=4.0),
                sliding_attention=dict(rope_type="default", rope_theta=1000.0),
            ),
        ),
    ),
    "bert": ("BertForPreTraining", "BertConfig", _ENCODER),
    "bert_model": ("BertModel", "BertConfig", dict(_ENCODER, hidden_act="gelu_new")),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", dict(_ENCODER, type_vocab_size=1, layer_norm_eps=1e-5)),
    "albert": ("AlbertForPreTraining", "AlbertConfig", dict(_ENCODER, embedding_size=12, num_hidden_layers=3)),
    "distilbert": (
        "DistilBertForMaskedLM",
        "DistilBertConfig",
        dict(vocab_size=37, max_position_embeddings=64, n_layers=2, n_heads=4, dim=20, hidden_dim=28, activation="relu"),
    ),
    "electra": ("ElectraForPreTraining", "ElectraConfig", dict(_ENCODER, embedding_size=12)),
    "electra_generator": ("ElectraForMaskedLM", "ElectraConfig", dict(_ENCODER, embedding_size=12)),
    "t5": ("T5ForConditionalGeneration", "T5Config", _T5),
    "t5_v1_1": (
        "T5ForConditionalGeneration",
        "T5Config",
        dict(_T5, d_kv=7, num_layers=3, num_decoder_layers=2, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    ),
    "bart": ("BartForConditionalGeneration", "BartConfig", _BART),
    "bart_scaled": (
        "BartForConditionalGeneration",
        "BartConfig",
        dict(_BART, scale_embedding=True, activation_function="relu", encoder_layers=3, decoder_layers=2),
    ),
    "marian": (
        "MarianMTModel",
        "MarianConfig",
        dict(_BART, scale_embedding=True, activation_function="swish", pad_token_id=36, decoder_start_token_id=36, eos_token_id=0),
    ),
}
# Their name of each result -> ours.
RESULTS = {
    "prediction_logits": "logits",
    "logits": "logits",
    "seq_relationship_logits": "pair",
    "sop_logits": "pair",
    "pooler_output": "pooled",
    "last_hidden_state": "hidden",
    "aux_loss": "balance",
}


def draw(config, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """tokens, segments and (where there are any) types or a source; the padding of RoBERTa is token 1, by which it counts positions."""
    if config.is_encoder_decoder:
        out = {}
        for side, length, real in (("source_", SOURCE, SOURCE_REAL), ("", LENGTH, REAL)):
            tokens, segments = rng.integers(0, config.vocab_size, (ROWS, length)), np.ones((ROWS, length), np.int64)
            tokens[1, real:], segments[1, real:] = config.pad_token_id, 0
            out |= {f"{side}tokens": tokens, f"{side}segments": segments}
        out["tokens"][:, 0] = config.decoder_start_token_id
        return out
    padding = 1 if config.model_type == "roberta" else 0
    tokens = rng.integers(padding + 1, config.vocab_size, (ROWS, LENGTH))
    segments = np.ones_like(tokens)
    segments[1, REAL:] = 0
    tokens[1, REAL:] = padding
    types = getattr(config, "type_vocab_size", 0) or 0
    return {"tokens": tokens, "segments": segments} | ({"types": rng.integers(0, types, tokens.shape)} if types else {})


def run(model, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The results of a reference model, by our names."""
    names = {"tokens": "input_ids", "segments": "attention_mask", "types": "token_type_ids"}
    if model.config.is_encoder_decoder:
        names = {f"{side}{ours}": f"{their}{name}" for side, their in (("source_", ""), ("", "decoder_"))
                 for ours, name in (("tokens", "input_ids"), ("segments", "attention_mask"))}
    if hasattr(model.config, "output_router_logits"):
        model.config.output_router_logits = True  # and with them the load balancing loss
    with torch.no_grad():
        found = model(**{names[key]: torch.tensor(x.astype(np.int64)) for key, x in inputs.items()})
    return {ours: found[theirs].numpy() for theirs, ours in RESULTS.items() if theirs in found}


def make(name: str, seed: int) -> dict[str, np.ndarray]:
    """config (json), what goes in (tokens, segments, types), what comes out, and the saved tensors: shapes by name
    (json), weights end to end."""
    model_name, config_name, fields = CASES[name]
    config = getattr(transformers, config_name)(**fields, attn_implementation="eager")
    torch.manual_seed(seed)
    model = getattr(transformers, model_name)(config).eval()
    if not getattr(config, "scale_decoder_outputs", True):  # transformers 5 makes T5 v1.1 tied, and reads it untied from files
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    drawn = [p for p in model.parameters() if p.requires_grad]  # not Marian's table of sines
    drawn += [buffer for name, buffer in model.named_buffers() if name == "final_logits_bias"]
    with torch.no_grad():
        for p in drawn:
            # Matrices large enough that attention is far from uniform; the rest around what it starts at.
            noise = torch.randn_like(p) * (0.3 if p.ndim > 1 else 0.25)
            p.copy_(torch.clamp(torch.round(((0 if p.ndim > 1 else p) + noise) * STEP), -127, 127) / STEP)
    inputs = draw(config, np.random.default_rng(seed))
    results = run(model, inputs)
    if model_name == "ElectraForPreTraining":
        results = {"discriminator": results["logits"]}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        saved = json.loads((pathlib.Path(folder) / "config.json").read_text())
        weights = load_file(f"{folder}/model.safetensors")
    whole = {key: np.round(value * STEP).astype(np.int8) for key, value in weights.items()}
    assert all(np.array_equal(whole[key] / STEP, value) for key, value in weights.items())
    return {
        "config": np.array(json.dumps(saved)),
        **{key: x.astype(np.int8) for key, x in inputs.items()},
        **results,
        "shapes": np.array(json.dumps({key: x.shape for key, x in whole.items()})),
        "weights": np.concatenate([x.ravel() for x in whole.values()]),
    }


if __name__ == "__main__":
    for case in sys.argv[1:] or CASES:
        seeds = {f"{seed}/{key}": value for seed in (0, 1) for key, value in make(case, seed).items()}
        np.savez_compressed(HERE / f"{case}.npz", **seeds)
        print(case, (HERE / f"{case}.npz").stat().st_size, "bytes")

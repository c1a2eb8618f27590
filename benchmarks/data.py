# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What every contender starts from, as files: initial weights under Hugging Face's names, a stream of random tokens, and batches of it."""
import pathlib
import zlib

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.shapes import BUCKETS, Shape

# The stream holds so many different batches and is read again and again: the loss falls, and so shows what the optimizer does.
BATCHES = 2
# Masks and spans are drawn anew for every step: so many are kept, for contenders that do not draw.
DRAWN = 8
MASK, SENTINELS = 1, range(2, 102)  # ids with a meaning


def draw(shape: Shape, seed: int = 0) -> dict[str, np.ndarray]:
    """Normal weights of deviation 0.02 (onto the residual stream: less, by depth), norms near 1, small biases, float32.

    Norms and biases are drawn too: at 1 and 0 a contender that lacks them would not be noticed.
    """
    out = {}
    for name, (size, mean, deviation) in _table(shape).items():
        random = np.random.default_rng([seed, zlib.crc32(name.encode())])
        out[name] = mean + deviation * random.standard_normal(size, np.float32)
    return {name: value.astype(np.float32) for name, value in out.items()}


Table = dict[str, tuple[tuple[int, ...], float, float]]  # size, mean, deviation


def _weight(*size: int, std: float = 0.02) -> tuple[tuple[int, ...], float, float]:
    return size, 0.0, std


def _pair(name: str, *size: int, std: float = 0.02, bias: int = 0) -> Table:
    """A weight and its bias, as long as its first dimension where nothing else is said."""
    return {f"{name}.weight": _weight(*size, std=std), f"{name}.bias": _weight(bias or size[0], std=0.01)}


def _norm(name: str, size: int, bias: bool = True) -> Table:
    return {f"{name}.weight": ((size,), 1.0, 0.05)} | ({f"{name}.bias": _weight(size, std=0.01)} if bias else {})


def _table(shape: Shape) -> Table:
    return {"gpt": _gpt, "llama": _llama, "bert": _bert, "t5": _t5}[shape.family](shape)


def _gpt(s: Shape) -> Table:  # Conv1D weights are [in, out]
    D, F, last = s.embed, s.hidden, 0.02 / (2 * s.layers) ** 0.5
    out = {"transformer.wte.weight": _weight(s.vocab, D), "transformer.wpe.weight": _weight(s.length, D)}
    for i in range(s.layers):
        p = f"transformer.h.{i}."
        out |= _norm(p + "ln_1", D) | _norm(p + "ln_2", D)
        for name, a, b, std in (("attn.c_attn", D, 3 * D, 0.02), ("attn.c_proj", D, D, last), ("mlp.c_fc", D, F, 0.02),
                                ("mlp.c_proj", F, D, last)):
            out |= _pair(p + name, a, b, std=std, bias=b)
    return out | _norm("transformer.ln_f", D)


def _llama(s: Shape) -> Table:
    D, F, kv, last = s.embed, s.hidden, s.keys * s.head_dim, 0.02 / (2 * s.layers) ** 0.5
    out = {"model.embed_tokens.weight": _weight(s.vocab, D)}
    for i in range(s.layers):
        p = f"model.layers.{i}."
        out |= _norm(p + "input_layernorm", D, False) | _norm(p + "post_attention_layernorm", D, False)
        for name, a, b, std in (
                ("self_attn.q_proj", D, D, 0.02), ("self_attn.k_proj", D, kv, 0.02), ("self_attn.v_proj", D, kv, 0.02),
                ("self_attn.o_proj", D, D, last), ("mlp.gate_proj", D, F, 0.02), ("mlp.up_proj", D, F, 0.02), ("mlp.down_proj", F, D, last)):
            out[f"{p}{name}.weight"] = _weight(b, a, std=std)
    out |= _norm("model.norm", D, False)
    return out if s.tied else out | {"lm_head.weight": _weight(s.vocab, D)}


def _bert(s: Shape) -> Table:
    D, F, e, head = s.embed, s.hidden, "bert.embeddings.", "cls.predictions."
    out = {f"{e}{name}_embeddings.weight": _weight(n, D) for name, n in (("word", s.vocab), ("position", s.length), ("token_type", 2))}
    out |= _norm(e + "LayerNorm", D)
    for i in range(s.layers):
        p = f"bert.encoder.layer.{i}."
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            out |= _pair(p + name, D, D)
        out |= _norm(p + "attention.output.LayerNorm", D) | _pair(p + "intermediate.dense", F, D) | _pair(p + "output.dense", D, F)
        out |= _norm(p + "output.LayerNorm", D)
    out |= _pair(head + "transform.dense", D, D) | _norm(head + "transform.LayerNorm", D)
    return out | {head + "bias": _weight(s.vocab, std=0.01)}


def _t5(s: Shape) -> Table:  # drawn as published: scores are not scaled, logits are
    D, F, inner = s.embed, s.hidden, s.heads * s.head_dim
    out = {"shared.weight": _weight(s.vocab, D, std=1.0)}
    for side, names in (("encoder", ("SelfAttention",)), ("decoder", ("SelfAttention", "EncDecAttention"))):
        for i in range(s.layers):
            p = f"{side}.block.{i}.layer."
            for j, name in enumerate(names):
                q = f"{p}{j}.{name}."
                out |= {f"{q}{x}.weight": _weight(inner, D, std=D**-0.5 * (s.head_dim**-0.5 if x == "q" else 1)) for x in "qkv"}
                out |= {q + "o.weight": _weight(D, inner, std=inner**-0.5)} | _norm(f"{p}{j}.layer_norm", D, False)
            feed = f"{p}{len(names)}."
            out |= {feed + "DenseReluDense.wi.weight": _weight(F, D, std=D**-0.5), feed + "DenseReluDense.wo.weight": _weight(D, F, std=F**-0.5)}
            out |= _norm(feed + "layer_norm", D, False)
        out[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = _weight(BUCKETS, s.heads, std=D**-0.5)
        out |= _norm(f"{side}.final_layer_norm", D, False)
    return out


def write(folder: pathlib.Path, shape: Shape, seed: int = 0) -> None:
    """weights.safetensors and what `write_tokens` does into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(draw(shape, seed), folder / "weights.safetensors")
    write_tokens(folder, shape, seed)


def write_tokens(folder: pathlib.Path, shape: Shape, seed: int = 0) -> None:
    """tokens.npy int32, BATCHES batches and one more; and of a family whose batches are drawn of them drawn.npz (see `batches`)."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_of = lambda first, size: np.random.default_rng(seed).integers(first, shape.vocab, size, dtype=np.int32)
    if not shape.drawn:
        np.save(folder / "tokens.npy", draw_of(1, BATCHES * shape.tokens + 1))
        return
    from benchmarks import drawn  # imports jax, and a contender may be torch

    stream = draw_of(SENTINELS.stop, drawn.size(shape, BATCHES * shape.batch))
    np.save(folder / "tokens.npy", stream)
    made = enumerate(drawn.batches(shape, stream, DRAWN))
    np.savez(folder / "drawn.npz", **{f"{step}/{i}": x for step, batch in made for i, x in enumerate(batch)})


def weights(folder: pathlib.Path) -> dict[str, np.ndarray]:
    return load_file(folder / "weights.safetensors")


def batches(folder: pathlib.Path, shape: Shape) -> list[tuple[np.ndarray, ...]]:
    """What the first steps read; later steps have it again. Decoders: (tokens, next tokens) [batch, length].

    bert: (tokens [batch, length], predict, targets, weights [batch, predictions]), t5: (source_tokens [batch, source], tokens,
    targets, weights [batch, length]), as jaxlm's objectives draw them; no row has padding.
    """
    if shape.drawn:
        with np.load(folder / "drawn.npz") as held:
            return [tuple(held[f"{step}/{i}"] for i in range(4)) for step in range(DRAWN)]
    stream = np.load(folder / "tokens.npy")
    cut = lambda begin: stream[begin:begin + BATCHES * shape.tokens].reshape(BATCHES, shape.batch, shape.length)
    return list(zip(cut(0), cut(1)))


def buckets(queries: int, keys: int, both_ways: bool, furthest: int = 128) -> np.ndarray:
    """int64 [queries, keys]: T5's bucket of each distance (Raffel et al. 2020), as its published code counts them."""
    distance = np.arange(keys)[None, :] - np.arange(queries)[:, None]
    size, out = BUCKETS, np.zeros_like(distance)
    if both_ways:
        size //= 2
        out, distance = np.where(distance > 0, size, 0), np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    near = size // 2
    far = near + (np.log(np.maximum(distance, 1) / near) / np.log(furthest / near) * (size - near)).astype(np.int64)
    return out + np.where(distance < near, distance, np.minimum(far, size - 1))

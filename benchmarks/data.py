# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What every contender starts from, as files: initial weights under Hugging Face's names, and a stream of random tokens."""
import pathlib
import zlib

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.shapes import Shape

# The stream holds so many different batches and is read again and again: the loss falls, and so shows what the optimizer does.
BATCHES = 2


def draw(shape: Shape, seed: int = 0) -> dict[str, np.ndarray]:
    """Normal weights of deviation 0.02 (onto the residual stream: less, by depth), norms near 1, small biases, float32.

    Norms and biases are drawn too: at 1 and 0 a contender that lacks them would not be noticed.
    """
    out = {}
    for name, (size, mean, deviation) in _table(shape).items():
        random = np.random.default_rng([seed, zlib.crc32(name.encode())])
        out[name] = mean + deviation * random.standard_normal(size, np.float32)
    return {name: value.astype(np.float32) for name, value in out.items()}


def _table(shape: Shape) -> dict[str, tuple[tuple[int, ...], float, float]]:
    D, F, std = shape.embed, shape.hidden, 0.02
    out_std = std / (2 * shape.layers) ** 0.5
    weight, norm, bias = (lambda *size: (size, 0.0, std)), (lambda n: ((n,), 1.0, 0.05)), (lambda n: ((n,), 0.0, 0.01))
    out = {}
    if shape.family == "gpt":  # Conv1D weights are [in, out]
        out |= {"transformer.wte.weight": weight(shape.vocab, D), "transformer.wpe.weight": weight(shape.length, D)}
        for i in range(shape.layers):
            p = f"transformer.h.{i}."
            for name in ("ln_1", "ln_2"):
                out |= {f"{p}{name}.weight": norm(D), f"{p}{name}.bias": bias(D)}
            for name, a, b, deviation in (("attn.c_attn", D, 3 * D, std), ("attn.c_proj", D, D, out_std),
                                          ("mlp.c_fc", D, F, std), ("mlp.c_proj", F, D, out_std)):
                out |= {f"{p}{name}.weight": ((a, b), 0.0, deviation), f"{p}{name}.bias": bias(b)}
        return out | {"transformer.ln_f.weight": norm(D), "transformer.ln_f.bias": bias(D)}
    out["model.embed_tokens.weight"] = weight(shape.vocab, D)
    for i in range(shape.layers):
        p, kv = f"model.layers.{i}.", shape.keys * shape.head_dim
        out |= {f"{p}input_layernorm.weight": norm(D), f"{p}post_attention_layernorm.weight": norm(D)}
        for name, a, b, deviation in (
                ("self_attn.q_proj", D, D, std), ("self_attn.k_proj", D, kv, std), ("self_attn.v_proj", D, kv, std),
                ("self_attn.o_proj", D, D, out_std), ("mlp.gate_proj", D, F, std), ("mlp.up_proj", D, F, std),
                ("mlp.down_proj", F, D, out_std)):
            out[f"{p}{name}.weight"] = ((b, a), 0.0, deviation)
    out["model.norm.weight"] = norm(D)
    return out if shape.tied else out | {"lm_head.weight": weight(shape.vocab, D)}


def write(folder: pathlib.Path, shape: Shape, seed: int = 0) -> None:
    """weights.safetensors and tokens.npy [BATCHES * tokens + 1] int32 into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(draw(shape, seed), folder / "weights.safetensors")
    write_tokens(folder, shape, seed)


def write_tokens(folder: pathlib.Path, shape: Shape, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stream = np.random.default_rng(seed).integers(1, shape.vocab, BATCHES * shape.tokens + 1, dtype=np.int32)
    np.save(folder / "tokens.npy", stream)


def weights(folder: pathlib.Path) -> dict[str, np.ndarray]:
    return load_file(folder / "weights.safetensors")


def batches(folder: pathlib.Path, shape: Shape) -> list[tuple[np.ndarray, np.ndarray]]:
    """The (tokens, next tokens) [batch, length] of steps 1, 2, ..., BATCHES; later steps have them again."""
    stream = np.load(folder / "tokens.npy")
    cut = lambda begin: stream[begin:begin + BATCHES * shape.tokens].reshape(BATCHES, shape.batch, shape.length)
    return list(zip(cut(0), cut(1)))

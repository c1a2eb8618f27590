# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The shapes that are measured, by name, and how their FLOPs are counted. A new shape is an entry of SHAPES."""
import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model and the batch it is trained with. family "gpt" is GPT-2's architecture, "llama" is Llama 2's."""

    family: str
    layers: int
    embed: int
    heads: int
    vocab: int
    length: int
    batch: int
    mlp: int = 0  # 0: 4 * embed
    kv_heads: int = 0  # 0: heads
    tied: bool = True
    chunks: int = 1  # parts in which jaxlm computes the loss
    remat: str = "none"  # jaxlm's policy; torch contenders checkpoint whole blocks unless "none"
    accumulate: int = 1

    @property
    def hidden(self) -> int:
        return self.mlp or 4 * self.embed

    @property
    def keys(self) -> int:
        return self.kv_heads or self.heads

    @property
    def head_dim(self) -> int:
        return self.embed // self.heads

    @property
    def tokens(self) -> int:
        """Tokens of one step."""
        return self.batch * self.length

    @property
    def matmul_parameters(self) -> int:
        """Weights that are multiplied by: every projection and the head once; lookups, norms and biases are not."""
        attention = self.embed * self.head_dim * (2 * self.heads + 2 * self.keys)
        feed_forward = self.embed * self.hidden * (3 if self.family == "llama" else 2)
        return self.layers * (attention + feed_forward) + self.vocab * self.embed

    @property
    def parameters(self) -> int:
        """All weights."""
        lookup = (0 if self.tied else self.vocab * self.embed) + (self.length * self.embed if self.family == "gpt" else 0)
        norms = (2 * self.layers + 1) * self.embed * (2 if self.family == "gpt" else 1)
        biases = self.layers * (5 * self.embed + self.hidden) if self.family == "gpt" else 0
        return self.matmul_parameters + lookup + norms + biases

    def flops_per_token(self, causal: bool = True) -> int:
        """Of a training step: 6 a matmul weight, and of attention 12 * layers * embed * length, half of it when causal."""
        attention = 12 * self.layers * self.embed * self.length
        return 6 * self.matmul_parameters + (attention // 2 if causal else attention)


CONVENTION = ("FLOPs a token of training = 6 x matmul weights (head once; lookups, norms and biases not) + 6 x layers x embed x length "
              "(causal attention); recomputation is not counted. The convention with whole attention is the larger figure beside it.")

_GPT2 = dict(family="gpt", layers=12, embed=768, heads=12, vocab=50304)
_LLAMA_7B = dict(family="llama", layers=32, embed=4096, heads=32, vocab=32000, mlp=11008, tied=False)
_LLAMA_1B = dict(family="llama", layers=24, embed=2048, heads=16, vocab=32000, mlp=5504, tied=False)

SHAPES = {
    # For tests of the scripts themselves.
    "tiny": Shape("gpt", 2, 32, 2, 96, 16, 2),
    "tiny_llama": Shape("llama", 2, 32, 4, 96, 16, 2, mlp=48, kv_heads=2, tied=False),
    # CPU.
    "gpt_4x128": Shape("gpt", 4, 128, 4, 65, 64, 12),
    "gpt_6x384": Shape("gpt", 6, 384, 6, 65, 256, 12),
    "gpt2_124m": Shape(**_GPT2, length=1024, batch=1),
    # One GPU with 80 GB or more.
    "gpt2_124m_gpu": Shape(**_GPT2, length=1024, batch=64, chunks=8),
    "llama_1b3_gpu": Shape(**_LLAMA_1B, length=4096, batch=4, chunks=4),
    "llama2_7b_gpu": Shape(**_LLAMA_7B, length=4096, batch=2, remat="names"),
    # Decoding reads weights: batch is the number of streams, length the context.
    "gpt2_124m_decode": Shape(**_GPT2, length=256, batch=1),
    "llama_1b3_decode": Shape(**_LLAMA_1B, length=1024, batch=1),
    "llama3_8b_decode": Shape("llama", 32, 4096, 32, 128256, 1024, 1, mlp=14336, kv_heads=8, tied=False),
}


def find(name: str) -> Shape:
    """The shape of that name; "gpt_6x384:batch=4/length=512" is one with other fields."""
    base, _, changes = name.partition(":")
    if base not in SHAPES:
        raise SystemExit(f"there is no shape '{base}': choose from {', '.join(SHAPES)}")
    fields: dict[str, Any] = {}
    for change in filter(None, changes.split("/")):
        key, _, value = change.partition("=")
        known = {f.name: f.type for f in dataclasses.fields(Shape)}
        if key not in known:
            raise SystemExit(f"shape '{name}': there is no field '{key}' (choose from {', '.join(known)})")
        kind = type(getattr(SHAPES[base], key))
        fields[key] = value == "True" if kind is bool else kind(value)
    return dataclasses.replace(SHAPES[base], **fields)

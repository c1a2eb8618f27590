# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The shapes that are measured, by name, and how their FLOPs are counted. A new shape is an entry of SHAPES."""
import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model and the batch it is trained with.

    family: "gpt" is GPT-2's architecture, "llama" Llama 2's; "bert" tells the `predictions` masked tokens of a row; "t5" reads
    `source` positions and writes `length`, each in `layers` layers (Raffel et al. 2020, not version 1.1).
    """

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
    predictions: int = 0  # bert: a row
    source: int = 0  # t5: positions
    dropout: float = 0.0  # bert and t5, of everything that they drop

    @property
    def drawn(self) -> bool:
        """Whether what is read and told of the tokens is drawn: masks, spans."""
        return self.family in ("bert", "t5")

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
        """Tokens of one step, those of sources among them."""
        return self.batch * (self.length + self.source)

    @property
    def multiplied(self) -> list[tuple[int, int]]:
        """(weights, rows of one step that are multiplied by them): every projection and the head once; lookups, norms and biases are not."""
        attention = self.embed * self.head_dim * (2 * self.heads + 2 * self.keys)
        layer = attention + self.embed * self.hidden * (3 if self.family == "llama" else 2)
        head, rows = self.vocab * self.embed, self.batch * self.length
        if self.family == "bert":
            return [(self.layers * layer, rows), (self.embed * self.embed + head, self.batch * self.predictions)]
        if self.family == "t5":  # of the attention over the source, keys and values are made of the source
            return [(self.layers * (layer + attention // 2), self.batch * self.source), (self.layers * (layer + attention // 2) + head, rows)]
        return [(self.layers * layer + head, rows)]

    @property
    def matmul_parameters(self) -> int:
        return sum(weights for weights, _ in self.multiplied)

    @property
    def parameters(self) -> int:
        """All weights."""
        D, biased = self.embed, self.family in ("gpt", "bert")  # the same two learn positions
        lookup = (0 if self.tied else self.vocab * D) + (self.length * D if biased else 0)
        norms = {"bert": 2 * self.layers + 2, "t5": 5 * self.layers + 2}.get(self.family, 2 * self.layers + 1) * D * (2 if biased else 1)
        biases = self.layers * (5 * D + self.hidden) if biased else 0
        own = {"bert": 2 * D + D + self.vocab, "t5": 2 * BUCKETS * self.heads}  # sentence types and the head's biases; distances
        return self.matmul_parameters + lookup + norms + biases + own.get(self.family, 0)

    def flops_per_token(self, causal: bool = True) -> int:
        """Of a training step: 6 a matmul weight and row, and 12 * layers * embed a query and key, half of them where attention is causal."""
        own = self.length * self.length
        own = own // 2 if causal and self.family != "bert" else own
        pairs = self.batch * (own + self.source * (self.source + self.length))
        return (6 * sum(weights * rows for weights, rows in self.multiplied) + 12 * self.layers * self.embed * pairs) // self.tokens


BUCKETS = 32  # of T5's distances
CONVENTION = ("FLOPs a token of training = 6 x matmul weights (head once; lookups, norms and biases not) + 6 x layers x embed x length "
              "(causal attention; whole attention twice as much); recomputation is not counted. The convention with whole attention is the larger figure beside it.")

_GPT2 = dict(family="gpt", layers=12, embed=768, heads=12, vocab=50304)
_LLAMA_7B = dict(family="llama", layers=32, embed=4096, heads=32, vocab=32000, mlp=11008, tied=False)
_LLAMA_1B = dict(family="llama", layers=24, embed=2048, heads=16, vocab=32000, mlp=5504, tied=False)

SHAPES = {
    # For tests of the scripts themselves.
    "tiny": Shape("gpt", 2, 32, 2, 96, 16, 2),
    "tiny_llama": Shape("llama", 2, 32, 4, 96, 16, 2, mlp=48, kv_heads=2, tied=False),
    "tiny_bert": Shape("bert", 2, 32, 2, 160, 16, 2, predictions=3),
    "tiny_t5": Shape("t5", 2, 32, 2, 160, 6, 2, source=24),
    # CPU.
    "gpt_4x128": Shape("gpt", 4, 128, 4, 65, 64, 12),
    "gpt_6x384": Shape("gpt", 6, 384, 6, 65, 256, 12),
    "gpt2_124m": Shape(**_GPT2, length=1024, batch=1),
    "bert_base": Shape("bert", 12, 768, 12, 30522, length=128, batch=8, predictions=20),
    "t5_small": Shape("t5", 6, 512, 8, 32128, length=114, batch=2, source=512),
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

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Minimal BERT and T5 in torch, written for speed: one product for queries, keys and values, masked tokens gathered before the head."""
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import data
from benchmarks.shapes import BUCKETS, Shape


class Attention(nn.Module):
    """inputs: vectors come from one place (`qkv`), or queries from x and keys and values from a source."""

    def __init__(self, s: Shape, bias: bool, crossed: bool, scale: float | None):
        super().__init__()
        self.s, self.scale, self.crossed = s, scale, crossed
        inner = s.heads * s.head_dim
        self.qkv = nn.Linear(s.embed, (1 if crossed else 3) * inner, bias=bias)
        self.kv = nn.Linear(s.embed, 2 * inner, bias=bias) if crossed else None
        self.o = nn.Linear(inner, s.embed, bias=bias)

    def forward(self, x, source=None, mask=None):
        q, k, v = (self.qkv(x), *self.kv(source).chunk(2, -1)) if self.crossed else self.qkv(x).chunk(3, -1)
        q, k, v = (z.view(*z.shape[:2], self.s.heads, -1).transpose(1, 2) for z in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask.to(q.dtype), dropout_p=self.s.dropout,
                                           scale=self.scale)
        return self.o(y.transpose(1, 2).flatten(2))


def drop(x, s: Shape):
    return F.dropout(x, s.dropout) if s.dropout else x


class BertLayer(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.s = s
        self.attention = Attention(s, True, False, None)
        self.up, self.down = nn.Linear(s.embed, s.hidden), nn.Linear(s.hidden, s.embed)
        self.norm1, self.norm2 = nn.LayerNorm(s.embed, eps=1e-12), nn.LayerNorm(s.embed, eps=1e-12)

    def forward(self, x):
        x = self.norm1(x + drop(self.attention(x), self.s))
        return self.norm2(x + drop(self.down(F.gelu(self.up(x))), self.s))


class Bert(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.s = s
        self.word, self.position, self.types = nn.Embedding(s.vocab, s.embed), nn.Embedding(s.length, s.embed), nn.Embedding(2, s.embed)
        self.norm, self.head_norm = nn.LayerNorm(s.embed, eps=1e-12), nn.LayerNorm(s.embed, eps=1e-12)
        self.layers = nn.ModuleList(BertLayer(s) for _ in range(s.layers))
        self.dense, self.bias = nn.Linear(s.embed, s.embed), nn.Parameter(torch.zeros(s.vocab))

    def forward(self, tokens, predict, targets, weights):
        x = drop(self.norm(self.word(tokens) + self.position.weight + self.types.weight[0]), self.s)
        for layer in self.layers:
            x = layer(x)
        x = x.gather(1, predict[:, :, None].expand(-1, -1, x.shape[-1])).flatten(0, 1)
        x = self.head_norm(F.gelu(self.dense(x)))
        return cross_entropy(F.linear(x, self.word.weight, self.bias), targets, weights)

    def names(self) -> dict[str, str | list[str]]:
        """Ours -> Hugging Face's, or those whose rows follow one another."""
        e, head = "bert.embeddings.", "cls.predictions."
        out = {f"{ours}.weight": f"{e}{theirs}_embeddings.weight" for ours, theirs in
               (("word", "word"), ("position", "position"), ("types", "token_type"))} | {"bias": head + "bias"}
        pairs = {"norm": e + "LayerNorm", "dense": head + "transform.dense", "head_norm": head + "transform.LayerNorm"}
        for i in range(len(self.layers)):
            p, n = f"layers.{i}.", f"bert.encoder.layer.{i}."
            pairs |= {p + "attention.qkv": [f"{n}attention.self.{x}" for x in ("query", "key", "value")],
                      p + "attention.o": n + "attention.output.dense", p + "norm1": n + "attention.output.LayerNorm",
                      p + "up": n + "intermediate.dense", p + "down": n + "output.dense", p + "norm2": n + "output.LayerNorm"}
        for ours, theirs in pairs.items():
            for kind in (".weight", ".bias"):
                out[ours + kind] = theirs + kind if isinstance(theirs, str) else [x + kind for x in theirs]
        return out


class T5Layer(nn.Module):
    def __init__(self, s: Shape, crossed: bool):
        super().__init__()
        self.s, norm = s, lambda: nn.RMSNorm(s.embed, eps=1e-6)
        self.attention, self.norm1, self.norm2 = Attention(s, False, False, 1.0), norm(), norm()
        self.cross, self.norm_cross = (Attention(s, False, True, 1.0), norm()) if crossed else (None, None)
        self.up, self.down = nn.Linear(s.embed, s.hidden, bias=False), nn.Linear(s.hidden, s.embed, bias=False)

    def forward(self, x, mask, source=None):
        x = x + drop(self.attention(self.norm1(x), mask=mask), self.s)
        if source is not None:
            x = x + drop(self.cross(self.norm_cross(x), source), self.s)
        return x + drop(self.down(drop(F.relu(self.up(self.norm2(x))), self.s)), self.s)


class Side(nn.Module):
    def __init__(self, s: Shape, crossed: bool, length: int):
        super().__init__()
        self.s = s
        self.relative, self.norm = nn.Embedding(BUCKETS, s.heads), nn.RMSNorm(s.embed, eps=1e-6)
        self.layers = nn.ModuleList(T5Layer(s, crossed) for _ in range(s.layers))
        self.register_buffer("buckets", torch.from_numpy(data.buckets(length, length, not crossed)), persistent=False)
        self.register_buffer("hidden", ~torch.ones(length, length, dtype=torch.bool).tril() if crossed else None, persistent=False)

    def forward(self, x, source=None):
        mask = self.relative(self.buckets).permute(2, 0, 1)[None]
        mask = mask if self.hidden is None else mask.masked_fill(self.hidden, float("-inf"))
        for layer in self.layers:
            x = layer(x, mask, source)
        return drop(self.norm(x), self.s)


class T5(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.s, self.shared = s, nn.Embedding(s.vocab, s.embed)
        self.encoder, self.decoder = Side(s, False, s.source), Side(s, True, s.length)

    def forward(self, source, tokens, targets, weights):
        embed = lambda ids: drop(self.shared(ids), self.s)
        x = self.decoder(embed(tokens), self.encoder(embed(source)))
        return cross_entropy(F.linear(x * self.s.embed**-0.5, self.shared.weight).flatten(0, 1), targets, weights)

    def names(self) -> dict[str, str | list[str]]:
        out = {"shared.weight": "shared.weight"}
        for side, crossed in (("encoder", False), ("decoder", True)):
            out |= {f"{side}.relative.weight": f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                    f"{side}.norm.weight": f"{side}.final_layer_norm.weight"}
            for i in range(self.s.layers):
                p, n = f"{side}.layers.{i}.", f"{side}.block.{i}.layer."
                own, feed = n + "0.SelfAttention.", f"{n}{1 + crossed}."
                out |= {p + "attention.qkv.weight": [f"{own}{x}.weight" for x in "qkv"], p + "attention.o.weight": own + "o.weight",
                        p + "norm1.weight": n + "0.layer_norm.weight", p + "norm2.weight": feed + "layer_norm.weight",
                        p + "up.weight": feed + "DenseReluDense.wi.weight", p + "down.weight": feed + "DenseReluDense.wo.weight"}
                if crossed:
                    other = n + "1.EncDecAttention."
                    out |= {p + "cross.qkv.weight": other + "q.weight", p + "cross.kv.weight": [other + "k.weight", other + "v.weight"],
                            p + "cross.o.weight": other + "o.weight", p + "norm_cross.weight": n + "1.layer_norm.weight"}
        return out


def cross_entropy(logits, targets, weights):
    weights = weights.flatten()
    return (F.cross_entropy(logits.float(), targets.flatten(), reduction="none") * weights).sum() / weights.sum()


MODELS = {"bert": Bert, "t5": T5}


def load(model: nn.Module, given: dict) -> None:
    """Hugging Face's names into this model's."""
    t = lambda name: torch.from_numpy(given[name].copy())
    model.load_state_dict({ours: t(theirs) if isinstance(theirs, str) else torch.cat([t(x) for x in theirs])
                           for ours, theirs in model.names().items()})

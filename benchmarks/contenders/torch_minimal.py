# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""A minimal torch model and loop, written for speed: scaled_dot_product_attention by its fastest backend, fused AdamW, no framework."""
import itertools
import os
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from benchmarks import data
from benchmarks.clock import Absent, Clock
from benchmarks.contenders import torch_encoders, torch_memory
from benchmarks.contenders.torch_memory import device_peak  # noqa: F401 - asked for by the job
from benchmarks.job import Job
from benchmarks.shapes import Shape

BACKENDS = {"cpu": (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH),
            "gpu": (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)}


class Block(nn.Module):
    """GPT-2's block, or Llama's."""

    def __init__(self, s: Shape):
        super().__init__()
        self.s, self.llama = s, s.family == "llama"
        bias, kv = not self.llama, s.keys * s.head_dim
        norm = (lambda: nn.RMSNorm(s.embed, eps=1e-5)) if self.llama else (lambda: nn.LayerNorm(s.embed, eps=1e-5))
        self.norm1, self.norm2 = norm(), norm()
        self.qkv = nn.Linear(s.embed, s.embed + 2 * kv, bias=bias)
        self.proj = nn.Linear(s.embed, s.embed, bias=bias)
        self.up = nn.Linear(s.embed, s.hidden * (2 if self.llama else 1), bias=bias)  # gate and up in one product
        self.down = nn.Linear(s.hidden, s.embed, bias=bias)

    def forward(self, x, rotary):
        B, T, D = x.shape
        s = self.s
        q, k, v = self.qkv(self.norm1(x)).split((D, s.keys * s.head_dim, s.keys * s.head_dim), -1)
        q, k, v = (z.view(B, T, -1, s.head_dim).transpose(1, 2) for z in (q, k, v))
        if self.llama:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=s.keys != s.heads)
        x = x + self.proj(y.transpose(1, 2).reshape(B, T, D))
        y = self.up(self.norm2(x))
        if self.llama:
            gate, y = y.chunk(2, -1)
            return x + self.down(F.silu(gate) * y)
        return x + self.down(F.gelu(y, approximate="tanh"))


def rotate(x, sin, cos):
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).type_as(x)


class Model(nn.Module):
    """The decoder and its mean loss."""

    def __init__(self, s: Shape):
        super().__init__()
        self.s, self.llama = s, s.family == "llama"
        self.wte = nn.Embedding(s.vocab, s.embed)
        self.wpe = None if self.llama else nn.Embedding(s.length, s.embed)
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.layers))
        self.norm = nn.RMSNorm(s.embed, eps=1e-5) if self.llama else nn.LayerNorm(s.embed, eps=1e-5)
        self.head = nn.Linear(s.embed, s.vocab, bias=False)
        if s.tied:
            self.head.weight = self.wte.weight
        half = s.head_dim // 2
        angles = torch.arange(s.length)[:, None] * 10000.0 ** (-torch.arange(half) / half)
        self.register_buffer("sin", torch.sin(angles), persistent=False)
        self.register_buffer("cos", torch.cos(angles), persistent=False)

    def forward(self, tokens, targets):
        T = tokens.shape[1]
        x = self.wte(tokens)
        if self.wpe is not None:
            x = x + self.wpe.weight[:T]
        rotary = self.sin[:T], self.cos[:T]
        for block in self.blocks:
            if self.s.remat == "none":
                x = block(x, rotary)
            else:
                x = checkpoint(block, x, rotary, use_reentrant=False)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), targets.reshape(-1))


def load(model: nn.Module, given: dict) -> None:
    """Hugging Face's names into this model's."""
    if not isinstance(model, Model):
        return torch_encoders.load(model, given)
    t = lambda name: torch.from_numpy(given[name].copy())
    llama, out = model.llama, {}
    out["wte.weight"] = t("model.embed_tokens.weight" if llama else "transformer.wte.weight")
    if not llama:
        out["wpe.weight"] = t("transformer.wpe.weight")
    out["head.weight"] = out["wte.weight"] if model.s.tied else t("lm_head.weight")
    for i in range(model.s.layers):
        ours, p = f"blocks.{i}.", f"model.layers.{i}." if llama else f"transformer.h.{i}."
        if llama:
            out |= {ours + "norm1.weight": t(p + "input_layernorm.weight"), ours + "norm2.weight": t(p + "post_attention_layernorm.weight"),
                    ours + "qkv.weight": torch.cat([t(f"{p}self_attn.{c}_proj.weight") for c in "qkv"]),
                    ours + "proj.weight": t(p + "self_attn.o_proj.weight"), ours + "down.weight": t(p + "mlp.down_proj.weight"),
                    ours + "up.weight": torch.cat([t(f"{p}mlp.{c}_proj.weight") for c in ("gate", "up")])}
            continue
        for mine, theirs in (("norm1", "ln_1"), ("norm2", "ln_2"), ("qkv", "attn.c_attn"), ("proj", "attn.c_proj"), ("up", "mlp.c_fc"),
                             ("down", "mlp.c_proj")):
            weight = t(f"{p}{theirs}.weight")
            out |= {f"{ours}{mine}.weight": weight.T.contiguous() if weight.ndim > 1 else weight,
                    f"{ours}{mine}.bias": t(f"{p}{theirs}.bias")}
    final = "model.norm" if llama else "transformer.ln_f"
    out |= {f"norm.{x}": t(f"{final}.{x}") for x in (("weight",) if llama else ("weight", "bias"))}
    model.load_state_dict(out)


def build(job: Job) -> nn.Module:
    torch.manual_seed(0)
    device, kind = device_of(job), torch_encoders.MODELS.get(job.shape.family, Model)
    if job.shape.dropout and kind is Model:
        raise Absent("its decoder has no dropout")
    if job.has_weights:
        model = kind(job.shape)
        load(model, data.weights(job.path))
        return model.to(device)
    with torch.device(device):
        model = kind(job.shape)
    for m in model.modules():
        if isinstance(m, (nn.Linear, nn.Embedding)):
            nn.init.normal_(m.weight, std=0.02)
    return model


def device_of(job: Job) -> str:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_float32_matmul_precision("highest")
    return "cuda" if job.platform == "gpu" else "cpu"


def backend(job: Job, device: str, clock: Clock) -> SDPBackend:
    """The fastest of the platform's attention backends, measured forward and backward on the shape; of T5, which learns a bias
    of its scores, the one that has a gradient for it."""
    s, times = job.shape, {}
    if s.family == "t5":
        return SDPBackend.MATH if job.platform == "cpu" else SDPBackend.EFFICIENT_ATTENTION
    dtype = getattr(torch, job.dtype)
    q, k, v = (torch.randn(s.batch, s.heads, s.length, s.head_dim, device=device, dtype=dtype, requires_grad=True) for _ in range(3))
    for kind in BACKENDS[job.platform]:
        def once():
            with sdpa_kernel(kind):
                F.scaled_dot_product_attention(q, k, v, is_causal=s.family != "bert").sum().backward()
            if device == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter()
        try:
            once()
            begin = once()
            times[kind] = min(once() - begin, once() - begin)
        except RuntimeError:  # not for this type, size or device
            continue
    clock.note(attention={kind.name: round(1e3 * t, 3) for kind, t in times.items()})
    return min(times, key=times.get)


def optimizer(model: nn.Module, job: Job) -> torch.optim.Optimizer:
    decayed = [p for n, p in model.named_parameters() if p.ndim > 1 and "wpe" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim == 1 or "wpe" in n]
    groups = [{"params": decayed, "weight_decay": job.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=job.lr, betas=(job.b1, job.b2), eps=job.eps, fused=True)


def train(job: Job, clock: Clock) -> None:
    device = device_of(job)
    model, chosen = build(job), backend(job, device, clock)
    adamw = optimizer(model, job)
    run = torch.compile(model) if job.option["compile"] else model
    clock.note(allocator=torch_memory.allocator())
    wide = lambda x: torch.from_numpy(x.astype("int64" if x.dtype.kind == "i" else x.dtype)).to(device)
    batches = [tuple(map(wide, batch)) for batch in data.batches(job.path, job.shape)]
    last = None
    with sdpa_kernel(chosen):
        for batch in itertools.cycle(batches):
            with torch.autocast(device, dtype=torch.bfloat16, enabled=job.dtype == "bfloat16"):
                loss = run(*batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), job.clip)
            adamw.step()
            adamw.zero_grad(set_to_none=True)
            # The loss of the step before, as the others: a GPU would wait at this one's.
            if last is not None:
                clock.tick(last.item())
            last = loss.detach()

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Greedy decoding with the minimal torch model: a cache laid out once, one token a step, no sampling machinery."""
import statistics
import time

import torch
import torch.nn.functional as F

from benchmarks import data
from benchmarks.clock import Clock
from benchmarks.contenders import torch_minimal
from benchmarks.job import Job


class Decoder:
    """Keys and values of all positions in two tensors [layers, rows, heads, positions, features]."""

    def __init__(self, model: torch_minimal.Model, rows: int, length: int, compiled: bool):
        s, weight = model.s, model.wte.weight
        self.model, self.s = model, s
        size = (s.layers, rows, s.keys, length, s.head_dim)
        self.k, self.v = (torch.zeros(size, dtype=weight.dtype, device=weight.device) for _ in range(2))
        self.step = torch.compile(self.forward, dynamic=True) if compiled else self.forward

    def forward(self, tokens: torch.Tensor, at: int) -> torch.Tensor:
        """Log-probabilities [rows, vocabulary] after these tokens [rows, n], which stand at positions at, at + 1, ..."""
        m, s = self.model, self.s
        end = at + tokens.shape[1]
        x = m.wte(tokens)
        if m.wpe is not None:
            x = x + m.wpe.weight[at:end]
        rotary = m.sin[at:end], m.cos[at:end]
        for i, b in enumerate(m.blocks):
            kv = s.keys * s.head_dim
            q, k, v = b.qkv(b.norm1(x)).split((s.embed, kv, kv), -1)
            q, k, v = (z.view(*z.shape[:2], -1, s.head_dim).transpose(1, 2) for z in (q, k, v))
            if m.llama:
                q, k = torch_minimal.rotate(q, *rotary), torch_minimal.rotate(k, *rotary)
            self.k[i, :, :, at:end], self.v[i, :, :, at:end] = k, v
            y = F.scaled_dot_product_attention(q, self.k[i, :, :, :end], self.v[i, :, :, :end], is_causal=at == 0 and end > 1,
                                               enable_gqa=s.keys != s.heads)
            x = x + b.proj(y.transpose(1, 2).reshape(x.shape))
            y = b.up(b.norm2(x))
            if m.llama:
                gate, y = y.chunk(2, -1)
                x = x + b.down(F.silu(gate) * y)
            else:
                x = x + b.down(F.gelu(y, approximate="tanh"))
        return m.head(m.norm(x[:, -1])).float().log_softmax(-1)

    @torch.inference_mode()
    def run(self, prompts: torch.Tensor, new: int) -> torch.Tensor:
        """Log-probabilities [rows, new] of the greedy tokens."""
        at, chosen = prompts.shape[1], []
        best = self.forward(prompts, 0).max(-1)
        for _ in range(new - 1):
            chosen.append(best.values)
            best = self.step(best.indices[:, None], at).max(-1)
            at += 1
        return torch.stack([*chosen, best.values], 1)


def decode(job: Job, clock: Clock) -> None:
    device = torch_minimal.device_of(job)
    model = torch_minimal.build(job).to(getattr(torch, job.dtype)).eval()
    decoder = Decoder(model, job.shape.batch, job.shape.length, job.option["compile"])
    prompts = torch.from_numpy(data.batches(job.path, job.shape)[0][0][:, :job.option["prompt"]].astype("int64")).to(device)
    decoder.run(prompts, 1)
    begin = [time.perf_counter()]
    for _ in range(3):
        decoder.run(prompts, 1).cpu()
        begin.append(time.perf_counter())
    clock.note(prefill_seconds=statistics.median(b - a for a, b in zip(begin, begin[1:])))
    while True:
        clock.tick(-decoder.run(prompts, job.option["new"]).cpu()[:, :8].mean().item())

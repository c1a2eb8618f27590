# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Hugging Face's generate(), greedy, as its users call it."""
import statistics
import time

import torch

from benchmarks import data
from benchmarks.clock import Clock
from benchmarks.contenders import hf_trainer, torch_minimal
from benchmarks.job import Job


def decode(job: Job, clock: Clock) -> None:
    device = torch_minimal.device_of(job)
    model = hf_trainer.model_of(job.shape)
    if job.has_weights:
        hf_trainer.load(model, data.weights(job.path))
    model = model.to(device, getattr(torch, job.dtype)).eval()
    prompts = torch.from_numpy(data.batches(job.path, job.shape)[0][0][:, :job.option["prompt"]].astype("int64")).to(device)

    def run(new: int) -> torch.Tensor:
        # No end-of-text token: every run has as many tokens as it was asked for.
        return model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=new, do_sample=False, eos_token_id=None,
                              pad_token_id=0)

    with torch.inference_mode():
        run(1)
        begin = [time.perf_counter()]
        for _ in range(3):
            run(1).cpu()
            begin.append(time.perf_counter())
        clock.note(prefill_seconds=statistics.median(b - a for a, b in zip(begin, begin[1:])))
        out = run(job.option["new"])
        scores = model(out[:, :-1]).logits.float().log_softmax(-1)
        chosen = scores.gather(-1, out[:, 1:, None])[:, prompts.shape[1] - 1:, 0]
        loss = -chosen[:, :8].mean().item()
        while True:
            run(job.option["new"]).cpu()
            clock.tick(loss)

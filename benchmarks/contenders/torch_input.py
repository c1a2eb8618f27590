# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What a minimal torch loop feeds itself with: random windows of the same memory-mapped stream through a DataLoader."""
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler

from benchmarks.clock import Clock
from benchmarks.job import Job


class Windows(Dataset):
    """Rows of the stream and the tokens that follow."""

    def __init__(self, path: str, length: int):
        self.stream, self.length = np.memmap(path, np.uint16, "r"), length

    def __len__(self) -> int:
        return (len(self.stream) - 1) // self.length

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        row = torch.from_numpy(self.stream[i * self.length:(i + 1) * self.length + 1].astype(np.int64))
        return row[:-1], row[1:]


def input(job: Job, clock: Clock) -> None:  # noqa: A001 - the kind's name
    rows = Windows(job.path / "stream.bin", job.shape.length)
    drawn = RandomSampler(rows, replacement=True, num_samples=10**9)
    loader = DataLoader(rows, job.shape.batch, sampler=drawn, num_workers=job.option["workers"])
    for number, (tokens, _) in enumerate(loader, start=1):
        if number % job.option["batches"] == 0:
            clock.tick(float(tokens.shape[0]))

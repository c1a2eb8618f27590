# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""jaxlm's Decoder: prefill and the whole loop in two dispatches, as `jaxlm generate` runs it."""
import statistics
import time

import jax
import numpy as np

from benchmarks import data
from benchmarks.clock import Clock
from benchmarks.contenders import jaxlm_page
from benchmarks.job import Job
from jaxlm import build
from jaxlm.generate import decode as decoding
from jaxlm.generate.settings import Config


def decode(job: Job, clock: Clock) -> None:
    config = jaxlm_page.config(job)
    config.model.param_dtype = job.dtype  # decoding reads weights: they are stored in the type they are used in
    model = build.build(config, "model")
    if job.has_weights:
        params = jaxlm_page.params(job, model.abstract)
    else:
        params = jax.jit(model.init)(jax.random.key(0))
    decoder = decoding.Decoder(model, eot=0, max_len=job.shape.length)
    params = decoder.ready(params)
    prompts = data.batches(job.path, job.shape)[0][0][:, :job.option["prompt"]]
    settings = Config(max_new_tokens=job.option["new"], temperature=0.0, stop_at_eot=False)
    first = Config(max_new_tokens=1, temperature=0.0, stop_at_eot=False)
    decoder.run(params, prompts, first)
    begin = [time.perf_counter()]
    for _ in range(3):
        decoder.run(params, prompts, first)
        begin.append(time.perf_counter())
    clock.note(prefill_seconds=statistics.median(b - a for a, b in zip(begin, begin[1:])))
    while True:
        out = decoder.run(params, prompts, settings)
        clock.tick(-np.mean(out.logprobs[:, :8]))

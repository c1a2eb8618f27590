# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What the benchmark of drafts counts."""
import jax

from benchmarks import speculative
from jaxlm.generate.decode import Decoder
from jaxlm.generate.settings import Config
from jaxlm.models import gpt


def test_a_model_that_drafts_for_itself_is_always_accepted():
    """Fails if the prefill's token counts as one of a call (`config.max_new_tokens * len(prompts)`)."""
    model = gpt.build(gpt.Config(vocab_size=32, max_len=32, layers=1, heads=2, embed=16, init_std=0.5))
    params = jax.jit(model.init)(jax.random.key(2))
    config = Config(max_new_tokens=13, temperature=0.0, stop_at_eot=False, speculate=3)
    seen = speculative.measured(Decoder(model, 0), Decoder(model, 0, draft=model), (params, params), [[1, 2], [3]], config, 1)
    assert seen["accepted"] == 4.0 and seen["alone"] > 0 and seen["drafted"] > 0

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What inspect says without training is what training would hold: published sizes, bytes on every device, FLOPs."""
import re

import jax
import numpy as np
import pytest

from jaxlm.cli import experiment, inspect
from jaxlm.core import tree
from jaxlm.parallel import place
from jaxlm.training import state
from jaxlm.data.tokenizers.tokenizer import ByteTokenizer
from tests import tiny
from tests.test_configs import load

CONFIGS = tiny.ROOT / "configs"


def told(config, capsys, devices: int) -> str:
    inspect.FLAGS.unparse_flags()
    inspect.FLAGS(["test", f"--devices={devices}"])
    inspect.main(config)
    return capsys.readouterr().out


@pytest.mark.parametrize("page,vocab,parameters", [
    ("gpt_small", 50257, 124_439_808),  # GPT-2 small, Radford et al. 2019
    ("llama_8b", 128_256, 8_030_261_248),  # Llama 3 8B
    ("llama_1b", 128_256, 1_235_814_400),  # Llama 3.2 1B
    ("mixtral_8x7b", 32_000, 46_702_792_704),  # Mixtral 8x7B
])
def test_published_sizes(page, vocab, parameters, capsys):
    """Fails if a page's shape is not the published one: c.model.layers = 31 in configs/llama_8b.py."""
    config = load(CONFIGS / f"{page}.py")
    config.model.vocab_size, config.source.path = vocab, "x"
    if config.tokenizer.name == "file":
        config.tokenizer.path = "x"
    if page == "gpt_small":
        config.rules = "dp"  # 50257 is a prime: it divides over nothing
    text = told(config, capsys, devices=32)
    assert f"{parameters:,} " in text
    if page == "mixtral_8x7b":
        assert "12,879,925,248 (12.9B) a token, by 2 of 8 experts" in text

def test_bytes_are_those_of_the_devices(tmp_path, capsys):
    """Fails if a split is forgotten: count whole arrays in state.bytes_per_device."""
    config = tiny.shrink(load(CONFIGS / "llama_8b.py"), tiny.write_text(tmp_path / "text"), tmp_path / "cache")
    run = experiment.experiment(config, ByteTokenizer().vocabulary)
    with place.use(run.layout):
        now = run.init({})
    on_first = sum(s.data.nbytes for x in jax.tree.leaves(now) for s in x.addressable_shards if s.device == jax.devices()[0])
    assert on_first == state.bytes_per_device(run.target) < 0.5 * tree.nbytes(now)
    lines = told(config, capsys, devices=8)
    per_parameter = {m[1]: int(m[2].replace(",", "")) for m in re.finditer(r"^(\S+/\S+) .* ([\d,]+)$", lines, re.M)}
    shards = {path: x.addressable_shards[0].data.nbytes for path, x in tree.flatten(now.params).items()}
    assert per_parameter == shards


def test_flops_are_the_closed_form(tmp_path, capsys):
    """2 FLOPs a weight and token, 4 L d for the scores and mixtures of each layer (whole attention)."""
    config = tiny.shrink(load(CONFIGS / "gpt_tiny.py"), tiny.write_text(tmp_path / "text"), tmp_path / "cache")
    text = told(config, capsys, devices=1)
    m, length = config.model, config.data.seq_len
    forward = 2 * (m.layers * 12 * m.embed**2 + m.embed * m.vocab_size) + m.layers * 4 * length * m.embed
    shown = float(re.search(r"forward ([\d.]+)k", text)[1]) * 1e3
    np.testing.assert_allclose(shown, forward if not m.mlp else forward + m.layers * 4 * m.embed * (m.mlp - 4 * m.embed), rtol=5e-3)

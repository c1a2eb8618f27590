# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Every model family with what it is trained for, small: the contract tests take their models, objectives and batches here."""
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxlm import build
from jaxlm.core import tree
from jaxlm.core.types import Objective, Vocabulary
from jaxlm.data.pairs import Pairs

ROWS, LENGTH, VOCAB = 32, 12, 96
SOURCE = 16  # positions of a source
SPECIAL = 5  # ids 0 .. 4 are eot and padding, cls, sep, mask and one more
SENTINELS = 8  # the last ids
SMALL = {"layers": 2, "embed": 32, "heads": 4, "kv_heads": 2, "mlp": 64, "max_len": 32, "vocab_size": VOCAB,
         "embed_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0, "mlp_dropout": 0.0}


@dataclasses.dataclass(frozen=True)
class Family:
    """An objective and its fields, fields of the model beside SMALL, and the file of the model where it is not the name."""

    objective: str
    options: dict
    model: dict = dataclasses.field(default_factory=dict)
    file: str = ""


_CAUSAL = {"z_loss": 1e-3, "label_smoothing": 0.05}
_T5 = {"head_dim": 8, "decoder_layers": 3}
_EXPERTS = {"mlp": 48, "experts": 4, "experts_per_token": 2, "router_aux": 0.05, "router_z": 0.01}
FAMILIES = {
    "gpt": Family("causal_lm", _CAUSAL),
    "llama": Family("causal_lm", _CAUSAL),
    "llama_moe": Family("causal_lm", _CAUSAL, _EXPERTS, "llama"),
    "lstm": Family("causal_lm", _CAUSAL, {"hidden": 48, "init_std": 0.3}),
    "bert": Family("mlm", {"pairs": "nsp", "mask_rate": 0.4}),
    "albert": Family("mlm", {"pairs": "sop", "mask_rate": 0.4, "whole_word": True}, {"embedding_size": 16}),
    "transformer": Family("seq2seq", _CAUSAL),
    "t5": Family("seq2seq", _CAUSAL, _T5),
    "t5_denoise": Family("denoise", _CAUSAL | {"rate": 0.3, "span": 2.0}, _T5, "t5"),
    "bart": Family("denoise", {"kind": "infilling", "rate": 0.3}, {
        "positions": "learned", "position_offset": 2, "embed_norm": True, "embed_scale": False, "activation": "gelu", "logit_bias": True,
        "init_std": 0.1}, "transformer"),
}
if missing := set(build.names("model")) - set(FAMILIES):
    raise AssertionError(f"add an entry to FAMILIES in tests/families.py for {', '.join(sorted(missing))}: "
                         "its contract tests (layouts, golden curve, resume) need an objective")


def vocabulary(size: int = VOCAB) -> Vocabulary:
    """Every third token goes on with the word before it."""
    continues = np.arange(size) % 3 == 2
    continues[:SPECIAL] = False
    return Vocabulary(size, 0, tuple(range(SPECIAL)), pad=0, cls=1, sep=2, mask=3, continues=continues,
                      sentinels=tuple(range(size - SENTINELS, size)))


def model_of(family: str, **changes):
    module = build.find("model", FAMILIES[family].file or family)
    declared = module.Config()
    fields = {k: v for k, v in SMALL.items() if hasattr(declared, k)}
    return module.build(type(declared)(**fields | FAMILIES[family].model | changes))


def objective_of(family: str, **changes) -> Objective:
    """The family's objective; changes that it has no field for are left out."""
    return build.find("objective", FAMILIES[family].objective).build(_settings(family, **changes), vocabulary())


def _settings(family: str, **changes) -> Any:
    """The Config of the family's objective."""
    declared = build.find("objective", FAMILIES[family].objective).Config
    return declared(**FAMILIES[family].options | {k: v for k, v in changes.items() if hasattr(declared(), k)})


def config_of(family: str) -> ConfigDict:
    """A whole config of the family: what a page begins with."""
    of = FAMILIES[family]
    config = build.defaults(model=of.file or family, objective=of.objective, source="parallel" if of.objective == "seq2seq" else "text")
    config.data.packing = {"mlm": "sentences", "seq2seq": "pairs"}.get(of.objective, config.data.packing)
    for section, fields in ((config.objective, of.options), (config.model, of.model)):
        for field, value in fields.items():
            section[field] = value
    return config


def batch_of(seed: int = 0, family: str = "gpt") -> dict[str, np.ndarray]:
    """Rows of odd lengths, with padding and predictions of weight 0."""
    if FAMILIES[family].objective in ("causal_lm", "seq2seq"):
        return packed(seed) | (sources(packed(seed), seed) if reads_source(family) else {})
    rows = texts(seed, _settings(family).sizes) if FAMILIES[family].objective == "denoise" else stretches(seed)
    return objective_of(family).prepare(rows, lambda i: np.random.default_rng([seed, i]))


def packed(seed: int) -> dict[str, np.ndarray]:
    """Packed documents, each token predicting the next."""
    draw = np.random.default_rng(seed)
    segments, positions = np.zeros((ROWS, LENGTH), np.int32), np.zeros((ROWS, LENGTH), np.int32)
    for row in range(ROWS):
        at, document = 0, 0
        while at < LENGTH - 3:
            n = int(draw.integers(2, 7))
            document += 1
            end = min(at + n, LENGTH)
            segments[row, at:end], positions[row, at:end] = document, np.arange(end - at)
            at = end
    tokens = draw.integers(0, VOCAB, (ROWS, LENGTH + 1)).astype(np.int32)
    weights = ((segments > 0) & (draw.random((ROWS, LENGTH)) > 0.1)).astype(np.float32)
    return {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "segments": segments, "positions": positions, "weights": weights}


def reads_source(family: str) -> bool:
    """An encoder-decoder: the tokens of its batches are what the decoder reads."""
    return getattr(build.find("model", FAMILIES[family].file or family).Config, "source", False)


def sources(batch: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """A source of 1 to 4 tokens for each packed document, and padding."""
    draw = np.random.default_rng([seed, 1])
    out = {f"source_{field}": np.zeros((ROWS, SOURCE), np.int32) for field in ("tokens", "segments", "positions")}
    for row in range(ROWS):
        sizes = draw.integers(1, 5, batch["segments"][row].max())
        n = sizes.sum()
        out["source_segments"][row, :n] = np.repeat(np.arange(len(sizes)) + 1, sizes)
        out["source_positions"][row, :n] = np.concatenate([np.arange(size) for size in sizes])
        out["source_tokens"][row, :n] = draw.integers(0, VOCAB, n)
    return out


def texts(seed: int, sizes: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of texts of 2 to 8 tokens, as many as both sides hold once they are denoised."""
    draw = np.random.default_rng(seed)
    out = {name: np.repeat(x, ROWS, 0) for name, x in Pairs.blank(LENGTH, SOURCE).items()}
    out |= {name: np.zeros((ROWS, SOURCE), np.int32) for name in ("text", "text_segments")}
    for row in range(ROWS):
        lengths = draw.integers(2, 9, 5)
        for number in range(1, 1 + ((np.cumsum(sizes(lengths), 0) <= (SOURCE, LENGTH)).all(1)).sum()):
            first, n = lengths[: number - 1].sum(), lengths[number - 1]
            out["text"][row, first : first + n] = draw.integers(SPECIAL, VOCAB - SENTINELS, n)
            out["text_segments"][row, first : first + n] = number
    return out


def stretches(seed: int, rows: int = ROWS, length: int = LENGTH) -> dict[str, np.ndarray]:
    """Rows of sentences of 1 to 5 tokens, some of a single sentence or short; the last row is padding."""
    draw, shape = np.random.default_rng(seed), (rows, 2 * length)
    out = {}
    for tokens, sentences in (("tokens", "sentences"), ("other", "other_sentences")):
        sizes = draw.integers(1, 6, shape)
        number = np.stack([np.repeat(np.arange(shape[1]), n)[:shape[1]] for n in sizes]) + 1
        kept = np.arange(shape[1])[None] < draw.integers(3, length + 4, (rows, 1))
        kept[-1] = False
        out[tokens] = np.where(kept, draw.integers(SPECIAL, VOCAB, shape), 0).astype(np.int32)
        out[sentences] = np.where(kept, number, 0).astype(np.int32)
    return out


def carry_of(family: str, model) -> dict[str, np.ndarray] | None:
    """What a recurrent model has read before: every other row's document goes on in `packed`. None of another model."""
    if not getattr(build.find("model", FAMILIES[family].file or family).Config, "recurrent", False):
        return None
    draw = np.random.default_rng(3)
    state = {name: 0.5 * draw.standard_normal(x.shape).astype(np.float32) for name, x in jax.eval_shape(lambda: model.cache(ROWS, 0)).items()}
    return {**state, "segments": np.arange(ROWS, dtype=np.int32) % 2}


def params_of(model):
    """Noise on every parameter: biases of 0 and scales of 1 would hide mistakes."""
    draw = np.random.default_rng(2)
    noise = lambda path, x: np.asarray(path.endswith("scale") + 0.05 * draw.standard_normal(x.shape), x.dtype)
    return tree.map_with_path(noise, model.abstract)

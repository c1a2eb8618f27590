# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Log-probabilities of given text, token by token; and the choice among given texts, which is the most probable one."""
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.errors import UserError
from jaxlm.core.types import Array, Batch, Params, unembed
from jaxlm.generate.batch import Limits, Programs, dispatch, prompt_ids, source_ids, to_device
from jaxlm.generate.decode import logits_are_fine
from jaxlm.generate.settings import Config
from jaxlm.generate.stepper import Stepper
from jaxlm.parallel import place
from jaxlm.parallel.place import constrain

# Positions whose logits exist at a time.
_CHUNK = 16


class Scorer:
    """Log-probabilities by one model; arguments as of `decode.Decoder`. Keeps the compiled programs."""

    def __init__(self, model: Any, eot: int, vocab: int = 0, max_len: int = 0, layout: place.Layout | None = None, *,
                 start: int | None = None, source_len: int = 0):
        self.limits = Limits(eot, vocab, max_len, start, source_len)
        # A model that sees what comes after cannot say how probable it is: it raises.
        self._model = Stepper(model, vocab, self.limits.source).model
        self._programs = Programs(lambda replicated: (jax.jit(self._score, out_shardings=replicated),), layout)

    def run(self, params: Params, sequences: Sequence[Sequence[int]], config: Config = Config(), *,
            sources: Sequence[Sequence[int]] = (), **names: Sequence[str]) -> list[np.ndarray]:
        """For each sequence of n ids, float32 [n - 1]: log p(id i + 1 | ids 0 to i), with neither temperature nor filters.

        Of an encoder-decoder a sequence is a target with its start, and `sources` are what they are targets of. UserError
        for ids that the tokenizer lacks, for sequences longer than the model's positions, and for logits that are not finite;
        `names` are those of `Limits.check`. config.batch sequences at a time.
        """
        sequences, sources = self.limits.check(sequences, config, new=0, sources=sources, **names)
        out = []
        for first in range(0, len(sequences), config.batch):
            part = sequences[first : first + config.batch]
            batch = self.limits.batch(part, sources[first : first + config.batch], config, left=False)
            layout, (program,) = self._programs.get(len(part))
            logprobs = jax.device_get(dispatch(layout, program, params, to_device(batch, layout)))
            logits_are_fine(logprobs)
            out += [row[: len(ids) - 1] for row, ids in zip(logprobs, part, strict=True)]
        return out

    def _score(self, params: Params, batch: Batch) -> Array:
        """float32 [B, L]: of the token after each, 0 where there is none."""
        rows, length = batch["tokens"].shape
        batch = {name: constrain(x, "batch", None) for name, x in batch.items()}
        outputs = self._model.apply(params, batch)
        if outputs.table is None or self.limits.size > outputs.table.shape[0]:
            raise UserError(f"the tokenizer has {self.limits.size} ids and the model "
                            f"{0 if outputs.table is None else outputs.table.shape[0]}: use the tokenizer that the model was trained with")
        after = jnp.pad(batch["tokens"][:, 1:], ((0, 0), (0, 1)))
        real = jnp.pad(batch["segments"][:, 1:], ((0, 0), (0, 1))) > 0

        def chunk(part: tuple[Array, Array]) -> Array:
            hidden, target = part
            logits = constrain(unembed(hidden, outputs.table, outputs.bias, outputs.soft_cap), "batch", None, None)
            return jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), target[..., None], axis=-1)[..., 0]

        size = _CHUNK if length % _CHUNK == 0 else length
        cut = lambda x: jnp.moveaxis(x.reshape(rows, length // size, size, *x.shape[2:]), 1, 0)
        logprobs = jnp.moveaxis(jax.lax.map(chunk, (cut(outputs.hidden), cut(after))), 0, 1).reshape(rows, length)
        return jnp.where(real, logprobs, 0.0)


@dataclasses.dataclass(frozen=True)
class Scored:
    """A text and how probable it is after its prompt."""

    prompt: str | Sequence[int]
    text: str
    tokens: np.ndarray  # int32 [n], of the text alone
    logprobs: np.ndarray  # float32 [n]

    @property
    def logprob(self) -> float:
        """Of the whole text: the sum."""
        return float(self.logprobs.sum(dtype=np.float64))


def score(scorer: Scorer, params: Params, tokenizer: Any, texts: Sequence[str], config: Config = Config(),
          prompts: Sequence[str | Sequence[int]] = (), *, sources: Sequence[str | Sequence[int]] = (),
          **names: Sequence[str]) -> list[Scored]:
    """How probable each text is after its prompt ("" for all by default: as a document's beginning), given its source if any.

    A prompt and its text are encoded apart, as generation continues a prompt by whole tokens: a text in the middle of a
    sentence begins with its space. That the text ends there is not part of the probability. names, source_names: what errors
    call the texts and the sources.
    """
    prompts = list(prompts) or [""] * len(texts)
    begun = [prompt_ids(tokenizer, prompt, scorer.limits.start) for prompt in prompts]
    read = [source_ids(tokenizer, source) for source in sources]
    said = [np.asarray(tokenizer.encode(text), np.int32) for text in texts]
    for text, ids in zip(texts, said, strict=True):
        if not len(ids):
            raise UserError(f"the text {text!r} has no tokens, so there is nothing to score: leave it out")
    # A target that is given from its beginning begins as in training.
    whole = [tokenizer.side(ids) if scorer.limits.source and prompt == "" else ids for prompt, ids in zip(prompts, said, strict=True)]
    rows = scorer.run(params, [np.concatenate(pair).astype(np.int32) for pair in zip(begun, whole, strict=True)], config,
                      sources=read, **names)
    return [Scored(prompt, text, ids, row[-len(ids):])
            for prompt, text, ids, row in zip(prompts, texts, said, rows, strict=True)]


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of the texts to choose from."""

    text: str
    logprob: float  # of the whole text after the prompt
    probability: float  # among the choices
    tokens: int


def choose(scorer: Scorer, params: Params, tokenizer: Any, prompts: Sequence[str | Sequence[int]], choices: Sequence[str],
           config: Config = Config(), *, sources: Sequence[str | Sequence[int]] = (), names: Sequence[str] = ()) -> list[list[Choice]]:
    """For each prompt (or source) all choices, the most probable first; equal ones in the order given. UserError as from `score`,
    which calls the prompts (or sources) by `names`.

    Sums are compared, so that of two choices the longer is at a disadvantage where it says more.
    """
    if len(set(choices)) < max(2, len(choices)):
        raise UserError(f"there must be two choices or more, all different: {', '.join(map(repr, choices)) or 'none given'}")
    prompts = prompts or [""] * len(sources)
    each = lambda given: [one for one in given for _ in choices]
    rows = score(scorer, params, tokenizer, list(choices) * len(prompts), config, each(prompts), sources=each(sources),
                 **{"source_names" if sources else "names": each(names)})
    out = []
    for first in range(0, len(rows), len(choices)):
        part = rows[first : first + len(choices)]
        weights = np.exp(np.array([s.logprob for s in part]) - max(s.logprob for s in part))
        found = [Choice(s.text, s.logprob, float(w / weights.sum()), len(s.tokens)) for s, w in zip(part, weights, strict=True)]
        out.append(sorted(found, key=lambda choice: -choice.logprob))
    return out

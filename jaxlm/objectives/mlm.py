# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Masked language modelling (Devlin et al. 2018), alone or with a label of two sentences: which follows (nsp), in what order (sop).

Which tokens are hidden is drawn anew for every step and row (Liu et al. 2019).
"""
import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from jaxlm.core.errors import UserError
from jaxlm.core.types import Array, Batch, Mean, Objective, Outputs, Vocabulary
from jaxlm.objectives import framing, logits
from jaxlm.ops import loss as losses

PAIRS = ("none", *framing.LABELS)


@dataclasses.dataclass(frozen=True)
class Config:
    """What is hidden, and what pairs of sentences are made.

    Of the tokens of a row that are not special, mask_rate are predicted: as many as that is, rounded up or down by
    chance so that it holds on average, and one at least. pairs needs data.packing='sentences'.
    """

    mask_rate: float = 0.15
    hidden: float = 0.8  # of the predicted tokens: shown as the mask token
    random: float = 0.1  # shown as a random token; the rest are shown as they are
    whole_word: bool = False  # all tokens of a word or none
    predictions: int = 0  # most of a row; 0 = as many as mask_rate asks for
    pairs: str = "none"  # none | nsp: does B follow A, or is it from another document | sop: are A and B in order
    short_rate: float = 0.1  # of pairs: made shorter than a row

    causal: ClassVar[bool] = False  # of models that see both ways

    @property
    def packings(self) -> tuple[str, ...]:
        """Values of data.packing that it takes."""
        return ("windows", "pack", "sentences") if self.pairs == "none" else ("sentences",)

    def problems(self) -> list[str]:
        out = []
        if not 0 < self.mask_rate <= 1:
            out.append(f"objective.mask_rate is {self.mask_rate}: it must be above 0 and at most 1")
        for name in ("hidden", "random", "short_rate"):
            if not 0 <= getattr(self, name) <= 1:
                out.append(f"objective.{name} is {getattr(self, name)}: it is a share, from 0 to 1")
        if self.hidden + self.random > 1:
            out.append(f"objective.hidden {self.hidden} and objective.random {self.random} are more than 1 together")
        if self.predictions < 0:
            out.append(f"objective.predictions is {self.predictions}: it must be 1 or more, or 0 for what mask_rate asks for")
        if self.pairs not in PAIRS:
            out.append(f"objective.pairs is '{self.pairs}': it must be one of {', '.join(PAIRS)}")
        return out

    def most(self, length: int) -> int:
        """Predictions that a row of `length` tokens has room for."""
        return min(length, self.predictions or math.floor(self.mask_rate * length) + 1)


def build(config: Config, vocabulary: Vocabulary) -> Objective:
    """The objective; UserError where the tokenizer lacks a token that it needs."""
    if problems := config.problems():
        raise UserError("; ".join(problems))
    mask = vocabulary.require("mask", "objective 'mlm'")
    if config.whole_word and vocabulary.continues is None:
        raise UserError("objective.whole_word needs a tokenizer that shows which tokens begin a word, and this one does not: "
                        "take tokenizer=wordpiece, or set objective.whole_word to false")
    special = np.zeros(vocabulary.size, bool)
    special[list(vocabulary.special)] = True
    ordinary = np.flatnonzero(~special).astype(np.int32)

    def prepare(rows: dict[str, np.ndarray], rngs: Callable[[int], np.random.Generator]) -> dict[str, np.ndarray]:
        count = len(rows["tokens"])
        if "sentences" in rows:
            length = rows["tokens"].shape[1] // 2
            cls, sep = (vocabulary.require(role, "data.packing='sentences'") for role in ("cls", "sep"))
            pad = vocabulary.eot if vocabulary.pad is None else vocabulary.pad
        else:
            length = rows["tokens"].shape[1]
        out = []
        for i in range(count):
            rng, row = rngs(i), {name: x[i] for name, x in rows.items()}
            if "sentences" in rows:
                made, begins = framing.frame(config.pairs, row, length, cls, sep, pad, config.short_rate, rng)
            else:
                made = {name: row[name] for name in ("tokens", "segments", "positions")}
                begins = np.diff(row["segments"], prepend=-1) != 0
            hit = _choose(made, begins, rng)
            out.append({**made, **_hide(made["tokens"], hit, config.most(length), rng)})
        if not out:  # a host may hold no row
            raise ValueError("a batch without rows")
        return {name: np.stack([row[name] for row in out]) for name in out[0]}

    def _choose(row: dict[str, np.ndarray], begins: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Positions to predict, in order."""
        tokens = row["tokens"]
        free = np.flatnonzero((row["segments"] > 0) & ~special[tokens])
        wanted = min(max(1, math.floor(config.mask_rate * len(free) + rng.random())), len(free), config.most(len(tokens)))
        if not config.whole_word:
            return np.sort(rng.permutation(free)[:wanted])
        # A word begins where a token does, where a sentence does, and behind what is no part of a word.
        word = np.cumsum(~vocabulary.continues[tokens[free]] | begins[free] | (np.diff(free, prepend=-2) > 1)) - 1
        sizes, taken, room = np.bincount(word), [], wanted
        for one in rng.permutation(len(sizes)):
            if sizes[one] <= room:  # a word that is too long makes way for the next
                taken.append(one)
                room -= sizes[one]
            if not room:
                break
        return free[np.isin(word, taken)]

    def _hide(tokens: np.ndarray, hit: np.ndarray, most: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The row with what is predicted hidden, and what it was."""
        fate, shown = rng.random(len(hit)), tokens.copy()
        shown[hit[fate < config.hidden]] = mask
        swapped = hit[(fate >= config.hidden) & (fate < config.hidden + config.random)]
        shown[swapped] = ordinary[rng.integers(len(ordinary), size=len(swapped))]
        predict, targets, weights = np.zeros(most, np.int32), np.zeros(most, np.int32), np.zeros(most, np.float32)
        predict[:len(hit)], targets[:len(hit)], weights[:len(hit)] = hit, tokens[hit], 1.0
        return {"tokens": shown, "predict": predict, "targets": targets, "weights": weights}

    def loss(outputs: Outputs, batch: Batch) -> dict[str, Mean]:
        if outputs.table is None or outputs.hidden.shape[1] != batch["predict"].shape[1]:
            raise UserError("objective 'mlm' needs a model that tells masked tokens: model=bert or albert, with model.masked_head")
        found = losses.cross_entropy(outputs.hidden, outputs.table, batch["targets"], batch["weights"], bias=outputs.bias,
                                     soft_cap=outputs.soft_cap, form=logits.form())
        means = {"loss": found["loss"], "mlm_loss": found["nll"], "mlm_accuracy": found["accuracy"]}
        if config.pairs == "none":
            return means
        if not isinstance(outputs.head, dict) or "pair" not in outputs.head:
            raise UserError(f"objective.pairs='{config.pairs}' needs a head for the label: set model.pair_head to true, or pairs to 'none'")
        nll, right = _label(outputs.head["pair"], batch["labels"])
        weight = batch["label_weights"]
        total = jnp.sum(weight)
        pair = Mean(jnp.sum(nll * weight), total)
        scaled = jnp.sum(nll * weight * balance(batch)["label_scale"])
        return {**means, "loss": Mean(means["loss"].total + scaled, means["loss"].weight), f"{config.pairs}_loss": pair,
                f"{config.pairs}_accuracy": Mean(jnp.sum(right * weight), total)}

    if config.pairs == "none":
        return Objective(prepare, loss)
    return Objective(prepare, loss, balance, ("mlm_loss", f"{config.pairs}_loss"))


def balance(batch: Batch) -> Batch:
    """`label_scale`: predictions in the whole batch for each of its labels. With it the loss, a sum over all predictions,
    divides into the average of the predictions plus the average of the labels, however the batch is cut."""
    if "label_scale" in batch:
        return batch
    scale = jnp.sum(batch["weights"]) / jnp.maximum(jnp.sum(batch["label_weights"]), 1.0)
    return {**batch, "label_scale": jnp.full_like(batch["label_weights"], scale)}


def _label(logits: Array, labels: Array) -> tuple[Array, Array]:
    """(-log p(label), whether it is the larger logit), float32 [B], of logits [B, 2]."""
    ahead = logits[:, 1] - logits[:, 0]
    margin = jnp.where(labels == 1, ahead, -ahead)  # of the true label over the other
    return jnp.logaddexp(0.0, -margin), (margin > 0).astype(jnp.float32)

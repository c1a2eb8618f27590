# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Denoising: an encoder-decoder reads a text with parts taken out, and tells them (T5) or the whole text (BART).

What is taken out is drawn anew for every step and row.
"""
import dataclasses
from typing import ClassVar

import numpy as np

from jaxlm.core.errors import UserError
from jaxlm.core.types import Objective, Vocabulary
from jaxlm.objectives import noise, seq2seq

KINDS = ("spans", "infilling")
Rows = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Config(seq2seq.Config):
    """What is taken out, and the terms of the loss, as of causal_lm.

    kind: "spans", T5's span corruption (Raffel et al. 2020, section 3.1.4; noise_span_to_unique_sentinel and
    nonnoise_span_to_unique_sentinel of its code): each span leaves a sentinel, the source is `a <extra_id_0> d eot` and the
    target `<extra_id_0> b c eot`: a sentinel before each span and, as in the code though not in the paper's figure, none
    behind the last. "infilling", BART's (Lewis et al. 2019, section 2.2): each span leaves a mask, and the target is the whole text;
    sentences are not permuted.

    BART's rate is 0.3, and T5's data.seq_len what `lengths` says of data.source_len: 114 for 512.
    """

    kind: str = "spans"
    rate: float = 0.15  # of a text's tokens: taken out
    span: float = 3.0  # tokens in a span on average

    packings: ClassVar[tuple[str, ...]] = ("windows", "pack")  # values of data.packing that it takes

    def problems(self) -> list[str]:
        out = super().problems()
        most = 0.5 if self.kind == "infilling" else 1
        if self.kind not in KINDS:
            out.append(f"objective.kind is '{self.kind}': it must be one of {', '.join(KINDS)}")
        elif not (0 < self.rate < 1 and self.rate <= most):
            out.append(f"objective.rate is {self.rate}: it must be above 0 and {'at most 0.5' if most < 1 else 'below 1'}")
        if not self.span >= 1:
            out.append(f"objective.span is {self.span}: it must be 1 token or more")
        return out

    def sizes(self, lengths: np.ndarray) -> np.ndarray:
        """Positions [any, 2] that the source and the target of texts of so many tokens take, each with its end; of
        infilling the most that the source takes."""
        if self.kind == "infilling":
            return np.stack([lengths + 1, lengths + 1], -1)
        out, number = noise.counts(lengths, self.rate, self.span)
        return np.stack([lengths - out + number + 1, out + number + 1], -1)

    def lengths(self, source_len: int) -> tuple[int, int]:
        """(tokens of the longest text whose source has source_len positions, positions of its target): T5's
        compute_input_and_target_lengths (random_spans_helper), 568 and 114 for 512."""
        text = 1
        while self.sizes(np.array(text + 1))[0] <= source_len:
            text += 1
        return text, int(self.sizes(np.array(text))[1])

    def misfit(self, source_len: int, seq_len: int) -> list[str]:
        """What is wrong with rows of so many positions."""
        text, target = self.lengths(source_len)
        if text > 1 and target <= seq_len:
            return []
        return [f"data.seq_len is {seq_len} and data.source_len {source_len}: " + (
            f"the source holds a text of {text} tokens, of which objective 'denoise' as it is set makes a target of "
            f"{target}: set data.seq_len to {target} or more, or lower data.source_len" if text > 1 else
            "it holds no text of 2 tokens, raise it")]

    def check(self, vocabulary: Vocabulary, longest: int) -> None:
        """UserError where texts of up to `longest` tokens need a token that the tokenizer does not have."""
        if self.kind == "infilling":
            vocabulary.require("mask", "objective.kind='infilling'")
            return
        spans, known = int(noise.counts(np.array(longest), self.rate, self.span)[1]), len(vocabulary.sentinels)
        if spans > known:
            raise UserError(
                f"objective 'denoise' takes {spans} spans out of a text of {longest} tokens, each of which needs a sentinel, and the "
                f"tokenizer has {known or 'none'}: give tokenizer.special_tokens the names <extra_id_0> to <extra_id_{spans - 1}>, as "
                "configs/t5_tiny.py does, or take shorter rows (data.source_len) or longer spans (objective.span)")


def build(config: Config, vocabulary: Vocabulary) -> Objective:
    """The objective; UserError where the tokenizer lacks a token that it needs."""
    if problems := config.problems():
        raise UserError("; ".join(problems))
    config.check(vocabulary, 2)
    taught, sentinels = seq2seq.build(config, vocabulary), np.array(vocabulary.sentinels, np.int32)

    def prepare(rows: Rows, rngs: noise.Rngs) -> Rows:
        """rows: of data/texts.py."""
        numbers = rows["text_segments"]
        begins = (numbers > 0) & (np.diff(numbers, prepend=0) != 0)
        tokens, text, row = rows["text"][numbers > 0], np.cumsum(begins[numbers > 0]) - 1, np.nonzero(begins)[0]
        lengths = np.bincount(text, minlength=len(row))
        if config.kind == "spans":
            config.check(vocabulary, int(lengths.max(initial=2)))
            source, target = _spans(tokens, text, *noise.spans(lengths, row, rngs, config.rate, config.span), sentinels)
        else:
            taken, where, of = noise.infilling(lengths, row, rngs, config.rate, config.span)
            source = np.insert(tokens[~taken], where, vocabulary.mask), np.insert(text[~taken], where, of)
            target = tokens, text
        batch = {name: x.copy() for name, x in rows.items() if not name.startswith("text")}
        for side, name, made in (("source_", "source_tokens", source), ("", "next", target)):
            _lay(batch, side, name, *made, row, vocabulary.eot)
        batch["tokens"] = np.where(batch["positions"] > 0, np.roll(batch["next"], 1, 1), vocabulary.eot)
        return taught.prepare(batch, rngs)

    return dataclasses.replace(taught, prepare=prepare)


def _spans(tokens: np.ndarray, text: np.ndarray, noisy: np.ndarray, number: np.ndarray, sentinels: np.ndarray) -> list[tuple]:
    """(tokens, the text of each) of the sources and of the targets; noisy, number: what noise.spans gives.

    Both tell spans of one kind token by token, and each of the other by the sentinel of its turn.
    """
    before, out = np.concatenate([[False], noisy])[:-1], []
    for told, spans in ((~noisy, noisy & ~before), (noisy, ~noisy & (before | (np.diff(text, prepend=-1) != 0)))):
        spans = spans & (number[text] > 0)
        turn = np.cumsum(spans) - 1 - (np.cumsum(number) - number)[text]
        shown = told | spans
        out.append((np.where(spans, sentinels[np.where(spans, turn, 0)], tokens)[shown], text[shown]))
    return out


def _lay(batch: Rows, side: str, name: str, values: np.ndarray, text: np.ndarray, row: np.ndarray, eot: int) -> None:
    """Puts the values of each text and an eot side by side into the row that the text is of."""
    sizes, number = np.bincount(text, minlength=len(row)) + 1, noise.within(np.bincount(row))
    within, before = noise.within(sizes), np.cumsum(sizes) - sizes
    at = np.repeat(row, sizes), np.repeat(before - before[np.arange(len(row)) - number], sizes) + within
    ends = within == np.repeat(sizes - 1, sizes)
    batch[name][at] = eot
    batch[name][tuple(x[~ends] for x in at)] = values
    batch[side + "segments"][at] = np.repeat(number + 1, sizes)
    batch[side + "positions"][at] = within

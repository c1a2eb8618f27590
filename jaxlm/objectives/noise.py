# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Which tokens of texts are taken out: T5's spans of noise (Raffel et al. 2020) and BART's infilling (Lewis et al. 2019).

All texts of a batch at once: [P] are texts, [N] their tokens one after the other. Numbers are drawn row by row, each from its
row's generator, and what becomes of a text depends on its own numbers alone.
"""
from collections.abc import Callable

import numpy as np

Rngs = Callable[[int], np.random.Generator]


def counts(lengths: np.ndarray, rate: float, mean: float) -> tuple[np.ndarray, np.ndarray]:
    """(tokens of noise, spans of noise), int [P], of texts of so many tokens, as T5's random_spans_noise_mask rounds them.

    Half goes to the even number; one token and one span at least, one token is left at least. Spans that could not all have
    a token before them are fewer, where the published code has no answer; a text of one token has none.
    """
    noise = np.minimum(np.maximum(np.round(lengths * rate).astype(np.int64), 1), np.maximum(lengths - 1, 0))
    spans = np.maximum(np.round(noise / mean).astype(np.int64), 1)
    return noise, np.minimum(spans, np.minimum(noise, lengths - noise))


def spans(lengths: np.ndarray, rows: np.ndarray, rngs: Rngs, rate: float, mean: float) -> tuple[np.ndarray, np.ndarray]:
    """(bool [N], where noise is; int [P], spans of each text): of all masks with `counts` that begin without noise, each as likely.

    lengths, rows int [P]: tokens and row of each text, by rows. So a text ends with noise, as in the published code.
    """
    noise, number = counts(lengths, rate, mean)
    # What is not noise and what is are each cut into as many parts, which then take turns.
    items, parts = np.stack([lengths - noise, noise], 1).ravel(), np.repeat(number, 2)
    gaps = np.maximum(items - 1, 0)
    uniform, = _drawn(rows, rngs, (gaps.reshape(-1, 2).sum(1), lambda rng, n: rng.random(n)))
    begins = within(items) == 0
    begins[~begins] = _ranks(gaps, uniform) < np.repeat(parts - 1, gaps)
    sizes = np.diff(np.append(np.flatnonzero(begins), len(begins)))
    # From all parts of one kind and then of the other, text by text, to turns.
    parts = np.where(items > 0, np.maximum(parts, 1), 0)
    kind = np.repeat(np.arange(len(parts)) % 2, parts)
    order = np.lexsort((kind, within(parts), np.repeat(np.arange(len(parts)) // 2, parts)))
    return np.repeat(kind[order].astype(bool), sizes[order]), number


def infilling(lengths: np.ndarray, rows: np.ndarray, rngs: Rngs, rate: float, mean: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(bool [N], what is taken out; int [M], the number of tokens of all texts that stay before each mask; int [M], the
    text of each mask).

    Spans of Poisson(mean) tokens until rate of a text's are taken out, rounded up, the last cut to that; each leaves one
    mask, and one of no tokens puts a mask in, unless the masks would be more than what was taken out. Two masks are never
    neighbours: which of the places between the tokens that stay have one is drawn evenly. rate is at most 1/2.
    """
    budget = np.minimum(np.ceil(lengths * rate).astype(np.int64), np.maximum(lengths - 1, 0))
    tries = np.where(budget > 0, np.ceil(2 * budget / mean).astype(np.int64) + 8, 0)  # far more than ever needed
    places = np.where(lengths > 0, lengths - budget + 1, 0)
    poisson, uniform = _drawn(rows, rngs, (tries, lambda rng, n: rng.poisson(mean, n)), (places, lambda rng, n: rng.random(n)))
    text = np.repeat(np.arange(len(lengths)), tries)
    left = budget[text] - _before(poisson, tries)
    size = np.where(within(tries) == tries[text] - 1, left, np.minimum(poisson, left))
    used = left > 0
    solid = used & (size > 0)
    # Insertions while masks are not more than tokens taken out.
    spare = (budget - np.bincount(text[solid], minlength=len(lengths)))[text]
    empty = used & (size == 0)
    chosen = solid | empty & (_before(empty, tries) < spare)
    number = np.bincount(text[chosen], minlength=len(lengths))
    # The k-th span of a text goes to the place of rank k.
    ranks = _ranks(places, uniform)
    masked = ranks < np.repeat(number, places)
    spans_of = np.cumsum(number) - number
    at = np.zeros(len(ranks), np.int64)
    at[masked] = size[chosen][(ranks + np.repeat(spans_of, places))[masked]]
    # A place, a token that stays, a place, ...: a text ends with a place.
    stays = np.ones(len(ranks), np.int64)
    stays[np.cumsum(places)[places > 0] - 1] = 0
    taken = np.repeat(np.tile([True, False], len(ranks)), np.stack([at, stays], 1).ravel())
    return taken, (np.cumsum(stays) - stays)[masked], np.repeat(np.arange(len(lengths)), places)[masked]


def _drawn(rows: np.ndarray, rngs: Rngs, *kinds: tuple[np.ndarray, Callable[[np.random.Generator, int], np.ndarray]]) -> list[np.ndarray]:
    """For each (numbers [P] that each text needs, how they are drawn) those of all texts: row by row, a row's kinds in turn."""
    needed = [np.bincount(rows, sizes).astype(np.int64) for sizes, _ in kinds]
    found = [[np.zeros(0, np.int64)] for _ in kinds]
    for row in np.unique(rows):
        rng = rngs(int(row))
        for numbers, count, (_, draw) in zip(found, needed, kinds):
            numbers.append(draw(rng, count[row]))
    return [np.concatenate(numbers) for numbers in found]


def _ranks(sizes: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """The rank of each number among those of its group; groups of `sizes` follow one another."""
    # Whole numbers: a group's order must not depend on how many groups came before it.
    group = np.repeat(np.arange(len(sizes)), sizes) << 40
    ranks = np.empty(len(uniform), np.int64)
    ranks[np.argsort(group | (uniform * (1 << 40)).astype(np.int64), kind="stable")] = within(sizes)
    return ranks


def _before(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The sum of the values before each in its group; groups of `sizes` follow one another."""
    sums = np.concatenate([[0], np.cumsum(values)])
    return sums[:-1] - np.repeat(sums[np.cumsum(sizes) - sizes], sizes)


def within(sizes: np.ndarray) -> np.ndarray:
    """0, 1, ... in each of the groups of `sizes`."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)

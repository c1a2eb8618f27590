# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Which experts a token goes to, and how evenly they are used. Letters: B rows, L positions, E experts, k of them a token."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Load:
    """Sums over real tokens (segment above 0): a batch's is that of its parts, added."""

    chosen: Array  # float32 [E]: how many tokens chose each expert
    probs: Array  # float32 [E]: the probability that each expert had
    squares: Array  # float32 []: log(Z)^2 of the router's softmax
    tokens: Array  # float32 []


def choose(logits: Array, k: int) -> tuple[Array, Array]:
    """(weights float32 [B, L, k], experts int32 [B, L, k]), the weights adding up to 1.

    Mixtral's order (Jiang et al. 2024): softmax over all experts, then the k largest, made to add up to 1 again.
    """
    probs = jax.nn.softmax(logits.astype(jnp.float32), -1)
    # By k times the largest, which rows that are split need not be gathered for, as they are for lax.top_k.
    left, weights, experts = probs, [], []
    for _ in range(k):
        experts.append(jnp.argmax(left, -1).astype(jnp.int32))
        hit = _one_hot(experts[-1], probs.shape[-1])
        weights.append(jnp.sum(jnp.where(hit, probs, 0), -1))
        left = jnp.where(hit, -1, left)
    weights = jnp.stack(weights, -1)
    return weights / jnp.sum(weights, -1, keepdims=True), jnp.stack(experts, -1)


def _one_hot(experts: Array, count: int) -> Array:
    numbers = lax.broadcasted_iota(jnp.int32, (1,) * experts.ndim + (count,), experts.ndim)
    return experts[..., None] == numbers


def load(logits: Array, experts: Array, real: Array) -> Load:
    """What one layer's router did with the real tokens (real: bool [B, L])."""
    logits = logits.astype(jnp.float32)
    real = real.astype(jnp.float32)
    hit = _one_hot(experts, logits.shape[-1]).astype(jnp.float32)
    each = lambda x: jnp.sum(x * real[..., None], (0, 1))
    square = jnp.square(jax.nn.logsumexp(logits, -1))
    return Load(each(jnp.sum(hit, 2)), each(jax.nn.softmax(logits, -1)), jnp.sum(square * real), jnp.sum(real))


def balance(loads: Load) -> Array:
    """k if every expert is used alike, and up to E otherwise: E * sum(share of tokens * mean probability) over experts.

    loads: of every layer, stacked; shares and probabilities are means over tokens and layers before they are multiplied
    (Fedus et al. 2021, equations 4 to 6, as Mixtral's published implementation has them). It is a product of means: the
    figure of a batch is not the mean of the figures of its parts.
    """
    tokens = jnp.maximum(jnp.sum(loads.tokens), 1)
    share, prob = jnp.sum(loads.chosen, 0) / tokens, jnp.sum(loads.probs, 0) / tokens
    return loads.chosen.shape[-1] * jnp.sum(share * prob)


def z_loss(loads: Load) -> Array:
    """The mean of log(Z)^2 over tokens and layers (Zoph et al. 2022, equation 5)."""
    return jnp.sum(loads.squares) / jnp.maximum(jnp.sum(loads.tokens), 1)

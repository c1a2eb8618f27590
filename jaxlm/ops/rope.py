# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Rotary position embedding, half-split as in GPT-NeoX and Llama, in float32, with the scalings that stretch it.

Letters: B rows, T positions, N heads, H size of a head, R = rotated pairs (H / 2 unless only a part is rotated).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.errors import UserError, nearest

Array = jax.Array

SCALINGS = ("none", "linear", "ntk", "llama3", "yarn")


def frequencies(
    head_dim: int,
    theta: float = 10000.0,
    *,
    scaling: str = "none",
    factor: float = 1.0,
    original_len: int = 0,
    low: float = 1.0,
    high: float = 4.0,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
    attention_factor: float = 0.0,
) -> tuple[np.ndarray, float]:
    """Radians per position of each rotated pair, float32 [H / 2], and the factor on sine and cosine.

    none     RoFormer (Su et al. 2021), eq. 15: theta^(-2i / H).
    linear   position interpolation (Chen et al. 2023): positions divided by `factor`.
    ntk      NTK-aware interpolation at a fixed factor (YaRN, Peng et al. 2023, section 3.1, eq. 16).
    llama3   Llama 3.1's: wavelengths above original_len / low are divided by factor, those below original_len / high
             are kept, between them a linear blend (apply_scaling in meta-llama/llama-models, llama3/model.py).
    yarn     YaRN (Peng et al. 2023), section 3.2 and 3.4: a blend by rotations within original_len, from beta_slow to
             beta_fast, and sine and cosine times 0.1 ln(factor) + 1 unless `attention_factor` says otherwise.
    """
    if head_dim % 2:
        raise UserError(f"head_dim is {head_dim}: rotary positions need an even size")
    if scaling not in SCALINGS:
        raise UserError(
            f"rope scaling '{scaling}' does not exist{nearest(scaling, SCALINGS)} There are: {', '.join(SCALINGS)}."
        )
    if scaling in ("llama3", "yarn") and original_len < 1:
        raise UserError(
            f"rope scaling '{scaling}' needs the length that the model was first trained at, and it is {original_len}"
        )
    exponent = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    if scaling == "ntk":
        theta = theta * factor ** (head_dim / (head_dim - 2))
    plain = theta**-exponent
    scale = 1.0
    if scaling == "linear":
        plain = plain / factor
    elif scaling == "llama3":
        wavelength = 2 * math.pi / plain
        keep = np.clip((original_len / wavelength - low) / (high - low), 0, 1)
        plain = keep * plain + (1 - keep) * plain / factor
    elif scaling == "yarn":
        keep = 1 - _ramp(head_dim, theta, original_len, beta_fast, beta_slow, truncate)
        plain = keep * plain + (1 - keep) * plain / factor
        scale = attention_factor or (0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0)
    return plain.astype(np.float32), scale


def _ramp(head_dim: int, theta: float, original_len: int, fast: float, slow: float, truncate: bool) -> np.ndarray:
    """YaRN's gamma turned round: 0 for pairs that turn often within original_len, 1 for those that hardly turn."""

    def pair(rotations: float) -> float:
        return head_dim * math.log(original_len / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair(fast), pair(slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    return np.clip((np.arange(head_dim // 2) - low) / (high - low), 0, 1)


def angles(positions: Array, frequency: Array, scale: float = 1.0) -> tuple[Array, Array]:
    """Sine and cosine, float32 [B, T, R] each, of positions [B, T] at frequencies [R]."""
    radians = positions[:, :, None].astype(jnp.float32) * jnp.asarray(frequency)[None, None, :]
    return jnp.sin(radians) * scale, jnp.cos(radians) * scale


def rotate(x: Array, sine: Array, cosine: Array) -> Array:
    """x [B, T, N, H] turned by the angles [B, T, R]; what lies beyond 2 R of each head passes unchanged."""
    pairs = sine.shape[-1]
    wide = x.astype(jnp.float32)
    first, second, rest = wide[..., :pairs], wide[..., pairs : 2 * pairs], wide[..., 2 * pairs :]
    sine, cosine = sine[:, :, None, :], cosine[:, :, None, :]
    turned = [first * cosine - second * sine, second * cosine + first * sine]
    return jnp.concatenate(turned + [rest] * (rest.shape[-1] > 0), -1).astype(x.dtype)

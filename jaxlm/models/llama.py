# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The Llama family: pre-norm decoder with RMSNorm, rotary positions, grouped heads and a gated feed-forward.

By fields alone: Llama 2 and 3, Mistral, Mixtral, Qwen 2 and 3, Gemma 1, 2 and 3 (text).
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core import cut
from jaxlm.core.functional import Functional
from jaxlm.core.types import Array, Batch, Mean, Outputs
from jaxlm.layers import cache as caches
from jaxlm.layers import checks, stack
from jaxlm.layers.attention import Attention
from jaxlm.layers.block import Block
from jaxlm.layers.embed import Embed, Head
from jaxlm.layers.linear import normal
from jaxlm.layers.mlp import Mlp
from jaxlm.layers.moe import Moe
from jaxlm.layers.norm import RMSNorm
from jaxlm.ops import rope, route


@dataclasses.dataclass(frozen=True)
class Config:
    """The default is Llama 2 7B but for its vocabulary."""

    vocab_size: int = 0  # 0: the tokenizer's
    max_len: int = 4096  # what the model is meant for; rotary positions set no bound of their own
    layers: int = 32
    heads: int = 32
    kv_heads: int = 0  # 0: heads
    head_dim: int = 0  # 0: embed // heads
    embed: int = 4096
    mlp: int = 11008  # hidden features, of each expert where there are experts
    experts: int = 0  # feed-forwards a layer, of which a token uses some (Mixtral); 0: one, without a router
    experts_per_token: int = 2
    # Terms of the loss, over the real tokens of a batch or micro-batch: the balance of a batch is not the mean of the
    # balances of its micro-batches, so that with accumulation each is asked to be balanced.
    router_aux: float = 0.01  # times the balance loss, which is experts_per_token at best (Fedus et al. 2021)
    router_z: float = 0.0  # times the mean log(Z)^2 of the router (Zoph et al. 2022)
    activation: str = "silu"
    norm_eps: float = 1e-5
    norm_offset: float = 0.0  # 1: norms multiply by 1 + scale (Gemma)
    sandwich: bool = False  # norms after attention and feed-forward too (Gemma 2)
    qk_norm: bool = False  # RMSNorm of each head's query and key (Qwen 3, Gemma 3)
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    tie_embeddings: bool = False
    embed_scale: bool = False  # embeddings times sqrt(embed) (Gemma)
    query_scale: float = 0.0  # on the scores; 0: head_dim ** -0.5
    attention_soft_cap: float = 0.0  # scores = c * tanh(scores / c); 0: off
    logit_soft_cap: float = 0.0
    window: int = 0  # keys that a local layer sees, itself included; 0: all
    window_pattern: str = "L"  # repeated over the layers: L = local, by the window; G = global
    rope_theta: float = 10000.0
    rope_local_theta: float = 0.0  # of local layers, unscaled (Gemma 3); 0: as global ones
    rope_scaling: str = "none"  # none | linear | ntk | llama3 | yarn
    rope_factor: float = 1.0
    rope_original_len: int = 0  # llama3, yarn: the length of the first training
    rope_low: float = 1.0  # llama3
    rope_high: float = 4.0  # llama3
    rope_beta_fast: float = 32.0  # yarn
    rope_beta_slow: float = 1.0  # yarn
    rope_truncate: bool = True  # yarn
    rope_attention_factor: float = 0.0  # yarn; 0: from the factor
    init_std: float = 0.02  # projections onto the residual stream: divided by sqrt(2 * layers)
    embed_dropout: float = 0.0
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    attention_backend: str = "auto"
    dtype: str = "float32"  # of activations and products
    param_dtype: str = "float32"
    scan: bool = True  # False: unrolled; the parameters are the same
    remat: str = "none"

    @property
    def size_kv_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def size_head_dim(self) -> int:
        return self.head_dim or self.embed // self.heads

    def problems(self) -> list[str]:
        out = [
            *checks.at_least(self, 0, "vocab_size", "kv_heads", "head_dim", "window", "rope_original_len"),
            *checks.at_least(self, 1, "max_len", "layers", "heads", "embed", "mlp", "rope_factor", "rope_theta"),
            *checks.one_of(self, rope_scaling=rope.SCALINGS),
            *checks.rates(self, "embed_dropout", "attention_dropout", "residual_dropout"),
            *checks.common(self),
        ]
        out += checks.at_least(self, 0, "experts", "router_aux", "router_z")
        if self.experts > 0 and not 1 <= self.experts_per_token <= self.experts:
            out.append(f"experts_per_token is {self.experts_per_token}: it must be from 1 to experts={self.experts}")
        if self.experts > 0 and self.mlp_bias:
            out.append("mlp_bias is True: experts have no bias, set it to False")
        if not self.head_dim:
            out += checks.multiple(self, "embed", "heads")
        if self.kv_heads > 0:
            out += checks.multiple(self, "heads", "kv_heads")
        if self.heads > 0 and self.size_head_dim % 2:
            out.append(f"head_dim is {self.size_head_dim}: rotary positions need an even size")
        if not self.window_pattern or set(self.window_pattern) - set("LG"):
            out.append(
                f"window_pattern is '{self.window_pattern}': it is made of L (local) and G (global), such as 'LG'"
            )
        if self.rope_scaling in ("llama3", "yarn") and self.rope_original_len < 1:
            out.append(
                f"rope_original_len is {self.rope_original_len}: rope_scaling={self.rope_scaling} needs the length of "
                "the first training"
            )
        return out


class Llama(nnx.Module):
    """Parameters: embed, blocks (stacked), norm, and head when not tied."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        c = self.config = config
        init, out_init = normal(c.init_std), normal(c.init_std / (2 * c.layers) ** 0.5)
        common = dict(init=init, dtype=c.param_dtype)

        def layer(rngs: nnx.Rngs) -> Block:
            attention = Attention(
                rngs,
                c.embed,
                c.heads,
                c.size_kv_heads,
                c.size_head_dim,
                qkv_bias=c.qkv_bias,
                out_bias=c.out_bias,
                qk_norm=c.qk_norm,
                norm_eps=c.norm_eps,
                norm_offset=c.norm_offset,
                scale=c.query_scale,
                soft_cap=c.attention_soft_cap,
                rate=c.attention_dropout,
                backend=c.attention_backend,
                out_init=out_init,
                **common,
            )
            feed = dict(activation=c.activation, out_init=out_init, **common)
            if c.experts:
                mlp = Moe(rngs, c.embed, c.mlp, c.experts, c.experts_per_token, **feed)
            else:
                mlp = Mlp(rngs, c.embed, c.mlp, gated=True, bias=c.mlp_bias, **feed)
            order = "sandwich" if c.sandwich else "pre"
            return Block(attention, mlp, lambda: self._norm(rngs), order=order, rate=c.residual_dropout)

        self.embed = Embed(
            rngs,
            c.vocab_size,
            c.embed,
            scale=c.embed**0.5 if c.embed_scale else 1.0,
            rate=c.embed_dropout,
            dtype=c.dtype,
            param_dtype=c.param_dtype,
            init=init,
        )
        self.blocks = stack.make(rngs, c.layers, layer)
        self.norm = self._norm(rngs)
        self.head = (
            None if c.tie_embeddings else Head(rngs, c.vocab_size, c.embed, param_dtype=c.param_dtype, init=init)
        )

    def _norm(self, rngs: nnx.Rngs) -> RMSNorm:
        c = self.config
        return RMSNorm(rngs, c.embed, eps=c.norm_eps, offset=c.norm_offset, dtype=c.param_dtype)

    def __call__(self, batch: Batch, key: Array | None = None, cache: caches.Cache | None = None) -> Outputs:
        c = self.config
        span = caches.span(batch, cache)
        embed_key, key = (None, None) if key is None else jax.random.split(key)
        x = self.embed(batch["tokens"], span.positions, key=embed_key)
        rotary = self._rotary(span.positions)
        local = [c.window > 0 and c.window_pattern[i % len(c.window_pattern)] == "L" for i in range(c.layers)]
        # Only what differs between layers goes through the loop: a number that all share stays a constant.
        inputs = {"local": [int(x) for x in local]} if len(set(local)) == 2 else {}

        def call(block, carry, layer, key, inputs):
            x, store = carry
            here = inputs.get("local", int(local[0]))
            mask = dataclasses.replace(span.mask, window=here * c.window)
            angles = jax.tree.map(lambda both: both[here], rotary) if c.rope_local_theta else rotary
            x, store, load = block.routed(x, mask, cache=span.view(store, layer), key=key, rotary=angles)
            return (x, store), load

        (x, store), loads = stack.run(
            self.blocks,
            (x, span.store),
            call,
            layers=c.layers,
            scan=c.scan,
            key=key,
            inputs=inputs,
            remat=c.remat if cache is None else "none",
        )
        table = self.embed.table() if self.head is None else self.head()
        aux = {} if loads is None else self._aux(loads)
        return Outputs(self.norm(x), table, cache=span.cache(store), soft_cap=c.logit_soft_cap, aux=aux)

    def _aux(self, loads: route.Load) -> dict[str, Mean]:
        """The router's terms of the loss, times their coefficients, weighted by tokens; those of coefficient 0 left out."""
        c, tokens, loads = self.config, loads.tokens[0], cut.total(loads)
        terms = (("router_balance", c.router_aux, route.balance), ("router_z", c.router_z, route.z_loss))
        return {name: Mean(scale * term(loads) * tokens, tokens) for name, scale, term in terms if scale}

    def _rotary(self, positions: Array) -> tuple[Array, Array]:
        """Sine and cosine of every position, once for all layers; [0] global and [1] local where the two differ."""
        c = self.config
        with jax.named_scope("rope"):
            everywhere = rope.angles(
                positions,
                *rope.frequencies(
                    c.size_head_dim,
                    c.rope_theta,
                    scaling=c.rope_scaling,
                    factor=c.rope_factor,
                    original_len=c.rope_original_len,
                    low=c.rope_low,
                    high=c.rope_high,
                    beta_fast=c.rope_beta_fast,
                    beta_slow=c.rope_beta_slow,
                    truncate=c.rope_truncate,
                    attention_factor=c.rope_attention_factor,
                ),
            )
            if not c.rope_local_theta:
                return everywhere
            local = rope.angles(positions, *rope.frequencies(c.size_head_dim, c.rope_local_theta))
            return jax.tree.map(lambda *both: jnp.stack(both), everywhere, local)

    def cache(self, rows: int, length: int) -> caches.Cache:
        c = self.config
        return caches.empty(c.layers, rows, length, c.size_kv_heads, c.size_head_dim, c.dtype)

    def rewind(self, cache: caches.Cache, counts: Array) -> caches.Cache:
        return caches.rewind(cache, counts)


def build(config: Config) -> Functional:
    """The model as pure functions; UserError when the config cannot be built."""
    checks.raise_problems("llama", config)
    return Functional(lambda rngs: Llama(config, rngs))

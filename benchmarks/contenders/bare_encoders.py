# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The losses of BERT and T5, written by hand for the bare step: the same mathematics as every other contender, no framework."""
import functools

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks import data
from benchmarks.contenders.bare_parts import NN, NT, gelu, norm
from benchmarks.shapes import Shape

@jax.custom_vjp
def attend_cpu(q, k, v, bias):  # [B, H, T, d], q already scaled; bias [1, H, T, S], or one number that has no gradient
    return _attend_cpu(q, k, v, bias)[0]


def _attend_cpu(q, k, v, bias):
    p = jax.nn.softmax(lax.dot_general(q, k, NT, preferred_element_type=jnp.float32) + bias, -1).astype(v.dtype)
    return lax.dot_general(p, v, NN), (q, k, v, p, bias)


def _attend_cpu_back(saved, d):
    q, k, v, p, bias = saved
    d_p = lax.dot_general(d, v, NT, preferred_element_type=jnp.float32)
    wide = p.astype(jnp.float32)
    d_s = wide * (d_p - jnp.sum(wide * d_p, -1, keepdims=True))
    d_bias = jnp.sum(d_s, 0, keepdims=True) if bias.size > 1 else jnp.zeros_like(bias)
    d_s = d_s.astype(q.dtype)
    d_k = lax.dot_general(q.swapaxes(2, 3), d_s, NN).swapaxes(2, 3)
    d_v = lax.dot_general(d.swapaxes(2, 3), p, NN).swapaxes(2, 3)
    return lax.dot_general(d_s, k, NN), d_k, d_v, d_bias


attend_cpu.defvjp(_attend_cpu, _attend_cpu_back)


def attention(q, k, v, bias, scale, cpu):  # [B, T, heads, d]
    if not cpu:
        kind = None if bias is not None else "cudnn"
        return jax.nn.dot_product_attention(q, k, v, None if bias is None else bias.astype(q.dtype), scale=scale, implementation=kind)
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q * jnp.asarray(scale, q.dtype), k, v))
    return attend_cpu(q, k, v, jnp.zeros((1, 1, 1, 1)) if bias is None else bias).transpose(0, 2, 1, 3)


layer_norm = functools.partial(norm, rms=False, eps=1e-12)
rms_norm = functools.partial(norm, rms=True, eps=1e-6)


def cross_entropy(logits, targets, weights):
    logits = logits.astype(jnp.float32)
    right = jnp.take_along_axis(logits, targets.reshape(-1, 1), -1)[:, 0]
    weights = weights.reshape(-1)
    return jnp.sum((jax.nn.logsumexp(logits, -1) - right) * weights) / jnp.sum(weights)


def bert(p, tokens, predict, targets, weights, s: Shape, dtype, cpu):
    (B, T), D, e, head = tokens.shape, s.embed, "bert.embeddings.", "cls.predictions."
    linear = lambda x, name: x @ p[name + ".weight"].astype(dtype).T + p[name + ".bias"].astype(dtype)
    heads = lambda x: x.reshape(B, T, s.heads, s.head_dim)
    x = p[e + "word_embeddings.weight"][tokens] + p[e + "position_embeddings.weight"][:T] + p[e + "token_type_embeddings.weight"][0]
    x = layer_norm(x.astype(dtype).reshape(B * T, D), p, e + "LayerNorm")
    for i in range(s.layers):
        n = f"bert.encoder.layer.{i}."
        q, k, v = (heads(linear(x, f"{n}attention.self.{name}")) for name in ("query", "key", "value"))
        y = attention(q, k, v, None, s.head_dim**-0.5, cpu).reshape(B * T, D)
        x = layer_norm(x + linear(y, n + "attention.output.dense"), p, n + "attention.output.LayerNorm")
        y = linear(gelu(linear(x, n + "intermediate.dense"), False), n + "output.dense")
        x = layer_norm(x + y, p, n + "output.LayerNorm")
    x = jnp.take_along_axis(x.reshape(B, T, D), predict[:, :, None], 1).reshape(-1, D)
    x = layer_norm(gelu(linear(x, head + "transform.dense"), False), p, head + "transform.LayerNorm")
    logits = x @ p[e + "word_embeddings.weight"].astype(dtype).T
    return cross_entropy(logits.astype(jnp.float32) + p[head + "bias"], targets, weights)


def t5(p, source, tokens, targets, weights, s: Shape, dtype, cpu):
    linear = lambda x, name: x @ p[name + ".weight"].astype(dtype).T
    table = p["shared.weight"]

    def attend(n, x, y, bias, rows):  # what x asks of y
        q, k, v = (linear(z, f"{n}.{c}").reshape(rows, -1, s.heads, s.head_dim) for z, c in ((x, "q"), (y, "k"), (y, "v")))
        return linear(attention(q, k, v, bias, 1.0, cpu).reshape(x.shape[0], -1), n + ".o")

    def side(name, ids, memory):
        (B, T), crossed = ids.shape, memory is not None
        x = table[ids].astype(dtype).reshape(B * T, -1)
        bias = p[f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"][data.buckets(T, T, not crossed)]
        bias = bias.transpose(2, 0, 1)[None]
        bias = jnp.where(jnp.tril(jnp.ones((T, T), bool)), bias, -1e30) if crossed else bias
        for i in range(s.layers):
            n = f"{name}.block.{i}.layer."
            y = rms_norm(x, p, n + "0.layer_norm")
            x = x + attend(n + "0.SelfAttention", y, y, bias, B)
            if crossed:
                x = x + attend(n + "1.EncDecAttention", rms_norm(x, p, n + "1.layer_norm"), memory, None, B)
            n = f"{n}{1 + crossed}."
            x = x + linear(jax.nn.relu(linear(rms_norm(x, p, n + "layer_norm"), n + "DenseReluDense.wi")), n + "DenseReluDense.wo")
        return rms_norm(x, p, f"{name}.final_layer_norm")

    x = side("decoder", tokens, side("encoder", source, None)) * jnp.asarray(s.embed**-0.5, dtype)
    return cross_entropy(x @ table.astype(dtype).T, targets, weights)

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The limit: one hand-written jit step, a loop and nothing else. The same mathematics as every other contender, no framework.

Parameters are a dict under Hugging Face's names. Products are two-dimensional and attention's gradients avoid transposed
products, which is what XLA's CPU libraries take.
"""
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import data
from benchmarks.clock import Absent, Clock
from benchmarks.contenders import bare_encoders
from benchmarks.contenders.bare_parts import NN, NT, gelu, norm
from benchmarks.contenders.jax_memory import device_peak  # noqa: F401 - asked for by the job
from benchmarks.job import Job
from benchmarks.shapes import Shape

# Where the compiler does not know one, its defaults serve.
CPU_OPTIONS = {"xla_cpu_experimental_onednn_custom_call": True, "xla_cpu_prefer_vector_width": 512,
               "xla_cpu_experimental_ynn_fusion_type": ""}


@jax.custom_vjp
def attend_cpu(q, k, v):  # [B, H, T, d], q already scaled
    return _attend_cpu(q, k, v)[0]


def _attend_cpu(q, k, v):
    s = lax.dot_general(q, k, NT, preferred_element_type=jnp.float32)
    s = jnp.where(jnp.tril(jnp.ones(s.shape[2:], bool)), s, -1e30)
    p = jax.nn.softmax(s, -1).astype(v.dtype)
    return lax.dot_general(p, v, NN), (q, k, v, p)


def _attend_cpu_back(saved, d):
    q, k, v, p = saved
    d_p = lax.dot_general(d, v, NT, preferred_element_type=jnp.float32)
    wide = p.astype(jnp.float32)
    d_s = (wide * (d_p - jnp.sum(wide * d_p, -1, keepdims=True))).astype(q.dtype)
    d_k = lax.dot_general(q.swapaxes(2, 3), d_s, NN).swapaxes(2, 3)
    d_v = lax.dot_general(d.swapaxes(2, 3), p, NN).swapaxes(2, 3)
    return lax.dot_general(d_s, k, NN), d_k, d_v


attend_cpu.defvjp(_attend_cpu, _attend_cpu_back)


def attention(q, k, v, cpu):  # [B, T, heads, d]
    if not cpu:
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")
    if k.shape[2] != q.shape[2]:
        k, v = (jnp.repeat(x, q.shape[2] // k.shape[2], 2) for x in (k, v))
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype), k, v))
    return attend_cpu(q, k, v).transpose(0, 2, 1, 3)


def rotate(x, length):
    half = x.shape[-1] // 2
    angles = jnp.arange(length)[:, None] * 10000.0 ** (-jnp.arange(half) / half)
    sin, cos = (f(angles)[None, :, None, :] for f in (jnp.sin, jnp.cos))
    a, b = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


def loss(p, tokens, targets, s: Shape, dtype, cpu):
    (B, T), llama = tokens.shape, s.family == "llama"
    w = lambda name: p[name].astype(dtype)
    linear = lambda x, name: x @ w(name + ".weight").T if llama else x @ w(name + ".weight") + w(name + ".bias")
    heads = lambda x, n: x.reshape(B, T, n, s.head_dim)
    table = p["model.embed_tokens.weight" if llama else "transformer.wte.weight"]
    x = (table[tokens] if llama else table[tokens] + p["transformer.wpe.weight"][:T]).astype(dtype).reshape(B * T, -1)
    for i in range(s.layers):
        n = f"model.layers.{i}." if llama else f"transformer.h.{i}."
        y = norm(x, p, n + ("input_layernorm" if llama else "ln_1"), llama)
        if llama:
            q, k, v = (linear(y, f"{n}self_attn.{c}_proj") for c in "qkv")
            q, k, v = rotate(heads(q, s.heads), T), rotate(heads(k, s.keys), T), heads(v, s.keys)
        else:
            q, k, v = (heads(z, s.heads) for z in jnp.split(linear(y, n + "attn.c_attn"), 3, -1))
        y = attention(q, k, v, cpu).reshape(B * T, -1)
        x = x + linear(y, n + ("self_attn.o_proj" if llama else "attn.c_proj"))
        y = norm(x, p, n + ("post_attention_layernorm" if llama else "ln_2"), llama)
        if llama:
            x = x + linear(jax.nn.silu(linear(y, n + "mlp.gate_proj")) * linear(y, n + "mlp.up_proj"), n + "mlp.down_proj")
        else:
            x = x + linear(gelu(linear(y, n + "mlp.c_fc")), n + "mlp.c_proj")
    x = norm(x, p, "model.norm" if llama else "transformer.ln_f", llama)
    head = table if s.tied else p["lm_head.weight"]
    logits = (x @ head.astype(dtype).T).astype(jnp.float32)
    right = jnp.take_along_axis(logits, targets.reshape(-1, 1), -1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, -1) - right)


LOSSES = {"gpt": loss, "llama": loss, "bert": bare_encoders.bert, "t5": bare_encoders.t5}


def make_step(job: Job):
    cpu, dtype = job.platform == "cpu", jnp.dtype(job.dtype)
    decayed = lambda name, x: x.ndim > 1 and "wpe" not in name

    def step(state, *batch):
        p, m, v, t = state
        value, g = jax.value_and_grad(LOSSES[job.shape.family])(p, *batch, job.shape, dtype, cpu)
        scale = job.clip / jnp.maximum(jnp.sqrt(sum(jnp.sum(x * x) for x in g.values())), job.clip)  # as torch and optax clip
        t, out = t + 1, ({}, {}, {})
        for name, x in p.items():
            grad = g[name] * scale
            a, b = job.b1 * m[name] + (1 - job.b1) * grad, job.b2 * v[name] + (1 - job.b2) * grad * grad
            update = (a / (1 - job.b1**t)) / (jnp.sqrt(b / (1 - job.b2**t)) + job.eps)
            update += job.weight_decay * x if decayed(name, x) else 0
            for kept, new in zip(out, (x - job.lr * update, a, b)):
                kept[name] = new
        return (*out, t), value

    return step


def compile_step(step, platform, *args):
    lowered = jax.jit(step, donate_argnums=0).lower(*args)
    try:
        return lowered.compile(CPU_OPTIONS if platform == "cpu" else {})
    except jax.errors.JaxRuntimeError:
        return lowered.compile()


def train(job: Job, clock: Clock) -> None:
    if job.shape.dropout:
        raise Absent("has no dropout")
    given = data.weights(job.path) if job.has_weights else data.draw(job.shape)
    state = (*({name: jnp.array(x) * scale for name, x in given.items()} for scale in (1, 0, 0)), jnp.float32(0))
    batches = [tuple(map(jnp.asarray, batch)) for batch in data.batches(job.path, job.shape)]
    step, last = compile_step(make_step(job), job.platform, state, *batches[0]), None
    for batch in itertools.cycle(batches):
        state, value = step(state, *batch)
        if last is not None:  # the loss of the step before, so that the device always has work
            clock.tick(np.asarray(last))
        last = value

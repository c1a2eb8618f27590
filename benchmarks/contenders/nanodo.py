# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""google-deepmind/nanodo's model, from a checkout on the path, under a plain jit step with its own loss formula and optax.

Its architecture has no biases, so it is the same mathematics but for those: the gate holds it to a wider tolerance.
"""
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import data
from benchmarks.clock import Absent, Clock
from benchmarks.contenders.jax_memory import device_peak  # noqa: F401 - asked for by the job
from benchmarks.job import Job
from benchmarks.shapes import Shape


def train(job: Job, clock: Clock) -> None:
    try:
        from nanodo import model as nanodo
    except ImportError as error:
        raise Absent(f"does not import: {error} (put a checkout of github.com/google-deepmind/nanodo on PYTHONPATH)") from error
    s = job.shape
    if s.family != "gpt" or not s.tied:
        raise Absent("has only the GPT-2 architecture with a tied head")
    config = nanodo.DoConfig(D=s.embed, H=s.heads, L=s.length, N=s.layers, V=s.vocab, F=s.hidden, dtype=jnp.dtype(job.dtype),
                             fsdp_enabled=False)
    model = nanodo.TransformerDo(config)
    batches = [tuple(map(jnp.asarray, pair)) for pair in data.batches(job.path, s)]
    params = model.init(jax.random.key(0), batches[0][0])["params"]
    if job.has_weights:
        params = load(data.weights(job.path), s, params)
    decayed = jax.tree_util.tree_map_with_path(lambda path, x: x.ndim > 1 and "pos_embed" not in str(path), params)
    tx = optax.chain(optax.clip_by_global_norm(job.clip),
                     optax.adamw(job.lr, job.b1, job.b2, job.eps, weight_decay=job.weight_decay, mask=decayed))

    def loss(params, tokens, targets):
        logits = model.apply({"params": params}, tokens)
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    def step(state, tokens, targets):
        params, opt_state = state
        value, grads = jax.value_and_grad(loss)(params, tokens, targets)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    step, state, last, number = jax.jit(step, donate_argnums=0), (params, tx.init(params)), None, 0
    while True:
        state, value = step(state, *batches[number % len(batches)])
        if last is not None:
            clock.tick(np.asarray(last))
        last, number = value, number + 1


def load(given: dict[str, np.ndarray], s: Shape, like: dict) -> dict:
    """The exported weights without their biases, as Linen names them."""
    out = {"embed": {"embedding": given["transformer.wte.weight"]}, "pos_embed": {"embedding": given["transformer.wpe.weight"]},
           "out_ln": {"scale": given["transformer.ln_f.weight"]}}
    for i in range(s.layers):
        p = f"transformer.h.{i}."
        q, k, v = (x.reshape(s.embed, s.heads, s.head_dim) for x in np.split(given[p + "attn.c_attn.weight"], 3, -1))
        out[f"blocks_{i}"] = {
            "LayerNorm_0": {"scale": given[p + "ln_1.weight"]}, "LayerNorm_1": {"scale": given[p + "ln_2.weight"]},
            "CausalAttn_0": {"query": {"kernel": q}, "key": {"kernel": k}, "value": {"kernel": v},
                             "attn_out_proj": {"kernel": given[p + "attn.c_proj.weight"].reshape(s.heads, s.head_dim, s.embed)}},
            "Mlp_0": {"Dense_0": {"kernel": given[p + "mlp.c_fc.weight"]}, "Dense_1": {"kernel": given[p + "mlp.c_proj.weight"]}}}
    out = jax.tree.map(jnp.array, out)
    if jax.tree.map(jnp.shape, out) != jax.tree.map(jnp.shape, like):
        raise ValueError("the exported weights do not fit nanodo's tree")
    return out

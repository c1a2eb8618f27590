# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Two models in plain JAX behind the model contract (a transformer, and one that recites), and a tokenizer of bytes."""
import codecs

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core.types import Outputs
from jaxlm.parallel.place import constrain


class PlainGPT:
    """A two-layer transformer with learned positions, written from the contract alone."""

    shape = dict(layers=2, dim=16, heads=4, head=4, mlp=32)

    def __init__(self, vocab=32, positions=64):
        self.vocab, self.positions, self.traces = vocab, positions, 0

    def axes(self):
        kernel = ("layers", "embed", "heads", "head_dim")
        return {"table": ("vocab", "embed"), "positions": ("positions", "embed"), "q": kernel, "k": kernel, "v": kernel,
                "o": ("layers", "heads", "head_dim", "embed"), "up": ("layers", "embed", "mlp"),
                "down": ("layers", "mlp", "embed")}

    def init(self, key):
        n, d, h, k, m = self.shape.values()
        shapes = {"table": (self.vocab, d), "positions": (self.positions, d), "q": (n, d, h, k), "k": (n, d, h, k),
                  "v": (n, d, h, k), "o": (n, h, k, d), "up": (n, d, m), "down": (n, m, d)}
        keys = jax.random.split(key, len(shapes))
        # Large enough that every earlier token and every position moves the logits.
        draw = jax.jit(lambda keys: [jax.random.normal(k, s) * 0.5 for k, s in zip(keys, shapes.values(), strict=True)])
        return dict(zip(shapes, draw(keys), strict=True))

    def cache(self, rows, length):
        n, _, h, k, _ = self.shape.values()
        room = jnp.zeros((n, rows, length, h, k))
        empty = jnp.zeros((rows, length), jnp.int32)
        return {"k": room, "v": room, "segments": empty, "positions": empty, "index": jnp.int32(0)}

    def apply(self, params, batch, *, key=None, cache=None):
        self.traces += 1
        tokens, segments, positions = batch["tokens"], batch["segments"], batch["positions"]
        x = params["table"][tokens] + params["positions"][positions]
        at = jnp.int32(0) if cache is None else cache["index"]
        all_segments = segments
        if cache is not None:
            all_segments = jax.lax.dynamic_update_slice(cache["segments"], segments, (0, at))
        slot = at + jnp.arange(tokens.shape[1])[:, None]
        causal = jnp.arange(all_segments.shape[1])[None] <= slot
        mask = causal[None] & (segments[:, :, None] == all_segments[:, None, :]) & (segments[:, :, None] > 0)

        def layer(x, inputs):
            p, old = inputs
            y = norm(x)
            q, k, v = (constrain(jnp.einsum("btd,dhk->bthk", y, p[w]), "batch", None, "act_heads", None) for w in "qkv")
            if old is not None:
                write = lambda was, new: jax.lax.dynamic_update_slice(was, new, (0, at, 0, 0))
                k, v = write(old[0], k), write(old[1], v)
            scores = jnp.where(mask[:, None], jnp.einsum("bthk,bshk->bhts", q, k), -1e9)
            y = jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(scores, axis=-1), v)
            x = constrain(x + jnp.einsum("bthk,hkd->btd", y, p["o"]), "batch", "seq", "act_embed")
            return x + jax.nn.gelu(norm(x) @ p["up"]) @ p["down"], (k, v)

        stacked = {name: params[name] for name in ("q", "k", "v", "o", "up", "down")}
        x, (k, v) = jax.lax.scan(layer, x, (stacked, None if cache is None else (cache["k"], cache["v"])))
        if cache is not None:
            all_positions = jax.lax.dynamic_update_slice(cache["positions"], positions, (0, at))
            cache = {"k": k, "v": v, "segments": all_segments, "positions": all_positions,
                     "index": at + tokens.shape[1]}
        return Outputs(norm(x) * 2, params["table"], cache=cache)


def norm(x):
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)


class Reciter:
    """Says params["script"][row of that text], one token after the other, by position; it needs no cache but an index.

    The first token of the prompt after eot chooses the text: its id is the row of the script.
    """

    vocab = 260

    def cache(self, rows, length):
        return {"index": jnp.int32(0), "text": jnp.zeros((rows,), jnp.int32)}

    def apply(self, params, batch, *, key=None, cache=None):
        first = jnp.argmax(batch["positions"] == 1, axis=1)[:, None]
        chosen = jnp.take_along_axis(batch["tokens"], first, axis=1)[:, 0]
        text = jnp.where(cache["index"] == 0, chosen, cache["text"])
        say = params["script"][text[:, None], batch["positions"] - 1]
        hidden = 50.0 * jax.nn.one_hot(say, self.vocab)
        cache = {"index": cache["index"] + batch["tokens"].shape[1], "text": text}
        return Outputs(hidden, jnp.eye(self.vocab), cache=cache)


class Bytes:
    """UTF-8 bytes and one id for the end of a text."""

    vocab_size, eot = 257, 256

    def encode(self, text):
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def decode(self, ids):
        return bytes(i for i in map(int, ids) if i < 256).decode(errors="replace")

    def stream(self):
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

        class Stream:
            push = staticmethod(lambda i: decoder.decode(bytes([i]) if i < 256 else b""))
            flush = staticmethod(lambda: decoder.decode(b"", final=True))

        return Stream()


@pytest.fixture(scope="session")
def plain():
    """(model, params) with 32 rows in its table, of which a tokenizer may know fewer."""
    model = PlainGPT()
    return model, model.init(jax.random.key(1))


@pytest.fixture(scope="session")
def fresh():
    """Makes such a model anew."""
    return PlainGPT


@pytest.fixture
def recite():
    """recite(texts) -> (model, params) that answers the prompt chr(i) with texts[i], a list of ids."""
    def make(texts):
        script = np.full((len(texts), 64), Bytes.eot, np.int32)
        for row, ids in enumerate(texts):
            script[row, :len(ids)] = ids
        return Reciter(), {"script": jnp.asarray(script)}

    return make


@pytest.fixture
def bytes_tokenizer():
    return Bytes()

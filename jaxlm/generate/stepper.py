# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""What every decoding loop knows of a model: prefill, step, and rows of a cache whose insides it never looks at.

A model has `cache(rows, length)` and `apply(params, batch, cache=...)`, as in core/functional.py. To write ahead and go
back (speculative decoding) it also has `rewind(cache, counts)`; where it takes parameters whose layers are apart, it has
`apart(params)`. Whatever a cache holds (keys, a recurrent state), its rows are the axis that grows with `rows`. An
encoder-decoder's is made with `source=` slots and keeps what it read of the source under "source", which no later token changes.

Letters: B rows, T tokens of this call, V ids.
"""
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxlm.core.apart import any_apart
from jaxlm.core.errors import UserError
from jaxlm.core.types import Array, Batch, Params
from jaxlm.parallel import place
from jaxlm.parallel.place import constrain


@dataclasses.dataclass(frozen=True)
class Stepper:
    """One model in a decoding loop; `vocab` is the number of ids the tokenizer knows (0 = the model's); `source`: it reads one."""

    model: Any
    vocab: int = 0
    source: bool = False

    def __post_init__(self):
        # A model that continues no text, or not in this way, raises here, before a prompt is read for its length, or shown.
        jax.eval_shape(lambda: self._empty(1, 1))

    def ready(self, params: Params) -> Params:
        """Parameters as the others here read them fastest: on a CPU alone a copy, one array a layer; themselves where they are."""
        wanted = _on_one_cpu() and hasattr(self.model, "apart") and not any_apart(params)
        return self._apart(params) if wanted else params

    @functools.cached_property
    def _apart(self) -> Callable[[Params], Params]:
        return jax.jit(self.model.apart)

    def prefill(self, params: Params, batch: Batch, length: int) -> tuple[Array, Any]:
        """(float32 logits [B, V] after the last token, a cache of `length` slots with the prompts in it).

        Prompts are padded on the left. All fields of the batch go to the model: the source of an encoder-decoder too.
        """
        with jax.named_scope("prefill"):
            cache = self._empty(len(batch["tokens"]), length, batch["source_tokens"].shape[1] if self.source else 1)
            batch = {name: constrain(x, "batch", *(None,) * (x.ndim - 1)) for name, x in batch.items()}
            outputs = self.model.apply(params, batch, cache=cache)
            # Only the last slot is unembedded.
            outputs = dataclasses.replace(outputs, hidden=outputs.hidden[:, -1:])
            return self._logits(outputs)[:, 0], outputs.cache

    def step(self, params: Params, cache: Any, tokens: Array, segments: Array, positions: Array) -> tuple[Array, Any]:
        """(float32 logits [B, T, V] after each token, the cache with them in it); tokens of segment 0 are padding."""
        batch = {"tokens": tokens, "segments": segments, "positions": positions}
        batch = {name: constrain(x, "batch", None) for name, x in batch.items()}
        outputs = self.model.apply(params, batch, cache=cache)
        return self._logits(outputs), outputs.cache

    def rewind(self, cache: Any, counts: Array) -> Any:
        """The cache as if the last counts [B] tokens of each row had not been fed."""
        return self.model.rewind(cache, counts)

    def check_rewind(self) -> None:
        """UserError where the model cannot go back."""
        jax.eval_shape(lambda: self.rewind(self._empty(1, 1), jnp.zeros((1,), jnp.int32)))

    def repeat(self, cache: Any, rows: int, length: int, times: int) -> Any:
        """A cache with each of the `rows` rows `times` times, side by side."""
        return self._map(lambda x, axis: jnp.repeat(x, times, axis=axis), cache, rows, length)

    def take(self, cache: Any, rows: int, length: int, beams: int, chosen: Array) -> Any:
        """Of a cache repeated `beams` times: row b's beams become its beams chosen[b], int32 [B, beams]."""
        def one(x: Array, axis: int) -> Array:
            # Among the beams of a row, so that rows which are split over devices stay where they are.
            apart = x.reshape(*x.shape[:axis], rows, beams, *x.shape[axis + 1:])
            index = chosen.reshape((1,) * axis + chosen.shape + (1,) * (x.ndim - axis - 1))
            return jnp.take_along_axis(apart, index, axis=axis + 1).reshape(x.shape)

        moved = self._map(one, cache, rows, length)
        # All beams of a row read the same source.
        return {**moved, "source": cache["source"]} if self.source else moved

    def _empty(self, rows: int, length: int, source: int = 1) -> Any:
        return self.model.cache(rows, length, source=source) if self.source else self.model.cache(rows, length)

    def _map(self, change: Callable[[Array, int], Array], cache: Any, rows: int, length: int) -> Any:
        """change(array, axis of its rows) of each array of a cache for that many rows; what all rows share stays."""
        one, two = (jax.eval_shape(lambda n=n: self._empty(n, length)) for n in (rows, 2 * rows))
        shapes = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
        axes = [[i for i, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m != n] for a, b in shapes]
        leaves, tree = jax.tree.flatten(cache)
        return jax.tree.unflatten(tree, [change(x, axis[0]) if axis else x for x, axis in zip(leaves, axes, strict=True)])

    def _logits(self, outputs: Any) -> Array:
        hidden = outputs.hidden
        if hidden.shape[:2] == (1, 1) and hidden.dtype == jnp.bfloat16 and _on_one_cpu():
            # XLA:CPU's library reads a table in bfloat16 for two rows; for one the table would be converted to float32.
            twice = jnp.concatenate([hidden, lax.optimization_barrier(hidden)], 1)
            logits = dataclasses.replace(outputs, hidden=twice).logits[:, :1]
        else:
            logits = outputs.logits
        if self.vocab > logits.shape[-1]:
            raise UserError(f"the tokenizer has {self.vocab} ids and the model {logits.shape[-1]}: use the tokenizer "
                            f"that the model was trained with")
        return constrain(logits, "batch", None, None)


def _on_one_cpu() -> bool:
    return place.platform() == "cpu" and place.alone()

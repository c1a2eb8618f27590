# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The one bridge between Flax modules and pure functions: a constructor becomes init, axes and apply over a dict of arrays.

No Flax object crosses a jit boundary: a module is a declaration, merged with its arrays inside the pure function.
"""
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from jaxlm.core import tree
from jaxlm.core.apart import take_apart
from jaxlm.core.errors import UserError
from jaxlm.core.types import Array, Batch, Outputs, Params


class Functional:
    """A model as pure functions. `ctor(rngs)` builds an nnx.Module whose Params carry axes=(...) metadata."""

    def __init__(self, ctor: Callable[[nnx.Rngs], nnx.Module]):
        self._ctor = ctor
        graphdef, params, rest = nnx.split(nnx.eval_shape(lambda: ctor(nnx.Rngs(0))), nnx.Param, ...)
        if jax.tree.leaves(rest):
            raise TypeError(f"a model may hold only nnx.Param, found other state: {tree.paths(nnx.to_pure_dict(rest))}")
        self._graphdef = graphdef
        self.abstract: Params = nnx.to_pure_dict(params)
        self._axes: Params = {}
        for path, variable in nnx.to_flat_state(params):
            axes = variable.get_metadata().get("axes")
            shape = variable.get_value().shape
            if axes is None:
                raise TypeError(f"parameter {'/'.join(map(str, path))} has no axes=(...) metadata")
            # A stack of layers adds its own leading axis to what one layer declares.
            axes = ("layers",) * (len(shape) - len(axes)) + tuple(axes)
            node = self._axes
            for key in path[:-1]:
                node = node.setdefault(key, {})
            node[path[-1]] = axes

    def init(self, key: Array) -> Params:
        """Fresh parameters, a nested dict of arrays."""
        return nnx.to_pure_dict(nnx.state(self._ctor(nnx.Rngs(params=key)), nnx.Param))

    def axes(self) -> Params:
        """The tree of `init` with a tuple of logical axis names in place of each array."""
        return self._axes

    def apart(self, params: Params) -> Params:
        """The same parameters with the layers of each stack apart, which `apply` takes too."""
        return take_apart(params, self._axes)

    def apply(self, params: Params, batch: Batch, *, key: Array | None = None, cache: Any = None) -> Outputs:
        """The forward pass; key None means no dropout, a cache means that batch continues what it holds."""
        return self._bind(params)(batch, key=key, cache=cache)

    def cache(self, rows: int, length: int, source: int = 0) -> Any:
        """An empty decoding cache for `rows` sequences of at most `length` tokens.

        source: positions of an encoder-decoder's source, which must be given; UserError for a model that reads none. The
        first batch that is applied with the cache brings the source, those after it do not.
        """
        model = self._bind(self.abstract)
        if getattr(model, "source", False):
            if source < 1:
                raise UserError(f"a {type(model).__name__} reads a source, for which its cache has no room: give source=, the "
                                "number of positions of source_tokens")
            return model.cache(rows, length, source)
        cache = model.cache(rows, length)
        if source:
            raise UserError(f"a {type(model).__name__} reads no source: leave out source={source}, or take an encoder-decoder "
                            "such as model=transformer or model=t5")
        return cache

    def rewind(self, cache: Any, counts: Array) -> Any:
        """The cache without the last counts [B] tokens of each row; UserError where the model cannot go back."""
        model = self._bind(self.abstract)
        if not hasattr(model, "rewind"):
            raise UserError(f"a {type(model).__name__} cannot take back what it has read, which writing ahead with a draft model "
                            "needs: generate without a draft")
        return model.rewind(cache, counts)

    def _bind(self, params: Params) -> Any:
        return nnx.merge(self._graphdef, params)

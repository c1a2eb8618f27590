# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Where a number first stopped being finite: a function's equations, each with a mark on its results, and what led to what.

The marks are computed in one compiled program on the devices that the function runs on, loops as loops; the search for
the first culprit is done afterwards on the host, over the same equations with the loops unrolled.
"""
import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jaxprs

from jaxlm.core.types import Array

VALUES = ("finite", "inf", "nan")
# Equations that only wrap others: they are entered, so that what happens inside is seen.
_WRAPPERS = {"jit", "pjit", "closed_call", "checkpoint", "remat", "remat2", "custom_jvp_call", "custom_vjp_call"}
# Equations that only move numbers: as bad as their first argument, which saves looking at every number again.
_MOVES = {"reshape", "broadcast_in_dim", "transpose", "squeeze", "neg", "copy", "name", "sharding_constraint",
          "stop_gradient"}


class Traced:
    """function(*args) with marks. `names` and `stacked` speak of the leaves of args, in order: a parameter's path and
    whether its first axis counts layers; an empty name is data."""

    def __init__(self, function: Callable, args: tuple, names: Sequence[str], stacked: Sequence[bool]):
        self.closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        self.structure = jax.tree.structure(shape)
        self.names, self.stacked = list(names), {n for n, s in zip(names, stacked, strict=True) if s}
        if len(self.names) != len(self.closed.jaxpr.invars):
            raise ValueError(f"{len(self.names)} names for {len(self.closed.jaxpr.invars)} arrays")

    def __call__(self, *args: Any) -> tuple[Any, dict[str, Any]]:
        """(function(*args), marks): to be called under jit."""
        outs, marks = _evaluate(self.closed.jaxpr, self.closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(self.structure, outs), marks

    def culprits(self, marks: dict[str, Any]) -> list[dict[str, Any]]:
        """What made the function's results non-finite, first first; [] when they are finite.

        An equation is one when its result is worse (inf, nan) than the data that went in, and what it spoiled reached
        a result: an infinity that a mask throws away is none. `marks` are those of a call, on the host.
        """
        walk = _Walk(self.stacked)
        inputs = [_Tag(data=not name, origin=(name, None) if name else None) for name in self.names]
        ends = walk.run(self.closed.jaxpr, inputs, marks, "")
        guilty = sorted(frozenset().union(*(tag.sources for tag in ends)))
        return [walk.found[number] for number in guilty]


def _level(x: Any) -> Array:
    """0 finite, 1 with an infinity, 2 with a NaN."""
    if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
        return jnp.zeros((), jnp.int8)
    # A maximum of the numbers themselves would not do: XLA's on CPUs may lose a NaN.
    return jnp.max(2 * jnp.isnan(x).astype(jnp.int8) + jnp.isinf(x).astype(jnp.int8), initial=0)


def _inner(equation: Any) -> Any:
    """The equations inside a wrapper, as a jaxpr without constants of its own; None for what is not one."""
    if equation.primitive.name not in _WRAPPERS and not _in_parts(equation):
        return None
    return equation.params.get("jaxpr", equation.params.get("call_jaxpr"))


def _in_parts(equation: Any) -> bool:
    """Whether each device computes a part by itself. (Where jax checks what differs between devices, marks would have to say it too.)"""
    return equation.primitive.name == "shard_map" and not equation.params["check_vma"]


def _open(jaxpr: Any) -> tuple[Any, Sequence]:
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def _split(equation: Any) -> tuple[int, int]:
    """How many of a scan's arguments are constants and how many are carried: what is stacked has one dimension more
    outside than inside. (The scan's own account of it differs between versions of jax.)"""
    body = _open(equation.params["jaxpr"])[0]
    same = lambda outer, inner: sum(len(a.aval.shape) == len(b.aval.shape) for a, b in zip(outer, inner, strict=True))
    carried = same(equation.outvars, body.outvars)
    return same(equation.invars, body.invars) - carried, carried


def _evaluate(jaxpr: Any, consts: Sequence, args: Sequence) -> tuple[list, dict[str, Any]]:
    """(results, {"own": level of every constant, argument and result in order, "inner": the marks of what was entered})."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    read = lambda atom: atom.val if isinstance(atom, jaxprs.Literal) else env[atom]
    level = {var: _level(x) for var, x in env.items()}
    levels, inner = list(level.values()), []
    for equation in jaxpr.eqns:
        values = [read(atom) for atom in equation.invars]
        if equation.primitive.name == "scan":
            outs, marks = _scan(equation, values)
            inner.append(marks)
        elif _in_parts(equation):
            outs, marks = _parts(equation, values)
            inner.append(marks)
        elif (wrapped := _inner(equation)) is not None:
            if equation.params.get("prevent_cse"):
                # Else the compiler would merge a recomputation with the forward pass and keep what remat frees.
                values = [x if jax.dtypes.issubdtype(jnp.result_type(x), jax.dtypes.prng_key) else jax.lax.optimization_barrier(x)
                          for x in values]
            outs, marks = _evaluate(*_open(wrapped), values)
            inner.append(marks)
        else:
            outs = equation.primitive.bind(*values, **equation.primitive.get_bind_params(equation.params))
            outs = outs if equation.primitive.multiple_results else [outs]
        if equation.primitive.name in _MOVES and not isinstance(equation.invars[0], jaxprs.Literal):
            level[equation.outvars[0]] = level[equation.invars[0]]
        else:
            level.update((var, _level(x)) for var, x in zip(equation.outvars, outs, strict=True))
        levels += [level[var] for var in equation.outvars]
        env.update(zip(equation.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars], {"own": jnp.stack(levels) if levels else jnp.zeros(0, jnp.int8), "inner": inner}


def _scan(equation: Any, values: list) -> tuple[list, dict[str, Any]]:
    params, (fixed, carried) = equation.params, _split(equation)
    body, consts = _open(params["jaxpr"])

    def step(carry: list, xs: list) -> tuple[list, tuple[list, dict]]:
        outs, marks = _evaluate(body, consts, [*values[:fixed], *carry, *xs])
        return outs[:carried], (outs[carried:], marks)

    carry, (ys, marks) = jax.lax.scan(step, values[fixed:fixed + carried], values[fixed + carried:],
                                      length=params["length"], reverse=params["reverse"])
    return [*carry, *ys], marks


def _parts(equation: Any, values: list) -> tuple[list, dict[str, Any]]:
    """Marks are the worst of all devices'."""
    params = equation.params
    axes = params["mesh"].axis_names

    def one(*values: Any) -> tuple[list, dict[str, Any]]:
        outs, marks = _evaluate(*_open(params["jaxpr"]), values)
        return outs, jax.tree.map(lambda level: jax.lax.pmax(level, axes), marks)

    run = jax.shard_map(one, mesh=params["mesh"], in_specs=tuple(params["in_specs"]), check_vma=False,
                        out_specs=(list(params["out_specs"]), jax.sharding.PartitionSpec()))
    return run(*values)


Origin = tuple[str, int | None]  # a parameter's path and its layer


@dataclasses.dataclass(frozen=True)
class _Tag:
    """What is known of a value: how bad it is, what it was made of and what spoiled it."""

    level: int = 0
    data: bool = False  # depends on the batch, not on parameters and constants alone
    origin: Origin | None = None  # the parameter that it is, sliced or cast
    after: tuple[int, Origin] = (-1, ("", None))  # the parameter last met on the way here
    sources: frozenset[int] = frozenset()


class _Walk:
    """Goes through the equations as they ran, loops unrolled, and notes each that spoils something."""

    def __init__(self, stacked: set[str]):
        self.stacked, self.found, self.count = stacked, [], 0

    def run(self, jaxpr: Any, inputs: list[_Tag], marks: dict[str, Any], scope: str, index: tuple = (),
            loops: tuple = ()) -> list[_Tag]:
        """Tags of the results; `index` picks this iteration's marks."""
        levels = iter(int(x) for x in np.asarray(marks["own"])[index])
        inner = iter(marks["inner"])
        env = {}
        for var, tag in zip([*jaxpr.constvars, *jaxpr.invars], [*[_Tag()] * len(jaxpr.constvars), *inputs], strict=True):
            env[var] = _settled(tag, next(levels))
        read = lambda atom: _literal(atom.val) if isinstance(atom, jaxprs.Literal) else env[atom]
        for equation in jaxpr.eqns:
            tags, here = [read(atom) for atom in equation.invars], _join(scope, str(equation.source_info.name_stack))
            self.count += 1
            if equation.primitive.name == "scan":
                outs = self._scan(equation, tags, next(inner), here, index, loops)
            elif (wrapped := _inner(equation)) is not None:
                outs = self.run(_open(wrapped)[0], tags, next(inner), here, index, loops)
            else:
                outs = [self._out(equation, tags, place) for place in range(len(equation.outvars))]
                outs = [self._judged(equation, tags, out, next(levels), here, loops) for out in outs]
                env.update(zip(equation.outvars, outs, strict=True))
                continue
            # What was entered has been judged inside.
            env.update(zip(equation.outvars, [_settled(out, next(levels)) for out in outs], strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _scan(self, equation: Any, tags: list[_Tag], marks: dict, scope: str, index: tuple, loops: tuple) -> list[_Tag]:
        params, (fixed, carried) = equation.params, _split(equation)
        consts, carry, xs = tags[:fixed], tags[fixed:fixed + carried], tags[fixed + carried:]
        body = _open(params["jaxpr"])[0]
        order = range(params["length"])
        collected: list[list[_Tag]] = []
        for number in reversed(order) if params["reverse"] else order:
            part = [dataclasses.replace(x, origin=self._sliced(x.origin, number)) for x in xs]
            outs = self.run(body, [*consts, *carry, *part], marks, scope, (*index, number), (*loops, number))
            carry = outs[:carried]
            collected.append(outs[carried:])
        return [*carry, *(functools.reduce(_united, ys) for ys in zip(*collected))]

    def _sliced(self, origin: Origin | None, number: int) -> Origin | None:
        return (origin[0], number) if origin and origin[1] is None and origin[0] in self.stacked else origin

    def _out(self, equation: Any, tags: list[_Tag], place: int) -> _Tag:
        """The tag of one result, but for how bad it is."""
        data = any(tag.data for tag in tags)
        origins = [tag.origin for tag in tags if tag.origin]
        after = max((tag.after for tag in tags), key=lambda a: a[0], default=(-1, ("", None)))
        if data:
            return _Tag(data=True, after=(self.count, origins[-1]) if origins else after)
        origin = origins[0] if origins else None
        params = equation.params
        if equation.primitive.name == "split" and params["axis"] == 0:  # how unrolled layers take their part
            origin = self._sliced(origin, place)
        return _Tag(origin=origin, after=after)

    def _judged(self, equation: Any, tags: list[_Tag], out: _Tag, level: int, scope: str, loops: tuple) -> _Tag:
        if not level:
            return out
        sources = frozenset().union(*(tag.sources for tag in tags if tag.level))
        # A parameter that is not finite spoils nothing until it meets data; then the equation that reads it is named.
        before = max((tag.level for tag in tags if tag.data or not out.data or not tag.origin), default=0)
        if level > before:
            origin = next((tag.origin for tag in tags if tag.origin), None)
            path, layer = origin or out.after[1]
            self.found.append({
                "module": path.rpartition("/")[0] or path, "layer": -1 if layer is None else layer,
                "reads": origin[0] if origin else "", "scope": _readable(scope), "operation": equation.primitive.name,
                "value": VALUES[level], "pass": "backward" if "transpose(" in scope else "forward", "loops": list(loops)})
            sources |= {len(self.found) - 1}
        return dataclasses.replace(out, level=level, sources=sources)


def _settled(tag: _Tag, level: int) -> _Tag:
    return dataclasses.replace(tag, level=level, sources=tag.sources if level else frozenset())


def _united(a: _Tag, b: _Tag) -> _Tag:
    """One tag for what the iterations of a loop stacked."""
    same = a.origin is not None and b.origin is not None and a.origin[0] == b.origin[0]
    return _Tag(level=max(a.level, b.level), data=a.data or b.data, origin=(a.origin[0], None) if same else None,
                after=max(a.after, b.after, key=lambda x: x[0]), sources=a.sources | b.sources)


def _literal(value: Any) -> _Tag:
    value = np.asarray(value)
    if not np.issubdtype(value.dtype, np.inexact):
        return _Tag()
    return _Tag(level=2 if np.isnan(value).any() else int(np.isinf(value).any()))


def _join(scope: str, name: str) -> str:
    return f"{scope}/{name}" if scope and name else scope or name


def _readable(scope: str) -> str:
    """'block/mlp' of 'jvp(block)/jvp(mlp)': the scopes without what differentiation put around them."""
    words = re.split(r"[/()]+", scope)
    words = [w for w in words if w and w not in ("jvp", "transpose", "vmap", "while", "body", "checkpoint", "rematted_computation", "closed_call")]
    return "/".join(w for i, w in enumerate(words) if w not in words[:i])


def sentence(culprit: dict[str, Any]) -> str:
    """A culprit for people: "blocks/mlp/up, layer 1: dot_general gave inf (forward, in block/mlp)"."""
    layer = f", layer {culprit['layer']}" if culprit["layer"] >= 0 else ""
    where = culprit["module"] + layer if culprit["reads"] else f"after {culprit['module'] or 'the batch'}{layer}"
    inside = f", in {culprit['scope']}" if culprit["scope"] else ""
    return f"{where}: {culprit['operation']} gave {culprit['value']} ({culprit['pass']}{inside})"

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Where arrays live: the active layout (mesh and rules), shardings of a tree, constraints inside a model, batches onto devices."""
import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlm.core import cut, tree
from jaxlm.core.errors import UserError
from jaxlm.core.types import Array, Batch
from jaxlm.parallel.rules import Rules, entries


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh and the rules that lay arrays on it.

    cut: what is traced is one device's part of a program, cut up by `sum_of_parts`, and splits nothing itself.
    """

    mesh: Mesh
    rules: Rules
    cut: bool = False

    @property
    def platform(self) -> str:
        """'cpu', 'gpu' or 'tpu': what formulations are chosen by."""
        return self.mesh.devices.flat[0].platform

    def sharding(self, *axes: str | None) -> NamedSharding:
        return NamedSharding(self.mesh, self.rules.spec(axes))

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())


_ACTIVE: contextvars.ContextVar[Layout | None] = contextvars.ContextVar("jaxlm_layout", default=None)


def active() -> Layout | None:
    """The layout in force, or None outside `use`."""
    return _ACTIVE.get()


def platform() -> str:
    """'cpu', 'gpu' or 'tpu': where the layout in force is, or what jax runs on outside `use`."""
    layout = active()
    return jax.default_backend() if layout is None else layout.platform


def alone() -> bool:
    """Whether there is nothing to split over: no layout in force, or one of a single device, or a device's part of a program."""
    layout = active()
    return layout is None or layout.mesh.size == 1 or layout.cut


@contextlib.contextmanager
def use(layout: Layout) -> Iterator[Layout]:
    """Trace and run under this layout. A function jitted under one layout must not be called under another."""
    token = _ACTIVE.set(layout)
    try:
        with jax.set_mesh(layout.mesh):
            yield layout
    finally:
        _ACTIVE.reset(token)


def constrain(x: Array, *axes: str | None) -> Array:
    """State how an activation (or a gathered weight) is split, by logical names; nothing without a layout."""
    layout = active()
    if layout is None:
        return x
    if len(axes) != x.ndim:
        raise ValueError(f"{len(axes)} axis names {axes} for an array of shape {x.shape}")
    return x if layout.cut else jax.lax.with_sharding_constraint(x, layout.sharding(*axes))


def parts(axis: str) -> int:
    """Into how many parts the layout in force splits this axis of activations."""
    layout = active()
    return 1 if layout is None else layout.rules.parts(axis, layout.mesh.shape)


def splits(axis: str) -> bool:
    """Whether the layout in force splits this axis of activations."""
    return parts(axis) > 1


def copies(x: Array, split: tuple[str, ...], axes: tuple[str | None, ...], stored: tuple[str | None, ...]) -> Array:
    """[*parts, *x.shape]: x, itself split as `axes` say, once for each part that the layout in force splits the axes `split` into.

    Each part's gradient stays where it is, however often it is added to. That of all parts is summed once, to how x is `stored`.
    """
    if alone():
        return x.reshape((1,) * len(split) + x.shape)
    return _copies(active(), split, axes, stored, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _copies(layout: Layout, split: tuple, axes: tuple, stored: tuple, x: Array) -> Array:
    return constrain(jnp.broadcast_to(x, (*map(parts, split), *x.shape)), *split, *axes)


def _sum_copies(layout: Layout, split: tuple, axes: tuple, stored: tuple, _: None, d: Array) -> tuple[Array]:
    names = lambda *wanted: entries(layout.rules.spec(wanted))
    over = sum(names(*split), ())
    scatter = [tuple(name for name in entry if name in over) for entry in names(*stored)]
    rest = tuple(name for name in over if name not in sum(scatter, ()))

    def one(mine: Array) -> Array:
        # Said here, because XLA makes a whole gradient on every device of it: an all-reduce, and then a slice.
        mine = mine.reshape(mine.shape[len(split):])
        for dimension, entry in enumerate(scatter):
            if entry:
                mine = jax.lax.psum_scatter(mine, entry, scatter_dimension=dimension, tiled=True)
        return jax.lax.psum(mine, rest) if rest else mine

    out = PartitionSpec(*((*first, *more) or None for first, more in zip(names(*axes), scatter, strict=True)))
    summed = jax.shard_map(one, mesh=layout.mesh, in_specs=layout.rules.spec((*split, *axes)), out_specs=out)(d)
    return (constrain(summed, *stored),)


_copies.defvjp(lambda layout, split, axes, stored, x: (_copies(layout, split, axes, stored, x), None), _sum_copies)


def sum_of_parts(compute: Callable[[Any, Any], tuple[Any, Any]], whole: Any, rows: Any) -> tuple[Any, Any]:
    """compute(whole, rows) -> (sums over rows, rows): where devices share nothing but the batch, by each of them on its own rows, as if
    there were no others; then their sums are added up, once. Rows that are returned stay where they are.

    Left to the compiler, what is summed in a loop is sent in each of its turns (XLA for CPU and TPU, jaxlib 0.10 to 0.12).
    What compute has to know of other devices' rows it finds in core/cut.py.
    """
    layout = active()
    over = () if layout is None else layout.rules.only_rows(layout.mesh.shape)
    if not over:
        return compute(whole, rows)

    def one(whole: Any, rows: Any) -> tuple[Any, Any]:
        token = _ACTIVE.set(Layout(layout.mesh, Rules(layout.rules.name, {}, {}), cut=True))
        try:
            with cut.along(over):
                sums, rows = compute(whole, rows)
        finally:
            _ACTIVE.reset(token)
        return jax.lax.psum(sums, over), rows

    none, split = PartitionSpec(), PartitionSpec(over)
    # Unchecked, because a gradient is a device's own until the end: checked, autodiff sums it where it arises.
    return jax.shard_map(one, mesh=layout.mesh, in_specs=(none, split), out_specs=(none, split), check_vma=False)(whole, rows)


def move(x: Array, here: tuple[str | None, ...], there: tuple[str | None, ...]) -> Array:
    """x, computed as the names `here` split it and then laid out as `there`; its gradient is brought back to `here`."""
    return constrain(constrain(x, *here), *there)


def shardings(axes: Any, layout: Layout, abstract: Any = None) -> Any:
    """NamedShardings for a tree of logical axes; with `abstract` shapes, UserError where a size does not divide."""
    is_axes = lambda x: isinstance(x, tuple)
    out = jax.tree.map(lambda a: layout.sharding(*a), axes, is_leaf=is_axes)
    if abstract is not None:
        bad = []
        for (path, leaf), sharding in zip(jax.tree.leaves_with_path(abstract), jax.tree.leaves(out), strict=True):
            for size, names in zip(leaf.shape, entries(sharding.spec)):
                parts = int(np.prod([layout.mesh.shape[n] for n in names]))
                if size % parts:
                    bad.append(f"{tree.path_str(path)} {leaf.shape}: {size} does not divide over {'*'.join(names)}={parts}")
        if bad:
            raise UserError(f"rules '{layout.rules.name}' cannot lay these parameters on the mesh: " + "; ".join(bad))
    return out


def like(target: Any, params: Any, param_shardings: Any, layout: Layout) -> Any:
    """Shardings for a tree that mirrors parameters somewhere inside (optimizer state, averages).

    A leaf takes a parameter's sharding when its path ends with the parameter's path and the shapes agree; all
    others (counters, factored moments) are replicated.
    """
    known = {p: (x.shape, s) for (p, x), s in zip(tree.flatten(params).items(), jax.tree.leaves(param_shardings), strict=True)}

    def one(path: str, leaf: Any) -> NamedSharding:
        parts = path.split("/")
        for i in range(len(parts)):
            shape, sharding = known.get("/".join(parts[i:]), (None, None))
            if shape == leaf.shape:
                return sharding
        return layout.replicated

    return tree.map_with_path(one, target)


def batch_sharding(layout: Layout, rank: int) -> NamedSharding:
    """Rows over the batch's mesh axes, positions over the sequence's."""
    return layout.sharding(*("batch", "seq")[:rank], *(None,) * (rank - 2))


def local_rows(layout: Layout, rows: int, devices: Iterable[jax.Device] | None = None) -> slice:
    """The rows of a global batch that this process's (or the given) devices hold, from the first to the last of them.

    Asked of the sharding: a mesh may order devices otherwise than processes, or split within a row over processes.
    """
    where = batch_sharding(layout, 1).devices_indices_map((rows,))
    held = [where[device][0].indices(rows) for device in (layout.mesh.local_devices if devices is None else devices)]
    return slice(min(start for start, _, _ in held), max(stop for _, stop, _ in held))


def put(batch: dict[str, np.ndarray], layout: Layout, rows: int) -> Batch:
    """This process's rows (`local_rows`) of a global batch of `rows` rows, onto the devices.

    Positions are split where a field has one number a token; what is shorter (predictions, spans) is whole in each row.
    """
    first = local_rows(layout, rows).start
    # A source has a length of its own.
    side = lambda name: name.startswith("source_")
    length = {s: max((x.shape[1] for name, x in batch.items() if np.ndim(x) > 1 and side(name) == s), default=0) for s in (False, True)}

    def one(name: str, x: np.ndarray) -> Array:
        x = np.asarray(x)

        def part(at: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = at[0].indices(rows)
            return x[(slice(start - first, stop - first), *at[1:])]

        whole = x.ndim > 1 and x.shape[1] != length[side(name)]
        sharding = layout.sharding("batch", *(None,) * (x.ndim - 1)) if whole else batch_sharding(layout, x.ndim)
        return jax.make_array_from_callback((rows, *x.shape[1:]), sharding, part)

    return {name: one(name, x) for name, x in batch.items()}

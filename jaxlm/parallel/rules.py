# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Sharding strategies as data: two tables from logical axes to mesh axes, how parameters are stored and activations computed."""
import dataclasses
import math
from collections.abc import Iterable, Mapping

from jax.sharding import PartitionSpec

from jaxlm.core.errors import UserError, nearest
from jaxlm.parallel.mesh import AXES

Table = Mapping[str, tuple[str, ...]]

# Every name a parameter or an activation may carry; a table that names another one is an error.
PARAM_AXES = ("layers", "vocab", "embed", "heads", "kv_heads", "head_dim", "mlp", "expert", "positions", "types", "norm")
ACT_AXES = ("batch", "seq", "act_embed", "act_heads", "act_kv_heads", "act_mlp", "act_vocab", "act_expert")


def entries(spec: Iterable) -> list[tuple[str, ...]]:
    """Of each dimension of a PartitionSpec the mesh axes that it is split over, () = not split."""
    return [() if entry is None else (entry,) if isinstance(entry, str) else tuple(entry) for entry in spec]


@dataclasses.dataclass(frozen=True)
class Rules:
    """Logical axis -> mesh axes; an axis that is absent is not split."""

    name: str
    params: Table
    acts: Table

    def spec(self, axes: tuple[str | None, ...]) -> PartitionSpec:
        """The partition of an array whose dimensions carry these logical names (None = not split)."""
        out = []
        for axis in axes:
            if axis is not None and axis not in PARAM_AXES and axis not in ACT_AXES:
                raise ValueError(f"unknown logical axis '{axis}'{nearest(axis, PARAM_AXES + ACT_AXES)}")
            table = self.acts if axis in ACT_AXES else self.params
            found = tuple(table.get(axis, ()))
            out.append(found[0] if len(found) == 1 else found or None)
        flat = [name for entry in entries(out) for name in entry]
        if twice := sorted({name for name in flat if flat.count(name) > 1}):
            raise UserError(f"rules '{self.name}' split two dimensions of an array ({', '.join(map(str, axes))}) over the mesh "
                            f"axis '{twice[0]}': give one of them another mesh axis, or none")
        return PartitionSpec(*out)

    def parts(self, axis: str, sizes: Mapping[str, int]) -> int:
        """Into how many parts a mesh of these sizes splits an activation's axis."""
        return math.prod(sizes[name] for name in self.acts.get(axis, ()))

    def only_rows(self, sizes: Mapping[str, int]) -> tuple[str, ...]:
        """All mesh axes of more than one device, outermost first, if none of them splits anything but rows; else ()."""
        rows = tuple(name for name in self.acts.get("batch", ()) if sizes[name] > 1)
        others = {name for axis, names in (*self.params.items(), *self.acts.items()) if axis != "batch" for name in names}
        return rows if all(size == 1 or name in rows and name not in others for name, size in sizes.items()) else ()

    def used(self) -> set[str]:
        """The mesh axes over which anything is split."""
        return {name for table in (self.params, self.acts) for names in table.values() for name in names}


# Experts are data parallel for all but the experts: rows are split over their mesh axis too, and gathered across it.
_EXPERT_PARAMS = {"expert": ("expert",)}
_ROWS = {"batch": ("data", "fsdp", "expert"), "act_expert": ("expert",)}
_FSDP_PARAMS = {"embed": ("fsdp",), **_EXPERT_PARAMS}
_TENSOR_PARAMS = {"vocab": ("tensor",), "heads": ("tensor",), "kv_heads": ("tensor",), "mlp": ("tensor",)}
_TENSOR_ACTS = {"act_vocab": ("tensor",), "act_heads": ("tensor",), "act_kv_heads": ("tensor",), "act_mlp": ("tensor",)}

RULES = {
    rules.name: rules
    for rules in (
        # Data parallel: every device holds all parameters and computes its own rows.
        Rules("dp", _EXPERT_PARAMS, _ROWS),
        # Fully sharded data parallel (ZeRO-3): parameters and optimizer state are split, gathered layer by layer.
        Rules("fsdp", _FSDP_PARAMS, _ROWS),
        # The same for long rows: positions are split as well, and attention gathers keys and values.
        Rules("fsdp_seq", _FSDP_PARAMS, {**_ROWS, "seq": ("seq",)}),
        # Megatron tensor parallel: heads, hidden features and vocabulary are split, and so is what is computed with them.
        Rules("tp", {**_EXPERT_PARAMS, **_TENSOR_PARAMS}, {**_ROWS, **_TENSOR_ACTS}),
        # Fully sharded data parallel times Megatron tensor parallel.
        Rules("fsdp_tp", {**_FSDP_PARAMS, **_TENSOR_PARAMS}, {**_ROWS, **_TENSOR_ACTS}),
    )
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Tables of one's own, read when `rules` is 'custom': entries 'logical=mesh' or 'logical=mesh+mesh'."""

    params: tuple = ()  # how parameters are stored: ('embed=fsdp', 'mlp=tensor')
    acts: tuple = ("batch=data+fsdp+expert",)  # how activations are computed: ('batch=data+fsdp', 'act_mlp=tensor')

    def problems(self) -> list[str]:
        return [p for field, known in (("params", PARAM_AXES), ("acts", ACT_AXES))
                for p in _read(field, getattr(self, field), known)[1]]

    def build(self) -> Rules:
        """The rules that these entries state; UserError with everything that is wrong with them."""
        if problems := self.problems():
            raise UserError("; ".join(problems))
        return Rules("custom", _read("params", self.params, PARAM_AXES)[0], _read("acts", self.acts, ACT_AXES)[0])


def _read(field: str, entries: tuple, known: tuple[str, ...]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    table, problems = {}, []
    for entry in entries:
        logical, equals, right = entry.partition("=") if isinstance(entry, str) else ("", "", "")
        names = tuple(right.split("+"))
        bad = [name for name in names if name not in AXES]
        if not (logical and equals and right):
            problems.append(f"table.{field} has {entry!r}: an entry is 'logical=mesh', such as '{known[1]}=fsdp'")
        elif logical not in known:
            problems.append(f"table.{field}: there is no logical axis '{logical}'{nearest(logical, known)} (choose from {', '.join(known)})")
        elif bad:
            problems.append(f"table.{field} '{entry}': there is no mesh axis '{bad[0]}'{nearest(bad[0], AXES)} (choose from {', '.join(AXES)})")
        elif logical in table or len(set(names)) < len(names):
            problems.append(f"table.{field} '{entry}' names an axis a second time: name each once")
        else:
            table[logical] = names
    return table, problems


def find(name: str, table: Config = Config()) -> Rules:
    """The rules of that name, 'custom' being those of `table`; UserError with the nearest name when there are none."""
    if name == "custom":
        return table.build()
    if name not in RULES:
        choices = (*RULES, "custom")
        raise UserError(f"rules: there are none named '{name}'{nearest(name, choices)} (choose from {', '.join(choices)})")
    return RULES[name]

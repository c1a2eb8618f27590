# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Sharding strategies as data: two tables from logical axes to mesh axes, how parameters are stored and activations computed."""
import dataclasses
from collections.abc import Mapping

from jax.sharding import PartitionSpec

from jaxlm.core.errors import UserError, nearest

Table = Mapping[str, tuple[str, ...]]

# Every name a parameter or an activation may carry; a table that names another one is an error.
PARAM_AXES = ("layers", "vocab", "embed", "heads", "kv_heads", "head_dim", "mlp", "positions", "types", "norm")
ACT_AXES = ("batch", "seq", "act_embed", "act_heads", "act_kv_heads", "act_mlp", "act_vocab")


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
        return PartitionSpec(*out)


_DATA = {"batch": ("data", "fsdp")}
_TENSOR_PARAMS = {"vocab": ("tensor",), "heads": ("tensor",), "kv_heads": ("tensor",), "mlp": ("tensor",)}
_TENSOR_ACTS = {"act_vocab": ("tensor",), "act_heads": ("tensor",), "act_kv_heads": ("tensor",), "act_mlp": ("tensor",)}

RULES = {
    rules.name: rules
    for rules in (
        # Data parallel: every device holds all parameters and computes its own rows.
        Rules("dp", {}, _DATA),
        # Fully sharded data parallel (ZeRO-3): parameters and optimizer state are split, gathered layer by layer.
        Rules("fsdp", {"embed": ("fsdp",)}, _DATA),
        # Fully sharded data parallel times Megatron tensor parallel.
        Rules("fsdp_tp", {"embed": ("fsdp",), **_TENSOR_PARAMS}, {**_DATA, **_TENSOR_ACTS}),
    )
}


def find(name: str) -> Rules:
    """The rules of that name; UserError with the nearest name when there are none."""
    if name not in RULES:
        raise UserError(f"rules: there are none named '{name}'{nearest(name, RULES)} (choose from {', '.join(RULES)})")
    return RULES[name]

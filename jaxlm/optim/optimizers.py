# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""AdamW, LAMB, Adafactor, Lion, Muon and SGD with everything around them: one chain whose state names its parts.

clip -> core -> decay -> trust (LAMB) -> rates -> lr -> ema. All arithmetic is float32, whatever the parameters are stored in.
"""
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from jaxlm.core import tree
from jaxlm.core.errors import UserError, nearest
from jaxlm.core.types import Params
from jaxlm.optim import average, clip, masks
from jaxlm.optim.schedules import Schedule

# Moonlight's factor (arXiv 2502.16982): a Muon update as long as Adam's, so that both share one learning rate.
MUON_RMS = 0.2


@dataclasses.dataclass(frozen=True)
class Config:
    """An optimizer; each field says which optimizers read it."""

    name: str = "adamw"  # adamw, lamb, adafactor, lion, muon or sgd
    lr: float = 3e-4  # the peak of the schedule
    b1: float = 0.9  # adamw, lamb, lion, muon's Adam part
    b2: float = 0.95  # adamw, lamb, lion, muon's Adam part
    eps: float = 1e-8  # adamw, lamb, muon's Adam part
    momentum: float = 0.95  # sgd, muon
    nesterov: bool = True  # sgd, muon
    moment_dtype: str = "float32"  # of the first moment (adamw, lamb, lion, muon, sgd); second moments stay float32
    parameter_scale: bool = True  # adafactor: steps are relative to the size of the parameter
    matrices: str = r"kernel$"  # muon: what it orthogonalises, layer by layer; tables, heads and the rest go to Adam
    weight_decay: float = 0.1  # decoupled, times the learning rate
    decay: str = r"(kernel|table|tokens)$"  # paths that are decayed
    clip_norm: float = 1.0  # of all gradients together; 0 = off
    rates: tuple = ()  # "regex=multiplier" of the learning rate, the first that matches
    layer_decay: float = 1.0  # the learning rate falls by this factor a layer towards the input; 1 = off
    embeddings: str = r"(^|/)embed"  # layer_decay: what lies below the first layer
    frozen: str = ""  # paths that are not trained and take no optimizer memory
    ema: float = 0.0  # decay of a running average of the parameters; 0 = none is kept

    def problems(self) -> list[str]:
        out = []
        if self.name not in CORES:
            out.append(f"optimizer.name is '{self.name}'{nearest(self.name, CORES)} There are: {', '.join(CORES)}")
        if not self.lr > 0:
            out.append(f"optimizer.lr is {self.lr}: a learning rate is above 0")
        if not self.eps > 0:
            out.append(f"optimizer.eps is {self.eps}: it is above 0")
        for field in ("b1", "b2", "momentum", "ema"):
            if not 0 <= getattr(self, field) < 1:
                out.append(f"optimizer.{field} is {getattr(self, field)}: it is from 0 to below 1")
        for field in ("weight_decay", "clip_norm"):
            if not getattr(self, field) >= 0:
                out.append(f"optimizer.{field} is {getattr(self, field)}: it is above 0, or 0 for off")
        if not 0 < self.layer_decay <= 1:
            out.append(f"optimizer.layer_decay is {self.layer_decay}: it is above 0 and at most 1, which is off")
        if self.moment_dtype not in ("float32", "bfloat16"):
            out.append(f"optimizer.moment_dtype is '{self.moment_dtype}': it is float32 or bfloat16")
        elif self.name == "adafactor" and self.moment_dtype != "float32":
            out.append("optimizer.moment_dtype: adafactor keeps no first moment, so leave it float32")
        for rule in self.rates:
            try:
                masks.parse_rate(rule)
            except ValueError as error:
                out.append(f"optimizer.rates: {error}")
        return out


def trainable(config: Config, params: Params) -> Any:
    """A tree of booleans for tree.partition: True where a parameter is trained."""
    return masks.trainable(params, config.frozen)


def build(config: Config, schedule: Schedule, params: Params, axes: Params) -> optax.GradientTransformation:
    """The transformation over the trainable part of `params`.

    `params` (arrays or shapes) and `axes` (tuples of logical names) are of the whole model; init and update then take
    the trainable part, `tree.partition(params, trainable(config, params))[0]`, with None where a parameter is frozen.
    The state is a dict: opt_state["lr"].count are the updates applied so far, average.averaged(opt_state) the average.
    UserError for a bad config and for a regex that matches nothing.
    """
    if problems := config.problems():
        raise UserError("; ".join(problems))
    names = tree.flatten_axes(axes)
    train, _ = tree.partition(params, trainable(config, params))
    parts = [
        ("clip", clip.by_norm(config.clip_norm) if config.clip_norm else optax.identity()),
        ("core", CORES[config.name](config, train, names)),
    ]
    if config.weight_decay:
        decayed, _ = tree.partition(masks.chosen(params, config.decay, "optimizer.decay"), trainable(config, params))
        if not any(jax.tree.leaves(decayed)):
            raise UserError(f"optimizer.decay '{config.decay}' matches no parameter that is trained: "
                            "set optimizer.weight_decay to 0, or let it match one")
        parts.append(("decay", optax.add_decayed_weights(config.weight_decay, decayed)))
    if config.name == "lamb":
        parts.append(("trust", _trust(names)))
    if config.rates or config.layer_decay != 1:
        # Judged on the whole model, so that one list of rates serves runs that freeze different parts.
        table = masks.rates(params, config.rates, names, config.layer_decay, config.embeddings)
        parts.append(("rates", _scale(tree.partition(table, trainable(config, params))[0])))
    core = _in_float32(optax.named_chain(*parts, ("lr", optax.scale_by_learning_rate(schedule))))
    return _with_average(core, config.ema) if config.ema else core


def _adam(config: Config, train: Params, axes: dict[str, tuple]) -> optax.GradientTransformation:
    return optax.scale_by_adam(config.b1, config.b2, config.eps, mu_dtype=config.moment_dtype)


def _lion(config: Config, train: Params, axes: dict[str, tuple]) -> optax.GradientTransformation:
    return optax.scale_by_lion(config.b1, config.b2, mu_dtype=config.moment_dtype)


def _sgd(config: Config, train: Params, axes: dict[str, tuple]) -> optax.GradientTransformation:
    if not config.momentum:
        return optax.identity()
    return optax.trace(config.momentum, config.nesterov, accumulator_dtype=config.moment_dtype)


def _adafactor(config: Config, train: Params, axes: dict[str, tuple]) -> optax.GradientTransformation:
    """Shazeer and Stern (arXiv 1804.04235) without a first moment: optax.adafactor's pieces in its order."""
    scale = [optax.scale_by_param_block_rms()] if config.parameter_scale else []
    return optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), *scale)


def _muon(config: Config, train: Params, axes: dict[str, tuple]) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024) on matrices, one by one in a stack; Adam on everything else."""
    hit = tree.flatten(masks.chosen(train, config.matrices, "optimizer.matrices"))
    dims, sizes = {}, {}
    for path, leaf in tree.flatten(train).items():
        # A kernel against the vocabulary is an embedding turned round, and a vector has no directions to balance.
        if hit[path] and not {"vocab", "positions", "types"} & set(axes[path]):
            if len(leaf.shape) - len(_stacked(axes[path])) >= 2:
                dims[path] = dimensions(path, axes[path])
                sides = [math.prod(leaf.shape[i] for i in side) for side in dims[path]]
                sizes[path] = MUON_RMS * max(sides) ** 0.5
    if not dims:
        raise UserError(f"optimizer.matrices '{config.matrices}' matches no matrix that is trained: use adamw, or "
                        "let it match one")
    is_matrix = tree.map_with_path(lambda path, _: path in dims, train)
    is_other = tree.map_with_path(lambda path, _: path not in dims, train)

    def spec(updates: Any) -> Any:
        return tree.map_with_path(lambda path, _: dims[path], updates)

    muon = optax.chain(
        contrib.scale_by_muon(beta=config.momentum, nesterov=config.nesterov, mu_dtype=config.moment_dtype,
                              weight_dimension_numbers=spec),
        optax.stateless(lambda updates, _: tree.map_with_path(lambda path, u: u * sizes[path], updates)),
    )
    return optax.named_chain(
        ("muon", optax.masked(muon, is_matrix)),
        ("adam", optax.masked(_adam(config, train, axes), is_other)),
    )


def _stacked(axes: tuple) -> list[int]:
    """The dimensions along which a parameter is many matrices side by side."""
    return [i for i, name in enumerate(axes) if name in ("layers", "expert")]


def dimensions(path: str, axes: tuple) -> contrib.MuonDimensionNumbers:
    """Which dimensions of a kernel are its input and which its output; UserError where the axes do not say."""
    rest = [i for i in range(len(axes)) if i not in _stacked(axes)]
    if len(rest) == 2 or axes[rest[0]] == "embed":
        cut = 1
    elif axes[rest[-1]] == "embed":
        cut = len(rest) - 1
    else:
        raise UserError(f"muon cannot tell input from output in {path} with axes {axes}: narrow optimizer.matrices so "
                        "that it goes to Adam")
    return contrib.MuonDimensionNumbers(tuple(rest[:cut]), tuple(rest[cut:]))


CORES: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adamw": _adam, "lamb": _adam, "adafactor": _adafactor, "lion": _lion, "muon": _muon, "sgd": _sgd,
}


def _trust(axes: dict[str, tuple]) -> optax.GradientTransformation:
    """LAMB's trust ratio (You et al. 2019, arXiv 1904.00962): each parameter's update is made as long as the parameter,
    layer by layer in a stack; a parameter or an update of length 0 leaves it as it is."""
    def scaled(path: str, update: Any, param: Any) -> Any:
        rest = tuple(i for i in range(update.ndim) if i not in _stacked(axes[path]))
        length = lambda x: jnp.sqrt(jnp.sum(jnp.square(x), rest, keepdims=True))
        size, step = length(param), length(update)
        return update * jnp.where((size == 0) | (step == 0), 1.0, size / jnp.where(step == 0, 1.0, step))

    return optax.stateless(lambda updates, params: tree.map_with_path(scaled, updates, params))


def _scale(table: Any) -> optax.GradientTransformation:
    """Updates times a tree of constants."""
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u, r: u * r, updates, table))


def _in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` on float32 copies: norms, moments and decay of bfloat16 parameters would otherwise be bfloat16."""
    def cast(x: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), x)

    def init(params: Params) -> Any:
        return inner.init(cast(params))

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        return inner.update(cast(updates), state, cast(params))

    return optax.GradientTransformation(init, update)


def _with_average(inner: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
    """`inner` and then the average, beside its parts in one state; it averages the parameters as they are stored."""
    last = average.build(decay)

    def init(params: Params) -> dict[str, Any]:
        return {**inner.init(params), "ema": last.init(params)}

    def update(updates: Params, state: dict[str, Any], params: Params | None = None) -> tuple[Params, dict[str, Any]]:
        updates, new = inner.update(updates, {k: v for k, v in state.items() if k != "ema"}, params)
        updates, ema = last.update(updates, state["ema"], params)
        return updates, {**new, "ema": ema}

    return optax.GradientTransformation(init, update)

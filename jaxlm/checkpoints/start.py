# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The ways a run starts, in the order in which they are tried.

1. Resume. The run's own folder holds a checkpoint: everything comes from the newest one that is whole (parameters,
   optimizer, step, random keys). `start` in the config is not looked at: it was used when the run began. Where that
   checkpoint holds weights alone (it was imported), they are taken and all else is fresh.
2. From another run's weights. `start.path` names a folder of checkpoints, or a Hugging Face model's: parameters chosen by
   include and exclude and renamed by rename come from there, everything else is fresh: other parameters, optimizer, step 0.
3. Fresh. Everything is drawn from the seed.

What is taken and what is not is said, path by path.
"""
import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from etils import epath

from jaxlm.checkpoints.hf import folder
from jaxlm.checkpoints.manager import Checkpoints, Damaged, Leaf
from jaxlm.core import tree
from jaxlm.core.errors import UserError, nearest
from jaxlm.core.log import say
from jaxlm.core.types import Array, Params, TrainState

_PARAMS = "params/"
_AVERAGE = "opt_state/ema/average/"


@dataclasses.dataclass(frozen=True)
class Config:
    """Whose weights a new run begins with."""

    path: str = ""  # a folder of checkpoints of another run, or a Hugging Face model's; empty = fresh
    step: int = 0  # which of them; 0 = the newest
    include: str = ".*"  # parameters of the other run that are taken: regex over its paths
    exclude: str = ""  # and those of them that are not
    rename: tuple = ()  # "regex->replacement", applied in order to the paths taken
    average: bool = False  # take the running average where the other run kept one (optimizer.ema)
    strict: bool = True  # everything taken must have a place here

    def problems(self) -> list[str]:
        out = [] if self.step >= 0 else [f"start.step is {self.step}: it is a step, or 0 for the newest"]
        for name in ("include", "exclude"):
            try:
                re.compile(getattr(self, name))
            except re.error as error:
                out.append(f"start.{name} '{getattr(self, name)}' is not a regular expression: {error}")
        for rule in self.rename:
            pattern, arrow, _ = rule.partition("->")
            try:
                re.compile(pattern)
            except re.error as error:
                out.append(f"start.rename '{rule}' is not a regular expression: {error}")
            if not arrow or not pattern:
                out.append(f"start.rename '{rule}' is not of the form regex->replacement")
        return out


def begin(config: Config, checkpoints: Checkpoints, abstract: TrainState,
          create: Callable[[dict[str, Array]], TrainState]) -> tuple[TrainState, str]:
    """(state, how it came about in one line).

    `abstract` is the state as ShapeDtypeStructs with shardings. `create(loaded)` makes a state at step 0 in which the
    parameters of `loaded` ({path: array}, in this run's dtypes and shardings; {} when fresh) replace those drawn from
    the seed, before the optimizer's state is made of them: see `overlay`. Afterwards checkpoints.restored is the step
    that was resumed, or None.
    """
    if problems := config.problems():
        raise UserError("; ".join(problems))
    latest = checkpoints.latest()
    if latest is not None and _imported(checkpoints, latest):
        loaded, how = load(Config(path=str(checkpoints.path)), abstract.params)
        checkpoints.pinned.add(latest)  # the run's beginning cannot be drawn from a seed again
        state = create(loaded)
        say(f"start: {how}")
        return state, how
    found = checkpoints.restore_latest(abstract)
    if found is not None:
        state, step = found
        how = f"resumed from step {step} in {checkpoints.path}"
    elif config.path:
        loaded, how = load(config, abstract.params)
        state = create(loaded)
    else:
        state, how = create({}), "fresh, from the seed"
    say(f"start: {how}")
    return state, how


def _imported(checkpoints: Checkpoints, step: int) -> bool:
    try:
        return checkpoints.weights_only(step)
    except Damaged:
        return False  # told, and gone back from, when it is restored


def weights(checkpoints: Checkpoints, params: Params, step: int = 0) -> tuple[Params, int]:
    """(parameters to use, their step): of the given step, or of the newest that is whole; `params` are shapes and shardings.

    A running average comes in the place of what it is an average of. UserError where the folder holds none, or others.
    """
    steps = checkpoints.steps()
    if not steps or step and step not in steps:
        which = f" of step {step}" if step else ""
        raise UserError(f"{checkpoints.path} has no checkpoint{which} (it has {', '.join(map(str, steps)) or 'none'})")
    wanted = {"params": params}
    # Without a step, the newest that is whole; a step that was asked for is that one or an error.
    found, step = (checkpoints.restore(step, wanted, whole=False), step) if step else checkpoints.restore_latest(wanted, whole=False)
    kept = {_AVERAGE + path: x for path, x in tree.flatten(params).items() if _AVERAGE + path in checkpoints.leaves(step)}
    averages = checkpoints.read(step, kept) if kept else {}
    return overlay(found["params"], {path.removeprefix(_AVERAGE): x for path, x in averages.items()}), step


def overlay(params: Params, loaded: dict[str, Array]) -> Params:
    """`params` with the arrays of `loaded` in their places; inside jit the replaced ones are never computed."""
    return tree.map_with_path(lambda path, x: loaded.get(path, x), params)


def load(config: Config, params: Params) -> tuple[dict[str, Array], str]:
    """({path: array}, what was done in one line): parameters of another run in the dtypes and shardings of `params`.

    Only the arrays that are taken are read, each straight into its sharding. UserError for a pattern that matches
    nothing, for a parameter without a place here (strict) and for a shape that differs.
    """
    wanted = tree.flatten(params)
    with _open(config, wanted) as source:
        leaves = source.leaves
        pairs, unplaced = _pair(config, leaves, wanted)
        take = {place: jax.ShapeDtypeStruct(leaves[name].shape, leaves[name].dtype, sharding=wanted[place].sharding)
                for place, name in pairs.items()}
        stored = source.read({pairs[place]: x for place, x in take.items()})
    loaded = {}
    for place, name in pairs.items():
        # One at a time, so that a change of dtype never holds two copies of the model.
        array = stored.pop(name)
        loaded[place] = array.astype(wanted[place].dtype)
        note = "" if array.dtype == wanted[place].dtype else f", {array.dtype} -> {wanted[place].dtype}"
        say(f"  taken  {place}" + ("" if name == _PARAMS + place else f" <- {name}") + note)
    fresh = [path for path in wanted if path not in loaded]
    for path in fresh:
        say(f"  fresh  {path}")
    for name in unplaced:
        say(f"  unused {name}")
    how = (f"{len(loaded)} of {len(wanted)} parameters from {source.what}, {len(fresh)} fresh, "
           f"{len(unplaced)} of the other run without a place here")
    return loaded, how


@dataclasses.dataclass(frozen=True)
class _Source:
    """Where weights come from: what is there, by path, and how some of it is read."""

    what: str
    leaves: Mapping[str, Leaf | folder.Leaf]
    read: Callable[[dict[str, jax.ShapeDtypeStruct]], dict[str, Array]]


def is_folder(config: Config) -> bool:
    """Whether the weights are those of a Hugging Face folder."""
    return bool(config.path) and (epath.Path(config.path) / folder.CONFIG).exists()


def check(config: Config, model: str, fields: Any, tokenizer: Any) -> None:
    """UserError when a Hugging Face folder would be read as a model, or in words, that it is not of: shapes do not tell."""
    if not (config.strict and is_folder(config)):
        return
    words = None if config.exclude and re.search(config.exclude, "embed/tokens") else tokenizer
    if problems := folder.Folder(config.path).misfits(model, fields, words):
        raise UserError(f"start.path {config.path} is another model's (there -> here): " + "; ".join(problems) + ". `jaxlm hf import` "
                        "makes a config that fits; start.strict=False takes the weights all the same")


@contextlib.contextmanager
def _open(config: Config, wanted: dict[str, Any]) -> Iterator[_Source]:
    if is_folder(config):
        found = folder.Folder(config.path)
        leaves = {_PARAMS + path: leaf for path, leaf in found.leaves(wanted).items()}
        yield _Source(config.path, leaves, lambda take: {name: found.read(leaves[name], x) for name, x in take.items()})
        return
    with Checkpoints(config.path, writing=False) as source:
        step = config.step or source.latest()
        if step is None:
            raise UserError(f"start.path {config.path} holds no checkpoints{_hint(source)}")
        yield _Source(f"step {step} in {config.path}", source.leaves(step), lambda take: source.read(step, take))


def _pair(config: Config, leaves: Mapping[str, Leaf | folder.Leaf], wanted: dict[str, Any]) -> tuple[dict[str, str], list[str]]:
    """({path here: array there}, arrays there without a place here)."""
    names = {path.removeprefix(_PARAMS): path for path in leaves if path.startswith(_PARAMS)}
    if config.average:
        averages = {path.removeprefix(_AVERAGE): path for path in leaves if path.startswith(_AVERAGE)}
        if not averages:
            raise UserError(f"start.average is set and {config.path} holds no average: unset it")
        # Parameters that were frozen there have no average and need none.
        names |= averages
    chosen = _matching(names, config.include, "include", config)
    if config.exclude:
        drop = set(_matching(chosen, config.exclude, "exclude", config))
        chosen = [path for path in chosen if path not in drop]
    places = {path: path for path in chosen}
    for rule in config.rename:
        pattern, _, replacement = rule.partition("->")
        _matching(places.values(), pattern, "rename", config)
        try:
            places = {path: re.sub(pattern, replacement, place) for path, place in places.items()}
        except (re.error, IndexError) as error:
            raise UserError(f"start.rename '{rule}': {error}") from error
    pairs: dict[str, str] = {}
    unplaced, problems = [], []
    for path, place in places.items():
        if place not in wanted:
            unplaced.append(names[path])
            if config.strict:
                problems.append(f"{place} is not a parameter here{nearest(place, wanted)}")
        elif place in pairs:
            problems.append(f"{pairs[place]} and {names[path]} would both become {place}")
        elif leaves[names[path]].shape != wanted[place].shape:
            problems.append(f"{place} is {list(leaves[names[path]].shape)} there and {list(wanted[place].shape)} here")
        else:
            pairs[place] = names[path]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise UserError(f"the weights in {config.path} do not fit: {shown}. Leave parameters out with start.exclude, "
                        "give them another name with start.rename, or set start.strict to False to drop those without "
                        "a place")
    if not pairs:
        raise UserError(f"nothing in {config.path} has a place here: it holds {', '.join(list(names)[:5])}, ...")
    return pairs, unplaced


def _matching(paths: Any, pattern: str, field: str, config: Config) -> list[str]:
    out = [path for path in paths if re.search(pattern, path)]
    if not out:
        paths = list(paths)
        shown = ", ".join(paths[:5]) + (f", ... ({len(paths)} in all)" if len(paths) > 5 else "")
        raise UserError(f"start.{field} '{pattern}' matches no parameter in {config.path}"
                        f"{nearest(pattern, paths) or '.'} There are: {shown}")
    return out


def _hint(source: Checkpoints) -> str:
    """The folders below that do hold checkpoints, for someone who named the one above."""
    below = sorted(str(child) for child in source.path.iterdir()
                   if child.is_dir() and any(step.name.isdigit() for step in child.iterdir()))
    return f": did you mean {' or '.join(below[:3])}?" if below else ""

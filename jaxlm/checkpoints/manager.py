# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of a run: Orbax writes and reads the arrays, this file decides what is kept and what is whole.

On disk a step holds `state`, a nested dict of arrays by path, and `meta`, a JSON file with what the caller gives, the
metrics, and shape, dtype and digest of every array. So reading one never depends on the classes that wrote it.
"""
import dataclasses
import json
import math
import re
import zlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from jaxlm.checkpoints import folder
from jaxlm.checkpoints.digest import digests
from jaxlm.core import tree
from jaxlm.core.errors import UserError, nearest
from jaxlm.core.log import say
from jaxlm.core.types import Array

_SET_ASIDE = "set_aside"  # folder of steps that a run has left behind


class Damaged(UserError):
    """A checkpoint that cannot be read, or reads as something other than what was written."""


@dataclasses.dataclass(frozen=True)
class Config:
    """When to save and what to keep: the union of the latest, the best and every so many steps."""

    every: int = 1000  # steps between checkpoints; 0 = only at the end
    latest: int = 2  # how many of the newest are kept
    keep_every: int = 0  # steps that are multiples of this are kept for ever; 0 = none
    best: int = 1  # how many of the best by `metric` are kept; 0 = none
    metric: str = "eval/loss"
    mode: str = "min"  # whether a smaller (min) or a larger (max) metric is better
    async_save: bool = True  # write while training goes on

    def problems(self) -> list[str]:
        out = [f"checkpoints.{name} is {getattr(self, name)}: it is 0 (off) or more"
               for name in ("every", "keep_every", "best") if getattr(self, name) < 0]
        if self.latest < 1:
            out.append(f"checkpoints.latest is {self.latest}: at least 1 must be kept, or a run could not resume")
        if self.mode not in ("min", "max"):
            out.append(f"checkpoints.mode is '{self.mode}': it is min or max")
        if self.best and not self.metric:
            out.append("checkpoints.metric is empty: name a metric, or set checkpoints.best to 0")
        return out


@dataclasses.dataclass(frozen=True)
class Leaf:
    """What a checkpoint says of one array."""

    shape: tuple[int, ...]
    dtype: str
    digest: int

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


class Checkpoints:
    """The checkpoints in one folder; a context manager. Every process of a run opens it and calls the same methods.

    With writing=False nothing in the folder is changed: for reading another run's, also while that one is writing.
    """

    def __init__(self, path: str, config: Config = Config(), writing: bool = True):
        if problems := config.problems():
            raise UserError("; ".join(problems))
        self.path, self.config, self.writing = epath.Path(path), config, writing
        self.restored: int | None = None  # the step this run goes on from
        self.pinned: set[int] = set()  # steps that are kept whatever the config says
        self._ours: set[int] = set()  # steps that belong to this run's history
        self._bodies: dict[int, dict] = {}
        self._saving: int | None = None  # the step being written
        if not writing and not self.path.is_dir():
            raise UserError(f"there is no folder of checkpoints at {path}")
        self._open()

    def _open(self) -> None:
        """Open Orbax's manager, then delete what was left unfinished. UserError when either cannot be done."""
        try:
            if self.writing:
                self.path.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(
                self.path.resolve(),
                # Compression costs 2 to 3 CPU seconds a GB and saves 8 % of trained weights.
                item_handlers={"state": ocp.PyTreeCheckpointHandler(use_compression=False),
                               "meta": ocp.JsonCheckpointHandler(filename="meta.json")},
                options=ocp.CheckpointManagerOptions(
                    create=False, lightweight_initialize=True, save_root_metadata=False,
                    # _collect decides what is kept: here one damaged metric would make the whole folder unreadable.
                    preservation_policy=checkpoint_managers.preservation_policy.PreserveAll(),
                ),
            )
            if self.writing and jax.process_index() == 0:
                folder.sweep(self.path)
        except OSError as error:
            raise UserError(f"cannot keep checkpoints in {self.path}: {error}") from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self.close()
        except UserError as failed:
            if error is None:
                raise
            say(f"while stopping: {failed}")

    def close(self) -> None:
        """Wait for a save in progress, delete what need not be kept, let go."""
        try:
            self.wait()
        finally:
            self._manager.close()

    # ---- what is there

    def steps(self) -> list[int]:
        """All steps, oldest first, including one that is still being written."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """The newest step, or None."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step with the best metric, or None when no step has it."""
        self.wait()
        return next(iter(self._ranked()), None)

    def refresh(self) -> None:
        """Look again at what another process has written since this was opened."""
        self._bodies.clear()
        self._manager.reload()

    def meta(self, step: int) -> dict[str, Any]:
        """What was given as `meta` when the step was saved."""
        return self._body(step)["meta"]

    def metrics(self, step: int) -> dict[str, float]:
        """The metrics the step was saved with; empty when there were none."""
        return self._body(step)["metrics"]

    def leaves(self, step: int) -> dict[str, Leaf]:
        """Every array of the step by its path ('params/blocks/attention/q/kernel')."""
        stored = self._body(step)["leaves"]
        return {path: Leaf(tuple(shape), dtype, digest) for path, (shape, dtype, digest) in stored.items()}

    # ---- writing

    def due(self, step: int) -> bool:
        """Whether this step is one to save at."""
        return self.config.every > 0 and step > 0 and step % self.config.every == 0

    def save(self, step: int, state: Any, meta: dict[str, Any], metrics: dict[str, float] | None = None,
             force: bool = False) -> bool:
        """Save `state` when `step` is due or `force` is set, and return whether it was saved.

        It returns while the files are being written; an error then is raised by the next `save`, `wait` or `close`. A
        step that this run has saved or resumed from is not written twice. Steps of a history that this run has left (it
        resumed from an older step) are moved to the folder set_aside: otherwise they would be resumed from next time.
        UserError when the files cannot be written; TypeError when `meta` is not JSON.
        """
        if not self.writing:
            raise ValueError(f"{self.path} was opened for reading")
        if not (force or self.due(step)):
            return False
        body = {"meta": meta, "metrics": _numbers(metrics), "leaves": {}}
        if metrics and self.config.best and self.config.metric not in metrics:
            raise UserError(f"checkpoints.metric '{self.config.metric}' is not among the metrics"
                            f"{nearest(self.config.metric, metrics)} There are: {', '.join(metrics)}")
        try:
            body = json.loads(json.dumps(body))  # as it will be read back: keys are strings, tuples are lists
        except (TypeError, ValueError) as error:
            raise TypeError(f"the meta of checkpoint {step} is not JSON: {error}") from error
        self.wait()
        if step in self._ours and step in self.steps():
            return False
        leaves = tree.flatten(state)
        try:
            # Digests and copies to the host are meant; the training loop may forbid transfers that are not.
            with jax.transfer_guard("allow"):
                self._set_aside([s for s in self.steps() if s not in self._ours and
                                 (s >= step or (self.restored is not None and s > self.restored))])
                for path, digest in digests(leaves).items():
                    body["leaves"][path] = [list(leaves[path].shape), str(leaves[path].dtype), digest]
                self._manager.save(step, force=True, args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(tree.unflatten(leaves)),
                    meta=ocp.args.JsonSave({"body": body, "crc": _crc(body)}),
                ))
        except Exception as error:
            raise self._unwritten(step, error) from error
        self._ours.add(step)
        self._saving = step
        if not self.config.async_save:
            self.wait()
        return True

    def wait(self) -> None:
        """Until the save in progress is complete; then delete what need not be kept. UserError when it failed."""
        step, self._saving = self._saving, None
        if step is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._ours.discard(step)
            raise self._unwritten(step, error) from error
        self._collect()

    def _unwritten(self, step: int, error: Exception) -> UserError:
        """The error to raise after a failed save, with the folder ready for the next one."""
        try:
            self._manager.close()
        except Exception as again:  # the same failure, told a second time by Orbax
            say(f"closing after the failed save of step {step}: {again}")
        try:
            self._open()
        except UserError as stays:
            say(f"after the failed save of step {step}: {stays}")
        kept = self.steps()
        before = f"Those before it are intact, the newest is {kept[-1]}" if kept else "There is none before it"
        return UserError(f"checkpoint {step} could not be written to {self.path}: {_first_line(error)}. {before}")

    def _ranked(self) -> list[int]:
        """Steps with a metric, best first."""
        found = []
        for step in self.steps():
            try:
                value = self.metrics(step).get(self.config.metric, math.nan)
            except Damaged:
                continue  # no metric: it is kept or not by its step alone
            if math.isfinite(value):
                found.append((value if self.config.mode == "min" else -value, step))
        return [step for _, step in sorted(found)]

    def _collect(self) -> None:
        """Delete what is not kept. Only called when every step in the list is complete."""
        steps = self.steps()
        keep = {*self.pinned, *steps[-self.config.latest:], *self._ranked()[:self.config.best]}
        keep |= {s for s in steps if self.config.keep_every and s % self.config.keep_every == 0}
        self._move({s: folder.dropped(self.path / str(s)) for s in steps if s not in keep}, delete=True)

    def _set_aside(self, steps: list[int]) -> None:
        targets = {}
        aside = self.path / _SET_ASIDE
        before = len(list(aside.iterdir())) if steps and aside.exists() else 0
        for step in steps:
            targets[step] = aside / f"{step}-{before}"
            if jax.process_index() == 0:
                say(f"checkpoint {step} belongs to a history that this run has left: moved to {targets[step]}")
        self._move(targets, delete=False)

    def _move(self, targets: dict[int, epath.Path], delete: bool) -> None:
        """Rename steps, so that none is ever seen half there, and delete them then."""
        if not targets:
            return
        if jax.process_index() == 0:
            for step, target in targets.items():
                target.parent.mkdir(parents=True, exist_ok=True)
                (self.path / str(step)).rename(target)
                if delete:
                    target.rmtree()
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"jaxlm checkpoints moved {sorted(targets)}")
        for step in targets:
            self._bodies.pop(step, None)
        self._manager.reload()

    # ---- reading

    def weights_only(self, step: int) -> bool:
        """Whether a step holds parameters and nothing else: imported, not trained here."""
        return all(path.startswith("params/") for path in self.leaves(step))

    def restore(self, step: int, abstract: Any, whole: bool = True) -> Any:
        """The state saved at `step`, laid out like `abstract` (ShapeDtypeStructs, with the shardings wanted now).

        whole=False: only what `abstract` holds of it is compared and read. UserError when it was saved from another model
        or optimizer; Damaged when it cannot be read or has changed.
        """
        self.wait()
        wanted = tree.flatten(abstract)
        self._compare(step, wanted, whole)
        found = self.read(step, wanted)
        out = jax.tree.unflatten(jax.tree.structure(abstract), [found[path] for path in wanted])
        self.restored = step
        self._ours = {s for s in self.steps() if s <= step}
        return out

    def restore_latest(self, abstract: Any, whole: bool = True) -> tuple[Any, int] | None:
        """(state, step) of the newest checkpoint that is whole, saying which are not; None when there are none."""
        self.wait()
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.restore(step, abstract, whole), step
            except Damaged as error:
                say(f"WARNING: {error}")
                say(f"WARNING: going back from checkpoint {step} to an older one")
        if steps:
            raise Damaged(f"none of the checkpoints {steps} in {self.path} can be read: put back a copy, or start "
                          "the run in another folder")
        return None

    def read(self, step: int, wanted: dict[str, jax.ShapeDtypeStruct]) -> dict[str, Array]:
        """Some arrays of a step by path, in the shardings given, verified against what was saved.

        Shapes and dtypes must be those of `leaves(step)`. Nothing but these arrays is read.
        """
        self.wait()
        known = self.leaves(step)
        default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        item = tree.unflatten({
            path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or default) for path, x in wanted.items()
        })
        problem = ""
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.PyTreeRestore(
                item=item, restore_args=ocp.checkpoint_utils.construct_restore_args(item), partial_restore=True,
            )))
            found = tree.flatten(restored.state)
            out = {path: found[path] for path in wanted}
            bad = [path for path, digest in digests(out).items() if digest != known[path].digest]
            if bad:
                problem = f"{len(bad)} of {len(out)} arrays are not what was saved, among them {bad[0]}"
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise  # too large for this machine, which says nothing about the files
        except Exception as error:
            problem = _first_line(error)
        if jax.process_count() > 1:
            # All processes must go back to the same older step, also when only one of them saw the damage.
            all_well = multihost_utils.process_allgather(np.array(not problem)).all()
            problem = problem or ("" if all_well else "another process could not read it")
        if problem:
            raise Damaged(f"checkpoint {step} in {self.path} is damaged: {problem}")
        return out

    def _body(self, step: int) -> dict[str, Any]:
        """The JSON of a step, checked against its own sum."""
        self.wait()
        if step not in self._bodies:
            if step not in self.steps():
                raise UserError(f"there is no checkpoint {step} in {self.path}; there are: {self.steps()}")
            path = self.path / str(step) / "meta" / "meta.json"
            try:
                stored = json.loads(path.read_text())
                if _crc(stored["body"]) != stored["crc"]:
                    raise ValueError("its contents have changed since it was written")
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise Damaged(f"checkpoint {step} in {self.path} is damaged: {path} cannot be read: {error}") from error
            self._bodies[step] = stored["body"]
        return self._bodies[step]

    def _compare(self, step: int, wanted: dict[str, Any], whole: bool) -> None:
        """UserError naming the first arrays in which the checkpoint and this run differ."""
        known = self.leaves(step)
        here = {path: f"{x.dtype}{list(x.shape)}" for path, x in wanted.items()}
        there = {path: str(leaf) for path, leaf in known.items() if whole or path in wanted}
        differ = [f"{path}: {there.get(path, 'absent')} in the checkpoint, {here.get(path, 'absent')} here"
                  for path in [*here, *(p for p in there if p not in here)] if here.get(path) != there.get(path)]
        if differ:
            shown = "; ".join(differ[:5]) + (f"; and {len(differ) - 5} more" if len(differ) > 5 else "")
            raise UserError(f"checkpoint {step} in {self.path} was saved by another model or optimizer: {shown}. "
                            "Use the config that is stored with it, choose another folder for this run, or take only "
                            "its weights (start.path)")


def _numbers(metrics: dict[str, Any] | None) -> dict[str, float]:
    return {name: float(value) for name, value in (metrics or {}).items()}


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    line = text.splitlines()[0].partition(" See full TensorStore")[0] if text else "no more is known"
    # The reason most often met stands at the end of a line that says where, several times.
    reason = re.search("No space left on device|Disk quota exceeded", text)
    return f"{type(error).__name__}: {reason[0] if reason else line[:300]}"


def _crc(body: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())

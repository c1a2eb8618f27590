# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Several processes as one run: how they find each other, take turns, agree to stop, and notice that one is gone.

Works alone too: then every function here does nothing. `initialise` comes before the first question to a device.
"""
import atexit
import ctypes
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax._src import distributed  # its key-value store has no public door
from jax.experimental import multihost_utils

from jaxlm.core import log
from jaxlm.core.errors import UserError

T = TypeVar("T")
_DAY_MS = 24 * 3600 * 1000
_turns = 0
_notice: Callable[[int], None] | None = None  # jax's own handler of SIGTERM


def initialise(coordinator: str = "", count: int = 0, index: int = -1, *, join_seconds: int = 300, heartbeat_seconds: int = 20,
               resume: str = "Start all processes again with the same command.",
               environment: Mapping[str, str] = os.environ) -> bool:
    """Joins the other processes of this run, if there are others; returns whether there are.

    By address (coordinator "host:port", count, index; or JAXLM_COORDINATOR, JAXLM_PROCESS_COUNT, JAXLM_PROCESS_ID), or
    by jax's own detection: under SLURM, MPI and TPU pods whose variables are set, and always with coordinator "auto".
    A process silent for heartbeat_seconds is lost, and all others stop with the text `resume`. UserError when the
    address is incomplete, nobody answers there, the others are not there after join_seconds, or counts disagree.
    """
    coordinator, count, index = _address(coordinator, count, index, environment)
    if jax.distributed.is_initialized() or not coordinator:
        return jax.distributed.is_initialized()
    arguments: dict[str, Any] = {}
    if coordinator == "auto":
        if (devices := slurm_devices(environment, len(_cards()))) is not None:
            arguments["local_device_ids"] = devices
        who = "this process"
    else:
        arguments.update(coordinator_address=coordinator, num_processes=count, process_id=index, cluster_detection_method="deactivate")
        who = f"process {index} of {count}"
        if index:
            _reach(coordinator, join_seconds)
    late = (f"error: {who} waited {join_seconds} s and not all had come to {coordinator}: are all processes started, each with its own "
            "--process_id and the same --process_count? (--join_seconds sets how long to wait)")
    jax.config.update("jax_enable_preemption_service", True)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # jax ends the process by abort(), past Python, where joining or a peer fails: a companion says what that means.
    witness = _Witness(f"error: {who} could not join the others at {coordinator}: is --process_count the same everywhere, and each "
                       "--process_id below it and used once?")
    alarm = threading.Timer(join_seconds, lambda: (witness.release(), print(late, file=sys.stderr, flush=True), os._exit(2)))
    alarm.daemon = True
    alarm.start()
    try:
        # Long: whoever finishes first waits at the end for the one that draws pictures; a lost one is noticed anyway.
        jax.distributed.initialize(initialization_timeout=join_seconds + 60, heartbeat_timeout_seconds=heartbeat_seconds,
                                   shutdown_timeout_seconds=24 * 3600, **arguments)
        alarm.cancel()
        state = distributed.global_state
        _check_count(state.process_id, state.num_processes, join_seconds)
        global _notice
        _notice = _handler(signal.SIGTERM)
    except UserError:
        raise
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"{who} could not join the others at {coordinator}: {str(error).splitlines()[0]}") from error
    finally:
        alarm.cancel()
        witness.release()
    last = _Witness(f"error: process {state.process_id} of {state.num_processes} ended because it or another one was lost. {resume}")
    atexit.register(last.release)
    global _witness
    _witness = last
    # Libraries below print on file 1 ("[Gloo] Rank 0 is connected"): standard output is kept for what was asked for.
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1) if state.process_id == 0 else open(os.devnull, "w")
    os.dup2(2, 1)
    if state.process_id:
        log.silence()
    return True


def several() -> bool:
    """Whether this run has more than one process."""
    return jax.distributed.is_initialized() and distributed.global_state.num_processes > 1


def first() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return not several() or distributed.global_state.process_id == 0


def in_turn(action: Callable[[], T]) -> T:
    """action() on process 0, then on the others, which find in a shared folder what the first has made."""
    if not several():
        return action()
    global _turns
    _turns += 1
    client, key = distributed.global_state.client, f"jaxlm/turn/{_turns}"
    if first():
        try:
            result = action()
        except BaseException:
            client.key_value_set(key, "failed")
            raise
        client.key_value_set(key, "done")
        return result
    if client.blocking_key_value_get(key, _DAY_MS) == "failed":
        raise UserError("process 0 could not do its part; its own message says why")
    return action()


def agree(what: str, value: str) -> None:
    """UserError where this process has another value than process 0; each `what` is asked once in a run."""
    if not several():
        return
    client, mine = distributed.global_state.client, hashlib.sha256(value.encode()).hexdigest()
    if first():
        client.key_value_set(f"jaxlm/agree/{what}", mine)
    elif client.blocking_key_value_get(f"jaxlm/agree/{what}", _DAY_MS) != mine:
        raise UserError(f"{what} is not the same on process {jax.process_index()} as on process 0: give all the same command and files")


def of_first(answer: bool) -> bool:
    """What process 0 answers, on all: what only it can see must not let processes go different ways."""
    return bool(multihost_utils.broadcast_one_to_all(np.int32(answer))) if several() else answer


def stop_all() -> None:
    """Have all processes stop at the same moment; see `stop_agreed`."""
    if several():
        _notice(signal.SIGTERM)


def stop_agreed(count: int) -> bool:
    """Whether all processes stop at this very moment, because one of them called `stop_all`; count: how often it was asked.

    Costs a look at a flag: a notice travels on jax's own threads, and only then are counts compared (the highest + 1).
    """
    return several() and multihost_utils.reached_preemption_sync_point(count)


def explain(error: Exception) -> str:
    """What to print when `error` ended one of several processes; the traceback goes first unless a peer's loss explains it."""
    text = str(error).strip()
    if isinstance(error, jax.errors.JaxRuntimeError) and re.search(
            r"gloo|connection|socket|NCCL|UNAVAILABLE|DEADLINE_EXCEEDED|heartbeat|coordination|unhealthy", text, re.I):
        return f"another process is lost ({text.splitlines()[0][:200]})"
    traceback.print_exception(error)
    return f"{type(error).__name__}: {text.splitlines()[0][:200] if text else 'see above'}"


def leave(code: int, told: bool = False) -> NoReturn:
    """Exit after an error, which has been told in full or not. Alone: as always. Else without the orderly end, which
    would wait for processes that wait for this one."""
    if not several():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        # An error that all have: nobody leaves before the others have spoken.
        distributed.global_state.client.wait_at_barrier("jaxlm_failed", 3000)
    except jax.errors.JaxRuntimeError:
        pass  # the others are still at work; they notice within the heartbeat
    if _witness is not None:
        _witness.release() if told else _witness.tell()
    os._exit(code)


def slurm_devices(environment: Mapping[str, str], cards: int) -> list[int] | None:
    """The GPUs of this SLURM task among those it sees; None outside SLURM or without GPUs.

    jax takes GPU number SLURM_LOCALID alone, which leaves the others of a node idle when there is one task for each node.
    """
    if "SLURM_STEP_NODELIST" not in environment:
        return None
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    seen = len([x for x in visible.split(",") if x]) if visible is not None else cards
    node = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", "1"))
    # "2(x3),1": tasks of every node; what counts here is how many share this one.
    counts = [int(n) for n, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", node) for _ in range(int(times or 1))]
    at = int(environment.get("SLURM_NODEID", 0))
    tasks, local = counts[at] if at < len(counts) else counts[-1], int(environment.get("SLURM_LOCALID", 0))
    bound = seen < int(environment.get("SLURM_GPUS_ON_NODE", seen) or seen)  # SLURM shows each task only its own
    if not seen:
        return None
    if tasks == 1 or bound:
        return list(range(seen))
    if seen % tasks:
        raise UserError(f"{tasks} SLURM tasks share {seen} GPUs of this node: use one task for each node, or a number that divides {seen}")
    return list(range(local * seen // tasks, (local + 1) * seen // tasks))


_witness: "_Witness | None" = None


class _Witness:
    """A shell that prints `message` when this process is gone without having released it, however it went."""

    def __init__(self, message: str):
        # Its own session: the signals of a terminal or scheduler to the group must not silence it.
        self._shell = subprocess.Popen(["/bin/sh", "-c", 'read -r line || printf "%s\\n" "$0" >&2', message], stdin=subprocess.PIPE,
                                       stdout=subprocess.DEVNULL, start_new_session=True)

    def release(self) -> None:
        """The process ends well, or has said itself what went wrong."""
        self._end(b"fine\n")

    def tell(self) -> None:
        """The message is printed now."""
        self._end(b"")

    def _end(self, word: bytes) -> None:
        if self._shell is not None:
            shell, self._shell = self._shell, None
            shell.communicate(word)


def _address(coordinator: str, count: int, index: int, environment: Mapping[str, str]) -> tuple[str, int, int]:
    """(address, count, index); "auto" for jax's detection, "" when this process is alone."""
    try:
        coordinator = coordinator or environment.get("JAXLM_COORDINATOR", "")
        count = count or int(environment.get("JAXLM_PROCESS_COUNT", 0))
        index = index if index >= 0 else int(environment.get("JAXLM_PROCESS_ID", -1))
    except ValueError as error:
        raise UserError(f"JAXLM_PROCESS_COUNT and JAXLM_PROCESS_ID must be whole numbers: {error}") from error
    if coordinator == "auto":
        return coordinator, 0, -1
    if not coordinator and not count and index < 0:
        number = lambda name: int(environment.get(name) or 1)
        slurm = "SLURM_STEP_NODELIST" in environment and "SLURM_PROCID" in environment and number("SLURM_NTASKS") > 1
        mpi = "OMPI_MCA_orte_hnp_uri" in environment and number("OMPI_COMM_WORLD_SIZE") > 1
        tpu = len(environment.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1 or "MEGASCALE_COORDINATOR_ADDRESS" in environment
        return "auto" if slurm or mpi or tpu else "", 0, -1
    if count == 1 and not coordinator:
        return "", 1, 0
    missing = [name for name, given in (("coordinator", coordinator), ("process_count", count > 0), ("process_id", index >= 0)) if not given]
    if missing:
        raise UserError(f"--{' and --'.join(missing)} missing: several processes need --coordinator=host:port, --process_count and --process_id")
    if not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"--coordinator is '{coordinator}': write host:port, the address of process 0")
    if index >= count:
        raise UserError(f"--process_id is {index}: it must be from 0 to {count - 1} with --process_count={count}")
    return coordinator, count, index


def _reach(coordinator: str, seconds: int) -> None:
    """Until something answers at the address."""
    host, _, port = coordinator.rpartition(":")
    end, why = time.monotonic() + seconds, ""
    while time.monotonic() < end:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            why = str(error)
            time.sleep(0.2)
    raise UserError(f"no process answers at --coordinator={coordinator} after {seconds} s ({why}): start process 0 there, with a host name "
                    "that the others can reach and a port that no firewall closes")


def _check_count(index: int, count: int, seconds: int) -> None:
    """UserError where another process was told another count; later it would be a hang."""
    client = distributed.global_state.client
    client.key_value_set(f"jaxlm/count/{index}", str(count))
    for other in sorted({0, (index + 1) % count}):  # process 0 is always there; if it disagrees, the next may not exist
        theirs = int(client.blocking_key_value_get(f"jaxlm/count/{other}", seconds * 1000))
        if theirs != count:
            raise UserError(f"--process_count is {count} on process {index} and {theirs} on process {other}: it must be the same")


def _handler(number: int) -> Callable[[int], None]:
    """What the process does on that signal, put there by jax from a thread of its own."""
    libc, action = ctypes.CDLL(None), (ctypes.c_void_p * 64)()  # struct sigaction begins with the handler
    end = time.monotonic() + 10
    while libc.sigaction(number, None, action) or action[0] in (None, 1):  # SIG_DFL, SIG_IGN
        if time.monotonic() > end:
            raise RuntimeError(f"jax has set no handler for signal {number}: is jax_enable_preemption_service on?")
        time.sleep(0.05)
    return ctypes.CFUNCTYPE(None, ctypes.c_int)(action[0])


def _cards() -> list[str]:
    """NVIDIA devices of this machine, without asking a driver."""
    return [name for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name)]

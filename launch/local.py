# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Runs one command as N processes of one run on this machine: to try several processes, or one for each group of GPUs.

python launch/local.py --processes=2 --cpu_devices=4 -- jaxlm train --config=configs/gpt_tiny.py --workdir=runs/two
python launch/local.py --processes=8 --gpus_each=1 -- jaxlm train --config=configs/gpt_small.py --workdir=runs/small

Ctrl-C or SIGTERM is passed on once: the run saves its state at a step that all agree on, and stops. --dry_run shows the commands.
"""
import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import time


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cpu_devices", type=int, default=0, help="virtual CPU devices of each process; 0 = the real devices")
    parser.add_argument("--gpus_each", type=int, default=0, help="GPUs of each process, in order; 0 = leave them as they are")
    parser.add_argument("--port", type=int, default=0, help="of process 0; 0 = one that is free")
    parser.add_argument("--grace", type=float, default=60, help="seconds until the others are killed after one has failed")
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command")
    given = parser.parse_args()
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if not command or given.processes < 1:
        parser.error("give -- and a command, and at least one process")
    port = given.port or free_port()
    each = [variables(index, given.processes, port, given.cpu_devices, given.gpus_each) for index in range(given.processes)]
    if given.dry_run:
        for own in each:
            print(" ".join(f"{k}={shlex.quote(v)}" for k, v in own.items()), shlex.join(command))
        return 0
    # In sessions of their own: a Ctrl-C reaches them once, through this process.
    started = [subprocess.Popen(command, env={**os.environ, **own}, start_new_session=True) for own in each]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: [p.terminate() for p in started if p.poll() is None])
    return wait(started, given.grace)


def variables(index: int, count: int, port: int, cpu_devices: int, gpus: int) -> dict[str, str]:
    """What makes a process one of the run."""
    out = {"JAXLM_COORDINATOR": f"127.0.0.1:{port}", "JAXLM_PROCESS_COUNT": str(count), "JAXLM_PROCESS_ID": str(index)}
    if cpu_devices:
        out |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(cpu_devices)}
    if gpus:
        out["CUDA_VISIBLE_DEVICES"] = ",".join(str(index * gpus + i) for i in range(gpus))
    return out


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait(started: list[subprocess.Popen], grace: float) -> int:
    """The first exit status that is not 0; once there is one, the others have grace seconds."""
    code, end = 0, float("inf")
    while None in [p.poll() for p in started]:
        code = code or next((p.returncode for p in started if p.returncode), 0)
        end = min(end, time.monotonic() + grace) if code else end
        if time.monotonic() > end:
            for p in started:
                if p.poll() is None:
                    print(f"launch: process {started.index(p)} is still there {grace} s after another failed: killed", file=sys.stderr)
                    p.kill()
        time.sleep(0.1)
    code = code or next((p.returncode for p in started if p.returncode), 0)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())

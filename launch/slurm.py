# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Writes an sbatch script for a command, one task a node with all its GPUs, and submits it.

python launch/slurm.py --nodes=4 --gpus_per_node=8 --time=24:00:00 -- jaxlm train --config=configs/llama_1b.py --workdir=/shared/runs/1b

jaxlm finds the other tasks from SLURM's own variables. Two minutes before the time limit the tasks get SIGTERM: the run saves and
stops; submit again to go on (a job that was preempted is requeued by SLURM). --dry_run prints the script.
"""
import argparse
import pathlib
import shlex
import subprocess
import sys


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--tasks_per_node", type=int, default=1, help="a number that divides the GPUs of a node")
    parser.add_argument("--gpus_per_node", type=int, default=0, help="0 = a CPU job")
    parser.add_argument("--cpus_per_task", type=int, default=0, help="0 = the cluster's default")
    parser.add_argument("--time", default="", help="limit, as 24:00:00; empty = the partition's")
    parser.add_argument("--partition", default="")
    parser.add_argument("--account", default="")
    parser.add_argument("--name", default="jaxlm")
    parser.add_argument("--script", default="jaxlm.sbatch", help="file to write")
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command")
    given = parser.parse_args()
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if not command:
        parser.error("give -- and a command")
    if given.gpus_per_node % given.tasks_per_node:
        parser.error(f"--tasks_per_node={given.tasks_per_node} does not divide --gpus_per_node={given.gpus_per_node}")
    content = script(given, command)
    if given.dry_run:
        print(content, end="")
        return 0
    pathlib.Path(given.script).write_text(content)
    return subprocess.run(["sbatch", given.script]).returncode


def script(given: argparse.Namespace, command: list[str]) -> str:
    """The text of the sbatch script."""
    options = {"job-name": given.name, "nodes": given.nodes, "ntasks-per-node": given.tasks_per_node, "gpus-per-node": given.gpus_per_node,
               "cpus-per-task": given.cpus_per_task, "time": given.time, "partition": given.partition, "account": given.account,
               "signal": "TERM@120", "output": f"{given.name}-%j.out"}
    lines = [f"#SBATCH --{name}={value}" for name, value in options.items() if value]
    # One task that ends badly ends the step: the others could only wait for it.
    return "\n".join(["#!/bin/bash", *lines, "#SBATCH --requeue", "", "set -euo pipefail",
                      f"srun --kill-on-bad-exit=1 {shlex.join(command)}", ""])


if __name__ == "__main__":
    sys.exit(main())

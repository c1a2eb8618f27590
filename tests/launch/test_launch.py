# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""The launchers' dry runs, and launch/local.py for real with two processes."""
import ast
import json
import os
import shlex
import subprocess
import sys

import pytest
import yaml

from tests import tiny

LAUNCH = tiny.ROOT / "launch"
COMMAND = ["jaxlm", "train", "--config=configs/gpt_tiny.py", "--workdir=runs/a b"]


def launch(name: str, *args: str, command: list[str] = COMMAND, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(LAUNCH / f"{name}.py"), *args, "--", *command], capture_output=True, text=True, timeout=200,
                          cwd=tiny.ROOT, env={**os.environ, **env})


@pytest.mark.parametrize("file", sorted(LAUNCH.glob("*.py")), ids=lambda f: f.stem)
def test_launchers_stand_alone(file):
    """Fails if a launcher needs jaxlm where it starts it from: `from jaxlm import build` in launch/slurm.py."""
    tree = ast.parse(file.read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert names <= set(sys.stdlib_module_names)
    assert f"python launch/{file.name}" in ast.get_docstring(tree) and "--dry_run" in file.read_text()


def test_local_dry_run():
    """Fails if two processes get one number: `"JAXLM_PROCESS_ID": "0"` in launch/local.py."""
    lines = launch("local", "--processes=2", "--gpus_each=4", "--port=1234", "--dry_run").stdout.splitlines()
    assert [line.split()[:4] for line in lines] == [
        ["JAXLM_COORDINATOR=127.0.0.1:1234", "JAXLM_PROCESS_COUNT=2", "JAXLM_PROCESS_ID=0", "CUDA_VISIBLE_DEVICES=0,1,2,3"],
        ["JAXLM_COORDINATOR=127.0.0.1:1234", "JAXLM_PROCESS_COUNT=2", "JAXLM_PROCESS_ID=1", "CUDA_VISIBLE_DEVICES=4,5,6,7"]]
    assert shlex.split(lines[0])[4:] == COMMAND


def test_slurm_dry_run():
    """Fails if words of the command are not quoted: `" ".join(command)` in launch/slurm.py."""
    lines = launch("slurm", "--nodes=4", "--gpus_per_node=8", "--time=24:00:00", "--dry_run").stdout.splitlines()
    assert {"#!/bin/bash", "#SBATCH --nodes=4", "#SBATCH --ntasks-per-node=1", "#SBATCH --gpus-per-node=8", "#SBATCH --time=24:00:00",
            "#SBATCH --signal=TERM@120"} <= set(lines)
    assert shlex.split(lines[-1]) == ["srun", "--kill-on-bad-exit=1", *COMMAND]
    assert "does not divide" in launch("slurm", "--gpus_per_node=8", "--tasks_per_node=3", "--dry_run").stderr


def test_tpu_vm_dry_run():
    """Fails if only one host runs it: drop --worker=all from launch/tpu_vm.py."""
    words = shlex.split(launch("tpu_vm", "--name=v5e", "--zone=z", "--folder=my code", "--dry_run").stdout)
    assert words[:7] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "v5e", "--zone=z"] and "--worker=all" in words
    remote = shlex.split(words[-1].removeprefix("--command="))
    assert remote == ["cd", "my code", "&&", "JAXLM_COORDINATOR=auto", *COMMAND]


def test_gke_dry_run():
    """Fails if a slice gets another number of pods than it has hosts: `hosts = chips` in launch/gke.py."""
    done = launch("gke", "--name=llama", "--image=r/jaxlm:1", "--accelerator=tpu-v5-lite-podslice", "--topology=4x4", "--slices=2", "--dry_run")
    job = yaml.safe_load(done.stdout)["spec"]["replicatedJobs"][0]
    assert job["replicas"] == 2 and job["template"]["spec"]["parallelism"] == job["template"]["spec"]["completions"] == 4
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["command"] == COMMAND and pod["containers"][0]["resources"]["limits"]["google.com/tpu"] == 4
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4" and pod["restartPolicy"] == "Never"


def test_local_for_real(tmp_path):
    """Two processes examine themselves. Fails if they do not find each other: drop JAXLM_COORDINATOR from launch/local.py."""
    doctor = [sys.executable, "-m", "jaxlm.cli.main", "doctor", "--config=configs/gpt_tiny.py", f"--workdir={tmp_path}"]
    done = launch("local", "--processes=2", "--cpu_devices=2", command=doctor)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2, each with 2 devices" in done.stdout and "over 4 devices of 2 processes" in done.stdout
    assert done.stdout.splitlines()[-1] == "all is well" and done.stdout.count("all is well") == 1


def test_local_passes_on_a_failure():
    """Fails if a failed process is waited for in vain: drop the kill from launch/local.py."""
    code = "import os, time; os.environ['JAXLM_PROCESS_ID'] == '1' and os._exit(3); time.sleep(100)"
    done = launch("local", "--processes=2", "--grace=0.5", command=[sys.executable, "-c", code])
    assert done.returncode == 3 and "killed" in done.stderr, json.dumps([done.returncode, done.stderr])

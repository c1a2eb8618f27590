# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Runs a command on all hosts of a Cloud TPU VM slice, through gcloud's ssh.

python launch/tpu_vm.py --name=my-v5e --zone=us-west4-a --folder=jaxlm -- jaxlm train --config=configs/llama_1b.py --workdir=/mnt/bucket/1b

The code must be in --folder on every host (gcloud compute tpus tpu-vm scp --worker=all). --dry_run prints the command.
"""
import argparse
import shlex
import subprocess
import sys


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the TPU VM")
    parser.add_argument("--zone", required=True)
    parser.add_argument("--project", default="", help="empty = gcloud's default")
    parser.add_argument("--folder", default=".", help="to change to on the hosts")
    parser.add_argument("--setup", default="", help="shell line before the command, such as: source .venv/bin/activate")
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command")
    given = parser.parse_args()
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if not command:
        parser.error("give -- and a command")
    # "auto": jax asks the TPU's metadata who the others are.
    remote = " && ".join(filter(None, [f"cd {shlex.quote(given.folder)}", given.setup, f"JAXLM_COORDINATOR=auto {shlex.join(command)}"]))
    words = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", given.name, f"--zone={given.zone}",
             *([f"--project={given.project}"] if given.project else []), "--worker=all", f"--command={remote}"]
    if given.dry_run:
        print(shlex.join(words))
        return 0
    return subprocess.run(words).returncode


if __name__ == "__main__":
    sys.exit(main())

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""Runs a command as a JobSet on TPU nodes of Google Kubernetes Engine.

python launch/gke.py --name=llama --image=REGISTRY/jaxlm:1 --accelerator=tpu-v5-lite-podslice --topology=4x4 --slices=2 \
    -- jaxlm train --config=configs/llama_1b.py --workdir=/mnt/bucket/1b

GKE tells every pod its place and jaxlm reads it. A pod that is lost ends all; the JobSet starts them again and the run goes on from its
newest checkpoint. --dry_run prints the YAML instead of applying it with kubectl.
"""
import argparse
import json
import math
import subprocess
import sys

JOBSET = """\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: {name}
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: {restarts}
  replicatedJobs:
  - name: slice
    replicas: {slices}
    template:
      spec:
        parallelism: {hosts}
        completions: {hosts}
        backoffLimit: 0
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: {grace}
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: {accelerator}
              cloud.google.com/gke-tpu-topology: {topology}
            containers:
            - name: jaxlm
              image: {image}
              command: {command}
              ports:
              - containerPort: 8471
              - containerPort: 8482
              env:
              - name: JAXLM_COORDINATOR
                value: {coordinator}
              resources:
                limits:
                  google.com/tpu: {chips}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--accelerator", required=True, help="tpu-v5-lite-podslice, tpu-v5p-slice, tpu-v6e-slice, ...")
    parser.add_argument("--topology", required=True, help="chips of a slice, as 4x4 or 2x2x4")
    parser.add_argument("--chips_per_host", type=int, default=4)
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--grace", type=int, default=120, help="seconds between SIGTERM and the end: enough to save")
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command")
    given = parser.parse_args()
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if not command:
        parser.error("give -- and a command")
    try:
        chips = math.prod(int(n) for n in given.topology.split("x"))
    except ValueError:
        parser.error(f"--topology={given.topology} is not of the form 4x4 or 2x2x4")
    each = min(given.chips_per_host, chips)
    if chips % each:
        parser.error(f"{chips} chips are not a multiple of --chips_per_host={each}")
    hosts = chips // each
    # JSON strings and lists are YAML; a lone host has nobody to join.
    text = {name: json.dumps(getattr(given, name)) for name in ("name", "image", "accelerator", "topology", "slices", "restarts", "grace")}
    content = JOBSET.format(**text, hosts=hosts, chips=each, command=json.dumps(command),
                            coordinator=json.dumps("auto" if hosts * given.slices > 1 else ""))
    if given.dry_run:
        print(content, end="")
        return 0
    return subprocess.run(["kubectl", "apply", "-f", "-"], input=content, text=True).returncode


if __name__ == "__main__":
    sys.exit(main())

# Copyright 2026 The jaxlm Authors. Licensed under the Apache License, Version 2.0.
"""How processes find each other, and what they are told when they do not."""
import os
import subprocess
import sys

import pytest

from jaxlm.core.errors import UserError
from jaxlm.parallel import processes
from tests import tiny
from tests.several import free_port

JOIN = """
import sys
from jaxlm.core.errors import UserError
from jaxlm.parallel import processes
try:
    processes.initialise(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), join_seconds=int(sys.argv[4]))
except UserError as error:
    print('error:', error, file=sys.stderr)
    processes.leave(2, told=True)
"""


def join(*each: tuple) -> list[tuple[int, str]]:
    started = [subprocess.Popen([sys.executable, "-c", JOIN, *map(str, one)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                                cwd=tiny.ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}) for one in each]
    return [(p.returncode, text) for p in started for text in [p.communicate(timeout=300)[1]]]


def test_nobody_there():
    """Fails if a wrong address ends in an abort or a long wait: drop _reach from processes.initialise."""
    [(code, text)] = join((f"127.0.0.1:{free_port()}", 2, 1, 3))
    assert code == 2 and "no process answers at --coordinator" in text and "Traceback" not in text


def test_others_do_not_come():
    """Fails if process 0 waits for ever or aborts wordlessly: drop alarm.start() from processes.initialise."""
    [(code, text)] = join((f"127.0.0.1:{free_port()}", 2, 0, 4))
    assert code == 2 and "not all had come" in text and "Check failure" not in text


@pytest.mark.parametrize("counts", [((2, 0), (3, 1)), ((2, 0), (3, 2))], ids=["same-number", "one-too-many"])
def test_counts_disagree(counts):
    """Fails if processes with other counts go on, to hang later: drop _check_count, or the first _Witness."""
    address = f"127.0.0.1:{free_port()}"
    done = join(*((address, count, index, 20) for count, index in counts))
    assert all(code for code, _ in done)
    assert all("--process_count" in text for _, text in done), done


@pytest.mark.parametrize("given,environment,expected", [
    (("", 0, -1), {}, ("", 0, -1)),
    (("", 0, -1), {"JAXLM_COORDINATOR": "a:1", "JAXLM_PROCESS_COUNT": "4", "JAXLM_PROCESS_ID": "3"}, ("a:1", 4, 3)),
    (("b:2", 0, 0), {"JAXLM_PROCESS_COUNT": "4", "JAXLM_PROCESS_ID": "3"}, ("b:2", 4, 0)),
    (("", 0, -1), {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, ("auto", 0, -1)),
    (("", 0, -1), {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2"}, ("", 0, -1)),  # inside an allocation, without srun
    (("", 0, -1), {"TPU_WORKER_HOSTNAMES": "a,b"}, ("auto", 0, -1)),
    (("", 0, -1), {"TPU_WORKER_HOSTNAMES": "localhost"}, ("", 0, -1)),
])
def test_where_the_others_are(given, environment, expected):
    """Fails if flags do not come before the environment: swap the operands of `or` in processes._address."""
    assert processes._address(*given, environment) == expected


@pytest.mark.parametrize("given,word", [(("a:1", 2, -1), "process_id missing"), (("a:1", 2, 2), "from 0 to 1"), (("a", 2, 0), "host:port")])
def test_incomplete_addresses(given, word):
    with pytest.raises(UserError, match=word):
        processes._address(*given, {})


@pytest.mark.parametrize("environment,cards,expected", [
    ({}, 8, None),
    ({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_NODEID": "1", "SLURM_LOCALID": "0"}, 8, list(range(8))),
    ({"SLURM_STEP_NODELIST": "n1", "SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_LOCALID": "3"}, 8, [3]),
    ({"SLURM_STEP_NODELIST": "n1", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_LOCALID": "1"}, 8, [4, 5, 6, 7]),
    ({"SLURM_STEP_NODELIST": "n1", "SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_LOCALID": "3", "CUDA_VISIBLE_DEVICES": "3", "SLURM_GPUS_ON_NODE": "8"}, 8, [0]),
    ({"SLURM_STEP_NODELIST": "n1", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_LOCALID": "1"}, 0, None),
])
def test_all_gpus_of_a_slurm_task(environment, cards, expected):
    """Fails if one task for a node takes one GPU of eight: `return [local]` where tasks == 1 in processes.slurm_devices."""
    assert processes.slurm_devices(environment, cards) == expected

"""Several GPUs of one machine are shared evenly by the processes that load models, and free again when those end."""

import subprocess
import sys

import pytest
import torch

from deita_core.devices import best_device, claim

CLAIM = """
import sys
from pathlib import Path
from deita_core.devices import claim
print(claim(sys.argv[2:], Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start(tmp_path):
    """Start a process that claims one of the names and holds it: the process, and which it got."""
    started = []

    def claiming(*names):
        line = [sys.executable, "-c", CLAIM, str(tmp_path / "locks"), *names]
        process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process, int(process.stdout.readline())

    yield claiming
    for process in started:
        process.kill()
        process.communicate()


def test_processes_share_gpus_evenly_and_a_killed_one_leaves_its_own_to_the_next(start):
    first, *others = [start("a", "b", "c") for _ in range(5)]
    assert [first[1], *(got for _, got in others)] == [0, 1, 2, 0, 1]
    others[1][0].kill()
    others[1][0].wait()
    # The third has nobody now, the others two each.
    assert [start("a", "b", "c")[1] for _ in range(3)] == [2, 2, 0]


def test_a_gpu_is_known_by_its_own_name_whatever_a_process_may_see(start):
    assert start("a", "b")[1] == 0
    assert start("a")[1] == 0
    # One process that sees both takes the one that nobody has, which it counts from what it sees.
    assert start("b", "a")[1] == 0


def test_the_threads_of_a_process_have_one_device():
    assert best_device() == best_device()
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    assert best_device().split(":")[0] == (accelerator.type if accelerator else "cpu")


def test_a_thing_is_claimed_by_its_position(tmp_path):
    assert [claim(["a", "b"], tmp_path) for _ in range(2)] == [0, 1]

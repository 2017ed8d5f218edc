"""Several GPUs of one machine are shared evenly by the processes that load models, and free again when those end."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from deita_core.models.causal_lm import use_flash
from deita_core.models.devices import best_device, claim

CLAIM = """
import sys
from pathlib import Path
from deita_core.models.devices import claim
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


@pytest.mark.slow
def test_processes_share_gpus_evenly_and_a_killed_one_leaves_its_own_to_the_next(start):
    first, *others = [start("a", "b", "c") for _ in range(5)]
    assert [first[1], *(got for _, got in others)] == [0, 1, 2, 0, 1]
    others[1][0].kill()
    others[1][0].wait()
    # The third has nobody now, the others two each.
    assert [start("a", "b", "c")[1] for _ in range(3)] == [2, 2, 0]


@pytest.mark.slow
def test_a_gpu_is_known_by_its_own_name_whatever_a_process_may_see(start):
    assert start("a", "b")[1] == 0
    assert start("a")[1] == 0
    # One process that sees both takes the one that nobody has, which it counts from what it sees.
    assert start("b", "a")[1] == 0


def test_the_threads_of_a_process_have_one_device():
    with ThreadPoolExecutor(8) as threads:
        found = {future.result() for future in [threads.submit(best_device) for _ in range(8)]}
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    assert [device.split(":")[0] for device in found] == [accelerator.type if accelerator else "cpu"]


def test_where_nothing_can_be_claimed_any_is_taken(tmp_path):
    (tmp_path / "locks").write_text("no folder")
    assert claim(["a", "b"], tmp_path / "locks") in (0, 1)


def test_what_cannot_flash_is_computed_as_usual():
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    ).eval()
    ids = torch.tensor([[1, 2, 3]])
    before = model(input_ids=ids).logits
    use_flash(model)
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model(input_ids=ids).logits, before)

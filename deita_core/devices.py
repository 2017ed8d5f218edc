"""Which device a process computes on: of several GPUs, the one that fewest others on this machine have taken."""

import os
import tempfile
from collections.abc import Sequence
from functools import cache
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

# Held until this process ends, however it ends.
_claims: list[FileLock] = []


@cache
def best_device() -> str:
    """This machine's accelerator, else "cpu"; with several GPUs "cuda:0" and so on, the same for all of a process.

    Processes see no more GPUs than CUDA_VISIBLE_DEVICES admits, and share them evenly.
    """
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return "cpu"
    if accelerator.type != "cuda" or torch.cuda.device_count() < 2:
        return accelerator.type
    # Known by what does not depend on which of them this process may see.
    names = [str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]
    return f"cuda:{claim(names, Path(tempfile.gettempdir()) / f'deita-gpus-{os.getuid()}')}"


def claim(names: Sequence[str], folder: Path) -> int:
    """Take one of the things named: the position of the first among those that fewest processes hold just now.

    Processes that use the same folder know of each other; what one holds is free again once it has ended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for share in count():
        for position, name in enumerate(names):
            lock = FileLock(folder / f"{name}-{share}.lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                continue
            _claims.append(lock)
            return position
    raise AssertionError("unreachable")


def count_gpus() -> int:
    """How many GPUs of NVIDIA's this process may use; asks torch only on a machine that has their driver."""
    if not Path("/proc/driver/nvidia/version").exists():
        return 0
    import torch

    return torch.cuda.device_count()

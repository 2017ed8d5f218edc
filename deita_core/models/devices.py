"""Which device a process computes on: of several GPUs, the one that fewest processes of the same user have taken."""

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock

from filelock import FileLock, Timeout

# Processes that may hold one GPU and still be counted.
SHARES = 64

# Held until this process ends, however it ends.
_claims: list[FileLock] = []
_turn = Lock()


def best_device() -> str:
    """This machine's accelerator, else "cpu"; of NVIDIA's GPUs one, "cuda:0" and so on, the same for all of a process.

    Processes see no more GPUs than CUDA_VISIBLE_DEVICES admits, and those of one user share them evenly.
    """
    with _turn:
        return _best_device()


@cache
def _best_device() -> str:
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return "cpu"
    if accelerator.type != "cuda":
        return accelerator.type
    # Before it, what is counted are cards, of which this process may be given a part.
    torch.cuda.init()
    # Known by what does not depend on which of them this process may see.
    names = [str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]
    return f"cuda:{claim(names, Path(tempfile.gettempdir()) / f'deita-gpus-{os.getuid()}')}"


def claim(names: Sequence[str], folder: Path) -> int:
    """Take one of the things named: the position of the first among those that fewest processes hold just now.

    Processes that use the same folder know of each other; what one holds is free again once it has ended. Where the
    folder cannot be used, any one is taken.
    """
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        for share in range(SHARES):
            for position, name in enumerate(names):
                lock = FileLock(folder / f"{name}-{share}.lock", timeout=0)
                with suppress(Timeout):
                    lock.acquire()
                    _claims.append(lock)
                    return position
    return os.getpid() % len(names)


def count_gpus() -> int:
    """How many of NVIDIA's GPUs this process may use; asks torch only on a machine that has their driver."""
    if not Path("/proc/driver/nvidia/version").exists():
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0

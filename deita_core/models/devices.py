"""Chooses a process's device: among several GPUs, the one used by the fewest processes of the same user."""

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock

from filelock import FileLock, Timeout

# Maximum number of counted processes per GPU.
SHARES = 64

# Locks held until this process ends, even if it is killed.
_claims: list[FileLock] = []
_turn = Lock()


def best_device() -> str:
    """Return this machine's accelerator, else "cpu"; among NVIDIA GPUs one ("cuda:0" ...), the same in one process.

    Only GPUs in CUDA_VISIBLE_DEVICES are used; processes of one user share them evenly.
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
    # Before init, device_count counts whole cards, of which this process may have only a part.
    torch.cuda.init()
    # UUIDs do not depend on which GPUs this process can see.
    names = [str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]
    return f"cuda:{claim(names, Path(tempfile.gettempdir()) / f'deita-gpus-{os.getuid()}')}"


def claim(names: Sequence[str], folder: Path) -> int:
    """Claim one of the names and return its position: the first one held by the fewest processes at present.

    Processes that use the same folder see each other's claims; a claim ends with its process. If the folder cannot be
    used, any position is returned.
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
    """Return the number of NVIDIA GPUs this process can use; imports torch only if the NVIDIA driver is present."""
    if not Path("/proc/driver/nvidia/version").exists():
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0

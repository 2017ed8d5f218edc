"""The processes of one training, of which `accelerate launch` or torchrun may have started several."""

import os


def process_count() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this process is the one that writes the result."""
    return int(os.environ.get("RANK", "0")) == 0

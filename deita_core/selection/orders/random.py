"""A random order that depends only on the seed and the ids."""

from collections.abc import Sequence
from hashlib import blake2b

# Digits of a float64 from 0 to 1.
BITS = 53


def random_scores(ids: Sequence[str], seed: int) -> list[float]:
    """A number from 0 to 1 for each id, equally likely anywhere; that of a row does not change as the pool grows."""
    salt = f"{seed} ".encode()
    return [
        (int.from_bytes(blake2b(salt + id_.encode(), digest_size=8).digest()) >> (64 - BITS)) / 2**BITS for id_ in ids
    ]

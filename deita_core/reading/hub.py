"""Reads datasets of the Hugging Face hub: hf://datasets/ORG/NAME[@REVISION][?config=C&split=S]."""

import re
from collections.abc import Iterable, Iterator
from urllib.parse import parse_qsl

from deita_core.conversation import content_id
from deita_core.errors import InputError, cause
from deita_core.reading.rows import Reject, Row

HUB = "hf://"
HUB_ADDRESS = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^?]+))?(?:\?(.+))?")


def dataset_rows(dataset: Iterable[object]) -> Iterator[Row]:
    """The rows of a (streaming) dataset, numbered from 1."""
    return (Row(line, value) for line, value in enumerate(dataset, 1))


def hub_rows(address: str) -> Iterator[Row | Reject]:
    name, revision, config, split = hub_parts(address)
    try:
        from datasets import load_dataset
    except ImportError:
        raise InputError(f"{address} needs the package datasets; install deita-flows[hub].") from None
    try:
        # First, because it fails at once; load_dataset retries for half a minute.
        commit = _commit(name, revision)
        yield from dataset_rows(load_dataset(name, config, split=split, revision=commit, streaming=True))
    except Exception as error:  # datasets and the network raise many types
        raise _unreachable(address, error) from error


def hub_hash(address: str) -> str:
    name, revision, config, split = hub_parts(address)
    try:
        commit = _commit(name, revision)
    except Exception as error:
        raise _unreachable(address, error) from error
    return content_id(f"{name}@{commit}?config={config}&split={split}".encode())


def _commit(name: str, revision: str | None) -> str | None:
    from huggingface_hub import HfApi

    return HfApi().dataset_info(name, revision=revision).sha


def hub_parts(address: str) -> tuple[str, str | None, str | None, str]:
    match = HUB_ADDRESS.fullmatch(address)
    options = dict(parse_qsl(match[3] or "")) if match else {}
    if not match or options.keys() - {"config", "split"}:
        raise InputError(
            f"{address} is no dataset; write hf://datasets/ORG/NAME, if need be with @REVISION or ?config=C&split=S."
        )
    return match[1], match[2], options.get("config"), options.get("split", "train")


def _unreachable(address: str, error: Exception) -> InputError:
    return InputError(f"{address} cannot be read from the hub ({cause(error)}); check its name and the network.")

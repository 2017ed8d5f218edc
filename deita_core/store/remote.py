"""Stores on object storage: their address, access to their objects, and their folder on this machine."""

import os
import re
from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deita_core.config.folders import cache_folder
from deita_core.conversation import content_id
from deita_core.errors import InputError, StoreError, cause

if TYPE_CHECKING:
    from obstore.store import ObjectStore

# Variables from which the libraries read credentials, regions and endpoints.
VARIABLES = {"s3": "AWS_*", "gs": "GOOGLE_*", "az": "AZURE_*"}
ADDRESSES = ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
# Where machines in a cloud get credentials: tried last, if there are no others.
METADATA = ("169.254.169.254", "metadata.google.internal")
# Long enough for a slow response, short enough to report a wrong address quickly.
CLIENT: dict[str, Any] = {"connect_timeout": "3s", "timeout": "15s"}
RETRIES: dict[str, Any] = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=1), "base": 2},
}


def is_remote(uri: str) -> bool:
    """True unless the store is a folder."""
    return "://" in uri


def checked_uri(uri: str) -> str:
    """A remote store's uri without trailing slashes. Raises InputError if it is not supported."""
    scheme, bucket, _ = _parts(uri)
    if scheme not in VARIABLES or not bucket:
        raise InputError(
            f"The store {uri} is neither a folder nor on object storage; give a folder, s3://BUCKET/NAME, "
            f"gs://BUCKET/NAME or az://CONTAINER/NAME."
        )
    if "@" in bucket:
        raise InputError(f"The store's address holds credentials; give them in {VARIABLES[scheme]} variables instead.")
    return uri.rstrip("/")


def side_folder(uri: str) -> Path:
    """The local folder for files that a remote store cannot hold: in DEITA_CACHE, or the user's cache folder."""
    name = re.sub("[^A-Za-z0-9]+", "-", uri).strip("-")[-60:]
    return cache_folder() / f"{name}-{content_id(uri.encode())[:8]}"


def storage_options() -> dict[str, str]:
    """Options for LanceDB that the environment does not give: whether the endpoint is without TLS."""
    return {"allow_http": "true"} if _is_plain() else {}


def open_objects(uri: str) -> "ObjectStore":
    """The objects under a store's uri. Raises StoreError if the package is missing or the configuration is invalid."""
    try:
        from obstore.store import AzureStore, GCSStore, S3Store
    except ImportError:
        raise StoreError(f"The store {uri} needs another package; run pip install 'deita-flows[remote]'.") from None
    scheme, bucket, prefix = _parts(uri)
    kinds: dict[str, Any] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
    client = {**CLIENT, "allow_http": True} if _is_plain() else CLIENT
    try:
        return kinds[scheme](bucket, prefix=prefix or None, client_options=client, retry_config=RETRIES)
    except Exception as error:
        raise unreachable(uri, error) from None


@lru_cache(maxsize=64)
def check_reachable(uri: str) -> None:
    """Raise StoreError, within seconds, if a remote store's bucket cannot be listed; checked once per process."""
    import obstore

    objects = open_objects(uri)
    try:
        obstore.list_with_delimiter(objects)
    except (obstore.exceptions.BaseError, OSError) as error:
        raise unreachable(uri, error) from None


def unreachable(uri: str, error: Exception) -> StoreError:
    """The StoreError that explains an error of object storage to the user."""
    variables, text = VARIABLES[_parts(uri)[0]], str(error)
    if "NoSuchBucket" in text or "ContainerNotFound" in text:
        return StoreError(f"The bucket of the store {uri} does not exist; make it, or give another --store.")
    if any(address in text for address in METADATA):
        return StoreError(f"No credentials were found for the store {uri}; give them in {variables} variables.")
    if "403 Forbidden" in text or "401 Unauthorized" in text:
        return StoreError(
            f"The store {uri} is closed to the credentials found; check the {variables} variables and their rights."
        )
    return StoreError(f"The store {uri} cannot be used ({_reason(error)}); check the {variables} variables.")


def publish(uri: str, folder: Path, name: str, patterns: Sequence[str]) -> None:
    """Upload a folder's files under `name`, in the order of the patterns; existing objects are not changed."""
    import obstore

    objects = open_objects(uri)
    for file in (file for pattern in patterns for file in sorted(folder.glob(pattern))):
        try:
            obstore.put(objects, f"{name}/{file.relative_to(folder).as_posix()}", file.read_bytes(), mode="create")
        except obstore.exceptions.AlreadyExistsError:
            continue
        except (obstore.exceptions.BaseError, OSError) as error:
            raise unreachable(uri, error) from None


def _parts(uri: str) -> tuple[str, str, str]:
    """Scheme, bucket and prefix."""
    scheme, _, place = uri.partition("://")
    bucket, _, prefix = place.partition("/")
    return scheme, bucket, prefix.strip("/")


def _is_plain() -> bool:
    return any(os.environ.get(name, "").startswith("http://") for name in ADDRESSES)


def _reason(error: Exception) -> str:
    """The end of the library's message, which holds the reason."""
    first = cause(Exception(str(error).partition("Debug source:")[0].strip().rpartition(" - ")[2] or str(error)))
    return first.partition(": <")[0].rstrip(" .")

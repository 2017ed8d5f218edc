"""Publishes the files of a selection as a dataset on the hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from deita_core.errors import DeitaError, InputError, cause
from deita_core.export.files import MANIFEST, OF_CHANGES, PICTURES, REPORT, SELECTION_FILES
from deita_core.stages.ingest import removals
from deita_core.stages.snapshots import manifest_in, store_of
from deita_core.store import Store

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

NEEDED = [name for name in SELECTION_FILES if name not in (*OF_CHANGES, *PICTURES, REPORT)]


class PublishingError(DeitaError):
    """The hub did not take a selection."""


@dataclass(frozen=True)
class Publication:
    """What is to be published: the files of a folder with their sizes in bytes, where to, and the commit's title."""

    folder: Path
    repo: str
    private: bool
    files: dict[str, int]
    title: str


def plan_publication(folder: Path, repo: str, private: bool = False, with_report: bool = False) -> Publication:
    """What publishing a folder would upload: the selection's own files, and no others that lie there.

    The report is left out unless asked for, because it holds texts of rows that were not selected. Raises InputError if
    the folder holds no complete selection, or holds rows that were removed from its store since.
    """
    check_name(repo)
    manifest = manifest_in(folder)
    if not manifest:
        raise InputError(f"{folder} holds no selection, as it has no {MANIFEST}; name the folder of deita select.")
    if lacking := [name for name in NEEDED if not (folder / name).is_file()]:
        raise InputError(f"{folder} lacks {', '.join(lacking)}; write its files again with deita update or export.")
    counts = _checked(folder, manifest)
    names = [name for name in SELECTION_FILES if (folder / name).is_file() and (name != REPORT or with_report)]
    title = f"{counts['selected']:,} conversations selected from {counts['read']:,}"
    return Publication(folder, repo, private, {name: (folder / name).stat().st_size for name in names}, title)


def check_name(repo: str) -> None:
    """Raise InputError if a name is not that of a dataset with its owner, as ORG/NAME."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        repo = ""
    if "/" not in repo:
        raise InputError("--repo names no dataset of the hub; write it as ORG/NAME, in letters, digits, ., _ and -.")


def _checked(folder: Path, manifest: dict[str, Any]) -> dict[str, int]:
    """The manifest's counts. Raises InputError if the files do not agree with them, or hold removed rows."""
    try:
        counts = {name: int(manifest["counts"][name]) for name in ("selected", "read")}
        ids = pl.read_parquet(folder / "selected.parquet", columns=["id"])["id"]
    except (KeyError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{folder} holds no readable selection ({cause(error)}); select again.") from None
    if len(ids) != counts["selected"]:
        raise InputError(
            f"{folder} is not of one selection: selected.parquet has {len(ids):,} rows and {MANIFEST} says "
            f"{counts['selected']:,}; write its files again with deita update or export."
        )
    store = store_of(folder)
    if store and (gone := int(ids.is_in(removals(Store(store))["id"].implode()).sum())):
        raise InputError(
            f"{folder} holds {gone:,} conversations that were removed from its store since; run deita update --out "
            f"{folder} first."
        )
    return counts


def publish_selection(planned: Publication, token: str) -> str:
    """Upload the planned files in one commit; returns the address of the dataset. Needs a token that may write.

    The dataset is made if it is not there. Files of an earlier selection that this one lacks are deleted there, others
    are left. Raises InputError if the dataset is public and `private` is asked for, PublishingError if the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    api = HfApi(token=token)
    try:
        _find_or_make(api, planned)
        _commit(api, planned)
    except HfHubHTTPError as error:
        raise PublishingError(_refusal(planned.repo, error)) from None
    # No answer, or one that no hub gives.
    except (HTTPError, OSError, ValueError) as error:
        raise PublishingError(
            f"{api.endpoint} does not answer as a hub ({cause(error).rstrip('.')}); check the network and HF_ENDPOINT, "
            f"then run the same command again."
        ) from None
    return f"{api.endpoint}/datasets/{planned.repo}"


def _find_or_make(api: "HfApi", planned: Publication) -> None:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = api.dataset_info(planned.repo)
    except RepositoryNotFoundError:
        api.create_repo(planned.repo, repo_type="dataset", private=planned.private)
        return
    if planned.private and not found.private:
        raise InputError(
            f"The dataset {planned.repo} is there and public; make it private on the hub first, or give another --repo."
        )


def _commit(api: "HfApi", planned: Publication) -> None:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    there = api.list_repo_files(planned.repo, repo_type="dataset")
    old = [name for name in SELECTION_FILES if name in there and name not in planned.files]
    added = [CommitOperationAdd(name, planned.folder / name) for name in planned.files]
    api.create_commit(
        planned.repo,
        [*added, *(CommitOperationDelete(name) for name in old)],
        commit_message=planned.title,
        repo_type="dataset",
    )


def _refusal(repo: str, error: "HfHubHTTPError") -> str:
    """The sentence for an answer of the hub that is an error."""
    status, said = error.response.status_code, (error.server_message or "").strip()
    told = f"{status}: {cause(ValueError(said)).rstrip('.')}" if said else f"{status}"
    match status:
        case 401:
            return f"The hub does not know the token ({told}); log in with hf auth login, or set HF_TOKEN."
        case 403:
            return f"The token may not write to {repo} ({told}); use one with write access to {repo.split('/')[0]}."
    return f"The hub did not take {repo} ({told}); nothing or not all was uploaded, run the same command again."

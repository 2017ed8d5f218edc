"""Steps that several flows begin with: find the models, read the pool, encode and score what is new in it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from prefect.runtime import flow_run

from deita_core.config.settings import SelectionSettings
from deita_core.models.encoder_spec import EncoderFiles, find_encoder
from deita_core.scorers import ScorerFiles, find_scorer
from deita_core.stages.ingest import Ingested, PoolFile, as_before, only_stored, still_stored, surviving
from deita_core.stages.removal import mend, take_back
from deita_core.stages.snapshots import Snapshot, snapshots
from deita_core.store import Store
from tasks.embed import encode_texts, plan_texts
from tasks.ingest import find_files, read_files
from tasks.runtime.progress import Progress
from tasks.runtime.runners import Given, Submit
from tasks.score import plan_turns, score_turns


@contextmanager
def holding(uri: str, out: str | None = None) -> Iterator[Store]:
    """Hold a store for this run, after finishing what broken runs have left in it.

    When the run fails for good, what it decided and what it prepared in the folder `out` is taken back.
    """
    store = Store(uri)
    with store.lock(f"{flow_run.name} ({flow_run.id})"):
        mend(store)
        try:
            yield store
        except BaseException as error:
            try:
                take_back(store, out)
            except Exception as later:
                # The run's own error is what the user must see; the next run takes back what is left.
                error.add_note(f"What the run had prepared could not be taken back either: {later}")
            raise


def find_pool_encoder(settings: SelectionSettings) -> EncoderFiles:
    """The encoder of the settings."""
    return find_encoder(settings.encoder, settings.precision, settings.encoder_pooling, settings.encoder_storage)


def find_models(settings: SelectionSettings) -> tuple[EncoderFiles, list[ScorerFiles]]:
    """The encoder, and the scorers of complexity and quality."""
    encoder = find_pool_encoder(settings)
    complexity = find_scorer(settings.complexity_scorer, "complexity", encoder, limits=settings.llm)
    return encoder, [complexity, find_scorer(settings.quality_scorer, "quality", encoder, limits=settings.llm)]


def read_pool(
    progress: Progress, pool: Sequence[str], settings: SelectionSettings, leave_out: Sequence[str]
) -> list[Ingested]:
    """Read the pool's files, but not those in the folders to leave out."""
    return _read(progress, settings, _found(pool, settings, leave_out))


def _found(pool: Sequence[str], settings: SelectionSettings, leave_out: Sequence[str]) -> list[PoolFile]:
    """The pool's files; what the store's snapshots were written to is no data either."""
    written = snapshots(Store(settings.store))["folder"].unique().to_list()
    return find_files(pool, settings.layout, [settings.store, *leave_out, *written])


def _read(progress: Progress, settings: SelectionSettings, found: Sequence[PoolFile]) -> list[Ingested]:
    return list(progress.steps("reading", read_files(settings.store, found, settings.limit), total=len(found)))


def read_grown_pool(
    progress: Progress,
    named: Sequence[str],
    previous: Snapshot | None,
    settings: SelectionSettings,
    leave_out: Sequence[str],
) -> list[Ingested]:
    """Read what is named and an earlier snapshot's pool; files of that which are gone stay as the store has them."""
    if previous is None:
        return read_pool(progress, named, settings, leave_out)
    there, before = surviving(previous.report.pool), previous.report.files
    for name in previous.report.pool:
        if name not in there:
            progress.warn(f"{name} of the pool is not there; its rows stay as they are.")
    pool = [*there, *named]
    found = as_before(before, _found(pool, settings, leave_out)) if pool else []
    stored = still_stored(Store(settings.store), only_stored(before, found))
    return [*stored, *_read(progress, settings, found)]


def encode_pool(
    progress: Progress, submit: Submit, store: str, encoder: EncoderFiles, file_ids: Sequence[str]
) -> int:  # fmt: skip
    """Encode the texts without a vector; returns how many."""
    shards = plan_texts(store, encoder, file_ids)
    given: Given = {"store": store, "encoder": encoder}
    return progress.shards("encoding", shards, partial(submit, encode_texts, given))


def score_pool(
    progress: Progress,
    submit: Submit,
    store: str,
    encoder: EncoderFiles,
    scorers: Sequence[ScorerFiles],
    file_ids: Sequence[str],
) -> int:
    """Score the turns without a score, on each axis; returns how many."""
    scored = 0
    for scorer in scorers:
        shards = plan_turns(store, scorer, file_ids)
        given: Given = {"store": store, "scorer": scorer, "encoder": encoder}
        scored += progress.shards(f"scoring {scorer.axis}", shards, partial(submit, score_turns, given))
    return scored

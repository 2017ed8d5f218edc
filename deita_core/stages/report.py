"""The report of a selection: counts of all fates, and everything needed to repeat it."""

from pydantic import BaseModel

from deita_core.literals import FATES
from deita_core.stages.ingest import Ingested
from deita_core.stages.job import Job
from deita_core.stages.selecting import Chosen


class Counts(BaseModel):
    """Counts of input rows by fate: read = selected + skipped + rejected + merged duplicates."""

    read: int
    merged: int
    rejected: int
    selected: int
    near_duplicate: int
    redundant: int = 0
    over_quota: int = 0
    over_budget: int
    filtered: int = 0
    contaminated: int = 0
    encoded: int
    scored: int

    @property
    def skipped(self) -> int:
        """Valid rows that were not selected."""
        return sum(getattr(self, fate) for fate in FATES if fate not in ("selected", "rejected"))


class Report(BaseModel):
    """The report of a run, for the manifest and the snapshots; `previous` is the snapshot it follows."""

    job: Job
    snapshot: int
    previous: int | None
    pool: list[str]
    cwd: str
    folder: str
    files: list[Ingested]
    chosen: Chosen
    encoded: int
    scored: int
    seconds: dict[str, float]

    @property
    def counts(self) -> Counts:
        """Counts of input rows by fate, and of the work done."""
        read = sum(file.rows for file in self.files)
        unreadable = sum(file.rejects for file in self.files)
        return Counts(
            read=read,
            merged=read - unreadable - self.chosen.samples,
            **{fate: getattr(self.chosen, fate) for fate in FATES} | {"rejected": unreadable + self.chosen.rejected},
            encoded=self.encoded,
            scored=self.scored,
        )

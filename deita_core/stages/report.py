"""The report of a selection: counts of all fates, and everything needed to repeat it."""

from pydantic import BaseModel

from deita_core.stages.ingest import Ingested
from deita_core.stages.selecting import Chosen, Job


class Counts(BaseModel):
    """Counts of input rows by fate: read = selected + skipped + rejected + merged duplicates."""

    read: int
    merged: int
    rejected: int
    selected: int
    near_duplicate: int
    over_budget: int
    encoded: int
    scored: int

    @property
    def skipped(self) -> int:
        """Valid rows that were not selected: near-duplicates, or over budget."""
        return self.near_duplicate + self.over_budget


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
            rejected=unreadable + self.chosen.rejected,
            selected=self.chosen.selected,
            near_duplicate=self.chosen.near_duplicate,
            over_budget=self.chosen.over_budget,
            encoded=self.encoded,
            scored=self.scored,
        )

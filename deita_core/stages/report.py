"""What a selection did: the fate of every row counted, and all that is needed to make it again."""

from pydantic import BaseModel

from deita_core.stages.ingest import Ingested
from deita_core.stages.selecting import Chosen, Job


class Counts(BaseModel):
    """Where every input row went: read = selected + skipped + rejected + merged duplicates."""

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
        """Good rows that were not chosen: near-duplicates of a better one, or after the budget was full."""
        return self.near_duplicate + self.over_budget


class Report(BaseModel):
    """What a run did, as it goes into the manifest and the snapshots; it goes on from `previous`."""

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
        """The fate of every input row, and the work done."""
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

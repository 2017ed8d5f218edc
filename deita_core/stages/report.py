"""What a selection did: the fate of every row counted, and all that is needed to make it again."""

from pydantic import BaseModel

from deita_core.config.settings import SelectionSettings
from deita_core.stages.ingest import Ingested
from deita_core.stages.selecting import Chosen, Job


class Counts(BaseModel):
    """Where every input row went: read = selected + passed over + rejected + merged duplicates."""

    read: int
    merged: int
    rejected: int
    selected: int
    blocked: int
    not_reached: int
    encoded: int
    scored: int

    @property
    def passed_over(self) -> int:
        """Good rows that were not chosen: too like a better one, or after the budget was full."""
        return self.blocked + self.not_reached


class Report(BaseModel):
    """What a run did, as it goes into the manifest, the runs and the editions; it goes on from `previous`."""

    job: Job
    settings: SelectionSettings
    edition: int
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
            blocked=self.chosen.blocked,
            not_reached=self.chosen.not_reached,
            encoded=self.encoded,
            scored=self.scored,
        )

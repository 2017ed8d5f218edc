"""Counts of what this process has sent to endpoints, for those who watch a run from another thread."""

from dataclasses import dataclass, fields, replace


@dataclass
class Traffic:
    """Requests sent and what came of them; `waiting`: in flight now; `seconds`: what the answers took, in sum.

    `pieces`: of answers that were streamed.
    """

    sent: int = 0
    answered: int = 0
    timed_out: int = 0
    waiting: int = 0
    seconds: float = 0.0
    pieces: int = 0

    def copy(self) -> "Traffic":
        """The counts as they are now."""
        return replace(self)

    def since(self, before: "Traffic") -> "Traffic":
        """What has come since an earlier copy; those waiting are still all that are."""
        gained = {field.name: getattr(self, field.name) - getattr(before, field.name) for field in fields(self)}
        return Traffic(**{**gained, "waiting": self.waiting})

    def __str__(self) -> str:
        coming = f", {self.pieces:,} pieces received" if self.pieces else ""
        return (
            f"{self.sent:,} requests sent, {self.answered:,} answered, {self.timed_out:,} timed out, "
            f"{self.waiting:,} waiting{coming}"
        )


TRAFFIC = Traffic()

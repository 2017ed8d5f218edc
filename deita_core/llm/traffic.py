"""Counts of this process's requests to endpoints, for other threads that show progress."""

from dataclasses import dataclass, fields, replace


@dataclass
class Traffic:
    """Requests sent and their outcomes. `waiting`: in flight now; `seconds`: the sum of response times.

    `pieces`: received chunks of streamed answers.
    """

    sent: int = 0
    answered: int = 0
    timed_out: int = 0
    waiting: int = 0
    seconds: float = 0.0
    pieces: int = 0

    def copy(self) -> "Traffic":
        """Return a copy of the counts."""
        return replace(self)

    def since(self, before: "Traffic") -> "Traffic":
        """Return the difference to an earlier copy; `waiting` stays the current number."""
        gained = {field.name: getattr(self, field.name) - getattr(before, field.name) for field in fields(self)}
        return Traffic(**{**gained, "waiting": self.waiting})

    def __str__(self) -> str:
        coming = f", {self.pieces:,} pieces received" if self.pieces else ""
        return (
            f"{self.sent:,} requests sent, {self.answered:,} answered, {self.timed_out:,} timed out, "
            f"{self.waiting:,} waiting{coming}"
        )


TRAFFIC = Traffic()

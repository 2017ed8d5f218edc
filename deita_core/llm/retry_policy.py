"""When a request that failed is sent again, and when it is given up."""

import random
from dataclasses import dataclass

from deita_core.llm.errors import NO_ANSWER, RetryableError

LONGEST_PAUSE = 60.0
# How often one request waits because the endpoint asks for it, which is no failure of either.
MOST_WAITS = 100
# An address at which nothing has ever answered is more likely wrong than busy, and a reply that lacks what it should
# hold will hardly come otherwise.
FEW_ATTEMPTS = 3
# So many requests in a row given up, and none answered between them: the endpoint may be down.
GIVEN_UP_IN_A_ROW = 8


@dataclass
class Tries:
    """How often one request was sent in vain: failures, and waits that the endpoint asked for."""

    failures: int = 0
    waits: int = 0

    def add(self, error: RetryableError) -> None:
        """Count one more."""
        if error.wait is None:
            self.failures += 1
        else:
            self.waits += 1

    @property
    def total(self) -> int:
        """Of either kind."""
        return self.failures + self.waits


class RetryPolicy:
    """How often a job's requests are sent, with what pauses, and when the endpoint itself is in doubt.

    `answered`: requests of the job that were answered, in this run and before.
    """

    def __init__(self, attempts: int, first_pause: float, answered: int) -> None:
        self.answered = answered
        self._attempts, self._first_pause, self._given_up = attempts, first_pause, 0

    def is_exhausted(self, tries: Tries, error: RetryableError) -> bool:
        """Whether a request that has failed so often is to be given up."""
        few = error.reason != NO_ANSWER or (error.doubtful and not self.answered)
        most = min(FEW_ATTEMPTS, self._attempts) if few else self._attempts
        return tries.failures >= most or tries.waits >= MOST_WAITS

    def pause(self, tries: Tries, error: RetryableError) -> float:
        """Seconds to wait beyond those that the endpoint asks for; spread out, lest all come back together."""
        pause = min(self._first_pause * 2 ** (tries.total - 1), LONGEST_PAUSE)
        return max(0.0, pause * random.uniform(0.5, 1) - (error.wait or 0.0))  # noqa: S311

    def count_answer(self) -> None:
        """A request was answered."""
        self.answered, self._given_up = self.answered + 1, 0

    def count_given_up(self) -> None:
        """A request was given up."""
        self._given_up += 1

    @property
    def doubts_endpoint(self) -> bool:
        """Whether it is time to find out if the endpoint answers anything at all."""
        return not self.answered or self._given_up >= GIVEN_UP_IN_A_ROW

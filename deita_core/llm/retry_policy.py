"""When a failed request is retried, and when it is given up."""

import random
from dataclasses import dataclass

from deita_core.llm.errors import NO_ANSWER, RetryableError

LONGEST_PAUSE = 60.0
# Limit on waits that the endpoint asks for; such a wait is not a failure.
MOST_WAITS = 100
# Used if the address has never answered (more likely wrong than busy) or if a reply lacks required data (a retry
# rarely helps).
FEW_ATTEMPTS = 3
# After this many requests given up in a row, without an answer in between, the endpoint may be down.
GIVEN_UP_IN_A_ROW = 8


@dataclass
class Tries:
    """Attempts of one request without an answer: failures, and waits that the endpoint asked for."""

    failures: int = 0
    waits: int = 0

    def add(self, error: RetryableError) -> None:
        """Count one more attempt."""
        if error.wait is None:
            self.failures += 1
        else:
            self.waits += 1

    @property
    def total(self) -> int:
        """Failures and waits."""
        return self.failures + self.waits


class RetryPolicy:
    """Limits on the attempts of a job's requests, the pauses between them, and when the endpoint itself is in doubt.

    `answered`: requests of the job that were answered, in this run and before.
    """

    def __init__(self, attempts: int, first_pause: float, answered: int) -> None:
        self.answered = answered
        self._attempts, self._first_pause, self._given_up = attempts, first_pause, 0

    def is_exhausted(self, tries: Tries, error: RetryableError) -> bool:
        """Whether to give up a request after these attempts."""
        few = error.reason != NO_ANSWER or (error.doubtful and not self.answered)
        most = min(FEW_ATTEMPTS, self._attempts) if few else self._attempts
        return tries.failures >= most or tries.waits >= MOST_WAITS

    def pause(self, tries: Tries, error: RetryableError) -> float:
        """Return the seconds to wait beyond the endpoint's own wait, randomized so that retries are spread out."""
        pause = min(self._first_pause * 2 ** (tries.total - 1), LONGEST_PAUSE)
        return max(0.0, pause * random.uniform(0.5, 1) - (error.wait or 0.0))  # noqa: S311

    def count_answer(self) -> None:
        """Record an answered request."""
        self.answered, self._given_up = self.answered + 1, 0

    def count_given_up(self) -> None:
        """Record a request that was given up."""
        self._given_up += 1

    @property
    def doubts_endpoint(self) -> bool:
        """Whether to test if the endpoint answers anything at all."""
        return not self.answered or self._given_up >= GIVEN_UP_IN_A_ROW

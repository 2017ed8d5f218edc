"""A job's spend and its limit."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class SpendBudget:
    """Reserves the highest cost of each request, so that the spend never exceeds `cap`; without a cap it only counts.

    Calls `stop` with a sentence once no further request fits; `check` raises if sending has been stopped.
    """

    def __init__(self, spent: float, cap: float | None, stop: Callable[[str], None], check: Callable[[], None]) -> None:
        self.spent = spent
        self._cap, self._stop, self._check = cap, stop, check
        self._reserved, self._open, self._changed = 0.0, 0, asyncio.Condition()
        self._woken = False

    @asynccontextmanager
    async def reserve(self, most: float) -> AsyncIterator[None]:
        """Reserve `most` while a request is sent, after waiting for room. Raises as `check`."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._fits(most) or not self._open or self._woken)
            if self._cap is not None and not (self._woken or self._fits(most)):
                self._stop(
                    f"The spend cap of {self._cap:g} is reached ({self.spent:.4g} spent, and the next request may cost "
                    f"{most:.2g}); what is done is kept, raise --spend-cap and run the same command to go on "
                    f"(DEITA_LLM__SPEND_CAP where there is no such option)."
                )
            self._check()
            self._open, self._reserved = self._open + 1, self._reserved + most
        try:
            yield
        finally:
            async with self._changed:
                self._open, self._reserved = self._open - 1, self._reserved - most
                self._changed.notify_all()

    async def wake(self) -> None:
        """Wake all waiting requests, and let none wait again."""
        async with self._changed:
            self._woken = True
            self._changed.notify_all()

    def _fits(self, most: float) -> bool:
        return self._cap is None or self.spent + self._reserved + most <= self._cap

"""Limits the requests in flight: few until an endpoint has answered, fewer after timeouts."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

# Requests in flight until the first answer.
FIRST = 2
# Upper bound on the answers per place before one more place is added; each timeout doubles the number.
MOST_CAUTION = 16


class Sent(NamedTuple):
    """The counters at the time a request was sent."""

    answers: int
    busy: int
    cuts: int


class InFlight:
    """Places for requests in flight, up to `most`: additive increase, multiplicative decrease.

    Until the first timeout every answer adds a place. A fast answer adds more: as many as could be answered one after
    the other in half of `timeout` seconds, which even an endpoint that answers one at a time can do.
    """

    def __init__(self, most: int, timeout: float) -> None:
        self.limit = min(most, FIRST)
        self._most, self._timeout = most, timeout
        self._busy = self._answers = self._cuts = 0
        # `_caution`: 0 before the first timeout. `_credit`: answers since the last place was added.
        self._caution = self._credit = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place, after waiting for a free one."""
        await self._acquire(first=False)
        try:
            yield
        finally:
            self._release()

    async def yield_surplus(self) -> None:
        """Release the place while more are held than the limit allows, and be first in line for the next."""
        if self._busy > self.limit:
            self._release()
            try:
                await self._acquire(first=True)
            except asyncio.CancelledError:
                # `place` will release it.
                self._busy += 1
                raise

    def sent(self) -> Sent:
        """Return the counters that `timed_out` needs later."""
        return Sent(self._answers, self._busy, self._cuts)

    def answered(self, seconds: float) -> None:
        """Record an answer that took so many seconds."""
        self._answers += 1
        if not self._caution:
            one_by_one = self._timeout / 2 / max(seconds, 1e-6)
            self._raise_to(max(self.limit + 1, int(min(one_by_one, self._most))))
            return
        self._credit += 1
        if self._credit >= self.limit * self._caution:
            self._credit = 0
            self._raise_to(self.limit + 1)

    def timed_out(self, sent: Sent) -> None:
        """Record a timeout and halve the limit.

        Ignored if more requests were answered meanwhile than were in flight: this one was lost, not queued. Also
        ignored if it was sent before the last timeout that counted: it belongs to the same overload.
        """
        if sent.cuts != self._cuts or self._answers - sent.answers >= max(sent.busy, 1):
            return
        self._cuts, self._credit = self._cuts + 1, 0
        self._caution = min(MOST_CAUTION, max(1, 2 * self._caution))
        self.limit = max(1, self.limit // 2)

    def _raise_to(self, limit: int) -> None:
        self.limit = min(self._most, limit)
        if self.limit == self._most:
            self._caution = min(self._caution, 1)
        self._wake()

    async def _acquire(self, first: bool) -> None:
        waiter = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if first else self._waiting.append)(waiter)
        self._wake()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._release()
            raise

    def _release(self) -> None:
        self._busy -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._busy < self.limit:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._busy += 1
                waiter.set_result(None)

"""Rate limits per minute, enforced by spacing requests."""

import asyncio
from time import monotonic

from deita_core.llm.stopping import Stop

BURST_SECONDS = 1.0


class Pace:
    """Schedules sends so that no window of one minute exceeds its limit.

    A generic cell rate algorithm: each send moves the next free time on by its share of a minute; up to one second's
    worth may be sent ahead. Any 60 seconds hold at most 61/60 of the limit plus the last send.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._rate = None if per_minute is None else per_minute / 60
        self._free_at = float("-inf")

    def reserve(self, amount: float, now: float) -> float:
        """Reserve `amount` and return the seconds to wait before sending it; `now` in seconds of a monotonic clock."""
        if self._rate is None:
            return 0.0
        start = max(self._free_at - BURST_SECONDS, now)
        self._free_at = max(self._free_at, now) + amount / self._rate
        return start - now

    def correct(self, amount: float) -> None:
        """Add usage beyond the reservation, or release unused capacity (negative).

        The limit per minute holds only if no reservation is waiting when this is called.
        """
        if self._rate is not None:
            self._free_at += amount / self._rate


class RateLimit:
    """The limits on requests and tokens per minute, and the waits that an endpoint asks for."""

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None, stop: Stop) -> None:
        self._requests, self._tokens = Pace(requests_per_minute), Pace(tokens_per_minute)
        self._stop, self._turn, self._paused_until = stop, asyncio.Lock(), 0.0
        # Tokens used (answers included) and characters of prompts so far: the estimate per prompt.
        self._used, self._chars = 1.0, 2.0

    async def wait_turn(self, chars: int) -> float:
        """Wait until a prompt of so many characters may be sent; returns the tokens reserved. Raises as `Stop.check`.

        One request at a time, so that no estimate is reserved before earlier answers have corrected it.
        """
        async with self._turn:
            booked, now = chars * self._used / self._chars, monotonic()
            due = now + max(self._requests.reserve(1, now), self._tokens.reserve(booked, now))
            while not self._stop.sentence and (left := max(due, self._paused_until) - monotonic()) > 0:
                await self._stop.sleep(left)
            self._stop.check()
            return booked

    def pause(self, seconds: float) -> None:
        """Send nothing for this long; a wait requested for one request applies to all."""
        self._paused_until = max(self._paused_until, monotonic() + seconds)

    def count(self, chars: int, used: float) -> None:
        """Record the tokens that a prompt of so many characters used, for later estimates."""
        self._used, self._chars = self._used + used, self._chars + chars

    def correct(self, tokens: float) -> None:
        """Add tokens beyond the reservation, or release some (negative)."""
        self._tokens.correct(tokens)

"""Limits per minute, kept by spacing what is sent."""

import asyncio
from time import monotonic

from deita_core.llm.stopping import Stop

BURST_SECONDS = 1.0


class Pace:
    """Hands out moments to send at, so that no window of a minute takes more than its limit.

    A generic cell rate algorithm: what is sent moves the next free moment on by its share of a minute, and up to a
    second's worth may be sent ahead. Any 60 seconds hold at most 61/60 of the limit and the last thing sent.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._rate = None if per_minute is None else per_minute / 60
        self._free_at = float("-inf")

    def reserve(self, amount: float, now: float) -> float:
        """Seconds to wait before sending `amount`, which is booked; `now` in seconds of any steady clock."""
        if self._rate is None:
            return 0.0
        start = max(self._free_at - BURST_SECONDS, now)
        self._free_at = max(self._free_at, now) + amount / self._rate
        return start - now

    def correct(self, amount: float) -> None:
        """Book what was used beyond the reservation, or give back what was not (negative).

        The bound on a minute holds where no reservation is still waiting for its moment when this is called.
        """
        if self._rate is not None:
            self._free_at += amount / self._rate


class RateLimit:
    """The limits per minute of requests and tokens, and the pauses that an endpoint asks for."""

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None, stop: Stop) -> None:
        self._requests, self._tokens = Pace(requests_per_minute), Pace(tokens_per_minute)
        self._stop, self._turn, self._paused_until = stop, asyncio.Lock(), 0.0
        # Tokens used for so many characters of prompts, answers included: what a booking is guessed from.
        self._used, self._chars = 1.0, 2.0

    async def wait_turn(self, chars: int) -> float:
        """Wait until a prompt of so many characters may be sent; returns the tokens booked. Raises as `Stop.check`.

        One after the other, so that nothing is booked ahead at a guess that the answers before it will correct.
        """
        async with self._turn:
            booked, now = chars * self._used / self._chars, monotonic()
            due = now + max(self._requests.reserve(1, now), self._tokens.reserve(booked, now))
            while not self._stop.sentence and (left := max(due, self._paused_until) - monotonic()) > 0:
                await self._stop.sleep(left)
            self._stop.check()
            return booked

    def pause(self, seconds: float) -> None:
        """Send nothing for so long: what an endpoint asks of one request it means for all."""
        self._paused_until = max(self._paused_until, monotonic() + seconds)

    def count(self, chars: int, used: float) -> None:
        """Take note of the tokens that a prompt of so many characters has used, for guesses to come."""
        self._used, self._chars = self._used + used, self._chars + chars

    def correct(self, tokens: float) -> None:
        """Book tokens beyond those booked before, or give them back (negative)."""
        self._tokens.correct(tokens)

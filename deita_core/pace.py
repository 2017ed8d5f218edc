"""Limits per minute, kept by spacing what is sent."""

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

"""Stops a client: on request, or because no further request would be answered."""

import asyncio
from contextlib import suppress

from deita_core.errors import LLMError


class Stop:
    """Whether a client may send; `sentence` says why it may not."""

    def __init__(self) -> None:
        self.sentence: str | None = None
        self._event = asyncio.Event()

    def wake(self) -> None:
        """End all sleeps; call it in the client's event loop."""
        self._event.set()

    def check(self) -> None:
        """Raise LLMError if the client is stopped."""
        if self.sentence:
            raise LLMError(self.sentence)

    async def sleep(self, seconds: float) -> None:
        """Sleep, but wake early when the client is stopped."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), seconds)

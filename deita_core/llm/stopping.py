"""The end of a client's sending: asked for from outside, or because no further request would be answered."""

import asyncio
from contextlib import suppress

from deita_core.errors import LLMError


class Stop:
    """Whether a client may still send; `sentence` says why it may not."""

    def __init__(self) -> None:
        self.sentence: str | None = None
        self._event = asyncio.Event()

    def wake(self) -> None:
        """End what sleeps, in the client's own loop."""
        self._event.set()

    def check(self) -> None:
        """Raise LLMError where nothing may be sent any more."""
        if self.sentence:
            raise LLMError(self.sentence)

    async def sleep(self, seconds: float) -> None:
        """Sleep, or wake as soon as all is stopped."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), seconds)

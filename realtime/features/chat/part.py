"""One part of the chat on one worker."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from realtime.core.database import Statement

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat


class Part:
    """What every part has; `chat` is the whole, where the others are."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.database = chat.services.database
        self.clock = chat.services.clock
        self.settings = chat.services.settings

    def tick(self) -> None:
        """Look at the clock. About ten times a second; it never blocks."""

    def erasure(self, room: int) -> Sequence[Statement]:
        """Return what removes all that this part keeps of the room with number `room`, which is deleted.

        Each statement takes a bounded number of rows and RETURNs something of each: it is repeated until it
        returns nothing.
        """
        return ()

    def disown(self, slots: Collection[int]) -> None:
        """Drop what is known of rooms in these slots: others own them now."""

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics, by name."""
        return {}

    async def close(self) -> None:
        """Write what is still to be written."""

"""Keeping order: moderation, retention, holds, export."""

from __future__ import annotations

from realtime.core.command import Command
from realtime.features.chat.part import Part
from realtime.features.chat.rooms.state import RoomState
from realtime.features.chat.words.draft import Draft
from realtime.ids import RoomId


class Order(Part):
    """See the module."""

    def examines(self, room: RoomId) -> bool:
        """Whether anything looks at what is sent to a room."""
        return False

    def sent(self, command: Command, id: int, draft: Draft) -> None:
        """Take note that what was examined is sent as message `id`. In the same turn; it does not wait."""

    async def examine(self, command: Command, room: RoomState, draft: Draft) -> Draft:
        """Return a draft as it may be sent, with what filters have changed.

        Raises:
            Forbidden: it may not be sent; the message says which rule it breaks.
        """
        return draft

"""Keeping order: moderation, retention, holds, export."""

from __future__ import annotations

from realtime.core.command import Command
from realtime.features.chat.part import Part
from realtime.features.chat.rooms.state import RoomState
from realtime.features.chat.words.draft import Draft


class Order(Part):
    """See the module."""

    async def examine(self, command: Command, room: RoomState, draft: Draft) -> Draft:
        """Return a draft as it may be sent, with what filters have changed.

        Raises:
            Forbidden: it may not be sent; the message says which rule it breaks.
        """
        return draft

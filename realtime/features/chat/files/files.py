"""Attachments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from realtime.core.command import Command
from realtime.features.chat.part import Part


class Files(Part):
    """See the module."""

    async def claim(self, command: Command, attachments: Sequence[str]) -> list[dict[str, Any]]:
        """Return what a message says of its attachments, by their ids, which are in use from then on.

        Raises:
            BadMessage: there is no such attachment of this sender in this room, or it is not whole yet.
        """
        return []

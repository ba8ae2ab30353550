"""The settings of the chat. Part of `Settings`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from realtime.settings_files import FilesSettings
from realtime.units import Count, Flag


class ChatSettings(FilesSettings, frozen=True, kw_only=True):
    """See `Settings`."""

    # -- chat -----------------------------------------------------------------------------------------------
    chat_open_rooms: Annotated[
        bool,
        Meta(
            description="A chat room that nobody has created is public, and there with its first message.",
            extra=Flag,
        ),
    ] = True
    chat_message_chars: Annotated[
        int, Meta(ge=1, le=40_000, description="Characters a chat message may have.", extra=Count)
    ] = 4_000

"""The settings of the chat. Part of `Settings`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from realtime.settings_security import SecuritySettings
from realtime.units import Count, Flag, Seconds, Text


class ChatSettings(SecuritySettings, frozen=True, kw_only=True):
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
    chat_typing_s: Annotated[
        float,
        Meta(ge=1, le=60, description="Who says that they type counts as typing for so long.", extra=Seconds),
    ] = 6.0
    chat_signs_interval_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=60,
            description="Least time between two signs of one user in a room: typing, reading, status.",
            extra=Seconds,
        ),
    ] = 1.0
    chat_signs_members: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000,
            description="Where more members than this are present nobody is told who types, who has read how "
            "far, and whose status has changed.",
            extra=Count,
        ),
    ] = 200
    chat_reaction_kinds: Annotated[
        int, Meta(ge=1, le=50, description="Different emoji that a message may have.", extra=Count)
    ] = 20
    chat_edits_max: Annotated[
        int, Meta(ge=0, le=1_000, description="Times that a message may be edited; 0: never.", extra=Count)
    ] = 100
    chat_edit_s: Annotated[
        int,
        Meta(
            ge=0,
            le=31_536_000,
            description="How long a message may be edited by its author; 0: always.",
            extra=Seconds,
        ),
    ] = 0
    chat_pins_max: Annotated[
        int, Meta(ge=0, le=100, description="Messages that a chat room may have pinned.", extra=Count)
    ] = 50
    chat_scheduled_max: Annotated[
        int,
        Meta(ge=0, le=1_000, description="Messages of a user that may wait to be sent later.", extra=Count),
    ] = 100
    chat_notified_max: Annotated[
        int,
        Meta(ge=0, le=1_000, description="Users who are notified of a message that calls them.", extra=Count),
    ] = 50
    chat_retention_s: Annotated[
        int,
        Meta(
            ge=0,
            le=86_400 * 36_600,
            description="How long rooms keep what is said, where they say nothing themselves. 0: for ever.",
            extra=Seconds,
        ),
    ] = 0
    chat_retention_pause_s: Annotated[
        float,
        Meta(
            gt=0,
            le=86_400,
            description="Pause between two walks over rooms for what is too old.",
            extra=Seconds,
        ),
    ] = 60.0
    chat_reports_open: Annotated[
        int,
        Meta(ge=1, le=10_000, description="Reports of one user that may wait for moderators.", extra=Count),
    ] = 20
    chat_search_forget_s: Annotated[
        float,
        Meta(
            ge=1,
            le=30 * 86_400,
            description="What was deleted stays in SQLite's search index so long, at most.",
            extra=Seconds,
        ),
    ] = 6 * 3600.0
    chat_search_lang: Annotated[
        str,
        Meta(
            pattern="^([a-z]{2})?$",
            description="The language of messages and searches whose own does not show; empty: none.",
            extra=Text,
        ),
    ] = "en"
    chat_rooms_per_user: Annotated[
        int, Meta(ge=0, le=1_000_000, description="Chat rooms that one user may create.", extra=Count)
    ] = 1_000
    chat_direct_users: Annotated[
        int, Meta(ge=2, le=100, description="Users a direct chat room may be of.", extra=Count)
    ] = 10
    chat_room_members: Annotated[
        int, Meta(ge=1, le=10_000_000, description="Members a chat room may have.", extra=Count)
    ] = 100_000
    chat_invites_waiting: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000,
            description="Invites of a chat room, and of one user, that may wait for an answer.",
            extra=Count,
        ),
    ] = 500

"""A message as its sender writes it, and what may be asked of one that is there."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

ATTACHMENTS_MAX: Final = 10
EMOJI_CHARS_MAX: Final = 34
PAGE_MAX: Final = 100
IMPORTED_MAX: Final = 100
EXPIRES_S_MAX: Final = 366 * 86_400

Id = Annotated[str, Meta(description="A message's id: 19 digits.", max_length=19)]
Lang = Annotated[
    str, Meta(pattern=r"\A[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8}){0,3}\Z", description="The language, such as `de`.")
]
Expires = Annotated[int, Meta(ge=1, le=EXPIRES_S_MAX, description="It is deleted after so many seconds.")]


class Draft(msgspec.Struct):
    """What a `chat_message` says. `chat_room_id` names the room where the envelope does not."""

    text: Annotated[str, Meta(description="What is said.")] = ""
    attachments: Annotated[
        tuple[str, ...],
        Meta(max_length=ATTACHMENTS_MAX, description="Ids of files that were uploaded for it."),
    ] = ()
    reply_to: Annotated[Id | None, Meta(description="The message that it answers.")] = None
    thread: Annotated[Id | None, Meta(description="The message that began the thread it is in.")] = None
    lang: Lang | None = None
    expires_s: Expires | None = None
    chat_room_id: Annotated[str | int | None, Meta(description="The room, in place of `room`.")] = None


class Due(msgspec.Struct):
    """What the scheduler adds to a draft: which of its own that is, what its attachments are, and whether
    its author might call `here` when it was written.
    """

    scheduled: Id
    files: list[dict[str, Any]] = []
    here: bool = False


class Edit(msgspec.Struct):
    """What a `chat_edit` says."""

    id: Id
    text: Annotated[str, Meta(description="What it says from now on.")]
    lang: Lang | None = None


class Delete(msgspec.Struct):
    """What a `chat_delete` says."""

    id: Id


class React(msgspec.Struct):
    """What a `chat_react` says."""

    id: Id
    emoji: Annotated[str, Meta(min_length=1, max_length=EMOJI_CHARS_MAX, description="An emoji, or :name:.")]
    remove: Annotated[bool, Meta(description="Take it back.")] = False


class Pin(msgspec.Struct):
    """What a `chat_pin` says."""

    id: Id
    pinned: bool = True


class History(msgspec.Struct):
    """What a `chat_history` asks for; with neither `before` nor `after` the newest."""

    before: Id | None = None
    after: Id | None = None
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = 50
    thread: Annotated[Id | None, Meta(description="Of this thread's replies alone.")] = None


class Edits(msgspec.Struct):
    """What a `chat_edits` asks for."""

    id: Id


class Nothing(msgspec.Struct):
    """A content without any keys."""


class Schedule(msgspec.Struct):
    """What a `chat_schedule` says: a message, and when it is to be sent."""

    at: Annotated[str, Meta(max_length=40, description="When: RFC 3339, such as 2026-01-31T09:00:00Z.")]
    text: str = ""
    attachments: Annotated[tuple[str, ...], Meta(max_length=ATTACHMENTS_MAX)] = ()
    reply_to: Id | None = None
    thread: Id | None = None
    lang: Lang | None = None
    expires_s: Expires | None = None


class Unschedule(msgspec.Struct):
    """What a `chat_unschedule` says."""

    id: Id


class Imported(msgspec.Struct, rename={"sender": "from"}):
    """One message of a `chat_import`. With a `key` a repeat of it, however late, is the same message."""

    sender: Annotated[str, Meta(min_length=1, max_length=128)]
    at: Annotated[str, Meta(max_length=40, description="When it was sent: RFC 3339.")]
    text: str
    key: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    lang: Lang | None = None


class Import(msgspec.Struct):
    """What a `chat_import` says."""

    messages: Annotated[list[Imported], Meta(min_length=1, max_length=IMPORTED_MAX)]

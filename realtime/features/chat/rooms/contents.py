"""What the messages of rooms say."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from realtime.errors import BadMessage
from realtime.ids import UserId, parse_user

PAGE_MAX: Final = 100
MEMBERS_AT_ONCE: Final = 100
YEARS_10_S: Final = 315_360_000

Title = Annotated[str, Meta(max_length=120, description="What the room is called.")]
Topic = Annotated[str, Meta(max_length=1000, description="What it is about.")]
User = Annotated[str, Meta(min_length=1, max_length=128, description="A user's id.")]
Word = Literal["owner", "moderator", "member", "reader"]
Limit = Annotated[int, Meta(ge=1, le=PAGE_MAX, description="How many at most.")]
After = Annotated[str, Meta(max_length=200, description="The `after` of the page before.")]
Seconds = Annotated[int, Meta(ge=1, le=YEARS_10_S, description="For how long.")]


class Nothing(msgspec.Struct):
    """A content that says nothing."""


class Create(msgspec.Struct):
    """A room that is to be. `name` is for public ones: the room is `chat:<name>`."""

    title: Title = ""
    topic: Topic = ""
    visibility: Literal["public", "private"] = "public"
    name: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    members: Annotated[
        tuple[User, ...], Meta(max_length=MEMBERS_AT_ONCE, description="Who is a member from the start.")
    ] = ()


class Direct(msgspec.Struct):
    """The room of just these users and the sender."""

    users: Annotated[tuple[User, ...], Meta(min_length=1, max_length=MEMBERS_AT_ONCE)]


class Make(msgspec.Struct):
    """What the owner of a new room is told: to make it, or, where it is nothing, to look at the tables."""

    create: Create | None = None
    keyed: bool = False
    direct: tuple[str, ...] = ()


class Update(msgspec.Struct):
    """What is to be different. `slow_s` is how long each member waits between two messages, 0 not at all;
    `retention_s` how long messages are kept, 0 for ever.
    """

    title: Title | UnsetType = UNSET
    topic: Topic | UnsetType = UNSET
    slow_s: Annotated[int, Meta(ge=0, le=86_400)] | UnsetType = UNSET
    retention_s: Annotated[int, Meta(ge=0, le=YEARS_10_S)] | UnsetType = UNSET
    visibility: Literal["public", "private"] | UnsetType = UNSET


class Archive(msgspec.Struct):
    """Whether the room takes no messages from now on."""

    archived: bool = True


class Invite(msgspec.Struct):
    """Who is asked in, and as what."""

    user: User
    role: Word = "member"


class Give(msgspec.Struct):
    """What a member is to be."""

    user: User
    role: Word


class Whom(msgspec.Struct):
    """Whom it is about."""

    user: User


class Ban(msgspec.Struct):
    """Who may not be in the room, until when (for good where that is absent), and why."""

    user: User
    for_s: Seconds | None = None
    reason: Annotated[str, Meta(max_length=300, description="What members are told.")] = ""


class Mute(msgspec.Struct):
    """Who may send nothing, for how long."""

    user: User
    for_s: Seconds


class List(msgspec.Struct):
    """Which rooms: those that have `query` in title, topic or name; `mine`: where the asker is a member."""

    query: Annotated[str, Meta(max_length=100)] = ""
    mine: bool = False
    after: After = ""
    limit: Limit = 50


class Members(msgspec.Struct):
    """Which members; `banned`: those who may not be in it, for moderators."""

    after: After = ""
    limit: Limit = PAGE_MAX
    banned: bool = False


def user_of(text: str) -> UserId:
    """Return a user's id. Raises BadMessage: it is none."""
    return parse_user(text)


def check_text(what: str, text: str | UnsetType, *, lines: bool = False) -> None:
    """Raise BadMessage where a text has what cannot be shown, or kept."""
    if text is UNSET:
        return
    # Emoji are put together with U+200D.
    shown = text.replace("\u200d", "").replace("\u00a0", "")
    if not (shown.replace("\n", "") if lines else shown).isprintable():
        raise BadMessage(f"`{what}` has characters that are not printable")


def folded(*texts: str) -> str:
    """Return what is searched of texts, in which case and form do not count."""
    return unicodedata.normalize("NFKC", "\n".join(texts)).casefold()

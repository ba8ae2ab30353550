"""The message types of this part."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import Meta

from realtime.core.command import Command
from realtime.core.feature import MessageType
from realtime.core.session import Session
from realtime.errors import BadMessage
from realtime.features.chat.asking import command, question
from realtime.ids import RoomId

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat

Id = Annotated[str, Meta(max_length=19, description="The id of the message.")]
ReportId = Annotated[str, Meta(max_length=19, description="The id of a report or an appeal.")]
Reason = Annotated[str, Meta(min_length=1, max_length=500)]
State = Literal["", "open", "dismissed", "hidden", "deleted", "banned", "restored"]


class Report(msgspec.Struct):
    """A message that moderators are to look at."""

    id: Id
    reason: Annotated[Reason, Meta(description="What is wrong with it.")]


class Page(msgspec.Struct):
    """A page of what waits for moderators."""

    state: Annotated[State, Meta(description="What became of it; empty: all.")] = "open"
    after: Annotated[ReportId, Meta(description="What follows this one.")] | None = None
    limit: Annotated[int, Meta(ge=1, le=100, description="At most so many.")] = 50


class Resolve(msgspec.Struct):
    """A decision: on a report `dismiss`, `hide`, `delete` or `ban`, on an appeal `dismiss` or `restore`."""

    report: ReportId
    verdict: Annotated[
        Literal["dismiss", "hide", "delete", "ban", "restore"], Meta(description="What is decided.")
    ]


class Hide(msgspec.Struct):
    """A message that members are to see no more, or again."""

    id: Id
    hidden: Annotated[bool, Meta(description="False: it is shown again.")] = True


class Appeal(msgspec.Struct):
    """Why a message of one's own should not be hidden."""

    id: Id
    text: Annotated[Reason, Meta(description="Why it should be shown again.")]


def _report(chat: Chat, session: Session, room: RoomId | None, asked: Report) -> Awaitable[object]:
    return chat.order.queue.report(session, _given(room), asked.id, asked.reason)


def _reports(chat: Chat, session: Session, room: RoomId | None, asked: Page) -> Awaitable[object]:
    return chat.order.queue.page(
        session, _given(room), appeals=False, state=asked.state, after=asked.after, limit=asked.limit
    )


def _appeal(chat: Chat, session: Session, room: RoomId | None, asked: Appeal) -> Awaitable[object]:
    return chat.order.queue.appeal(session, _given(room), asked.id, asked.text)


def _appeals(chat: Chat, session: Session, room: RoomId | None, asked: Page) -> Awaitable[object]:
    return chat.order.queue.page(
        session, _given(room), appeals=True, state=asked.state, after=asked.after, limit=asked.limit
    )


def _resolve(chat: Chat, given: Command, asked: Resolve) -> Awaitable[object]:
    return chat.order.queue.resolve(given, asked.report, asked.verdict)


def _hide(chat: Chat, given: Command, asked: Hide) -> Awaitable[object]:
    return chat.order.queue.hide(given, asked.id, asked.hidden)


def _given(room: RoomId | None) -> RoomId:
    if room is None:
        raise BadMessage("which room? Name it as `room`")
    return room


# Who moderates by the policy need not be a member, nor whoever appeals: they may have been banned.
MESSAGES: Final[tuple[MessageType, ...]] = (
    question("chat_report", Report, _report),
    question("chat_reports", Page, _reports),
    question("chat_appeal", Appeal, _appeal),
    question("chat_appeals", Page, _appeals),
    command("chat_resolve", Resolve, _resolve, from_outside=True),
    command("chat_hide", Hide, _hide, from_outside=True),
)
PERMISSIONS: Final[tuple[str, ...]] = ()

"""The message types of this part."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

import msgspec

from realtime.core.contents import decode
from realtime.core.core import Core
from realtime.core.feature import MessageType
from realtime.core.session import Session
from realtime.features.chat.asking import Answer, answered, chat_of, chat_room, command, question
from realtime.features.chat.rooms import contents, manage, members, powers
from realtime.features.chat.rooms.changing import MAKE
from realtime.features.chat.rooms.contents import Nothing
from realtime.ids import RoomId
from realtime.native.message import Envelope

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat

_creates = msgspec.json.Decoder(contents.Create)


def _create(core: Core, session: Session, message: Envelope) -> Awaitable[None]:
    """As `asking.question`, with the `key`."""
    room = None if message.room is None else chat_room(session.tenant.id, message.room)
    asked = decode(_creates, message.content)
    return answered(session, message, room, manage.create(chat_of(core), session, room, asked, message.key))


async def _room(chat: Chat, session: Session, room: RoomId | None, asked: Nothing) -> Answer:
    return await chat.rooms.lists.room(session, room)


async def _rooms(chat: Chat, session: Session, room: RoomId | None, asked: contents.List) -> Answer:
    return await chat.rooms.lists.rooms(session, asked)


async def _members(chat: Chat, session: Session, room: RoomId | None, asked: contents.Members) -> Answer:
    return await chat.rooms.lists.members(session, room, asked)


async def _invites(chat: Chat, session: Session, room: RoomId | None, asked: Nothing) -> Answer:
    return await chat.rooms.lists.invites(session)


# All commands may come from outside of their room: to be a member is not to have joined, and its owner tells
# who may not be in a room the same as of one that there is not.
MESSAGES: Final[tuple[MessageType, ...]] = (
    MessageType(name="chat_room_create", content=contents.Create, handler=_create),
    question("chat_direct", contents.Direct, manage.direct),
    question("chat_room", Nothing, _room),
    question("chat_rooms", contents.List, _rooms),
    question("chat_members", contents.Members, _members),
    question("chat_invites", Nothing, _invites),
    command("chat_room_update", contents.Update, manage.update, from_outside=True),
    command("chat_room_archive", contents.Archive, manage.archive, from_outside=True),
    command("chat_room_delete", Nothing, manage.delete, from_outside=True),
    command("chat_invite", contents.Invite, members.invite, from_outside=True),
    command("chat_accept", Nothing, members.accept, from_outside=True),
    command("chat_decline", Nothing, members.decline, from_outside=True),
    command("chat_enter", Nothing, members.enter, from_outside=True),
    command("chat_quit", Nothing, members.leave, from_outside=True),
    command("chat_role", contents.Give, members.give, from_outside=True),
    command("chat_remove", contents.Whom, members.remove, from_outside=True),
    command("chat_ban", contents.Ban, members.ban, from_outside=True),
    command("chat_unban", contents.Whom, members.unban, from_outside=True),
    command("chat_mute", contents.Mute, members.mute, from_outside=True),
    command("chat_unmute", contents.Whom, members.unmute, from_outside=True),
    # No kind of rooms takes it of a client: only the server orders it.
    MessageType(name=MAKE, owner=manage.on_make),
)
PERMISSIONS: Final[tuple[str, ...]] = powers.PERMISSIONS

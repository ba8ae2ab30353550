"""How commands and questions are declared: what their content is, and what answers them as the `ack`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from realtime.core.auth import Identity
from realtime.core.command import Command
from realtime.core.contents import decode
from realtime.core.core import Core
from realtime.core.feature import MessageType
from realtime.core.session import Session
from realtime.errors import BadMessage
from realtime.features.chat.rules import KIND
from realtime.ids import RoomId, RoomName, TenantId, parse_room
from realtime.native.encode import encode_reply, json_string
from realtime.native.message import Envelope

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat

Content = TypeVar("Content")
ROOMS: Final = frozenset({KIND})

Ask = Callable[["Chat", Session, "RoomId | None", Content], Awaitable[object]]
"""(chat, who, the room of the envelope or None, content) -> the content of the answer."""
Do = Callable[["Chat", Command, Content], Awaitable[object]]
"""The same at the room's owner."""


def chat_of(core: Core) -> Chat:
    """Return the chat that runs on a worker."""
    return core.running["chat"]  # type: ignore[return-value]


def question(name: str, content: type[Content], ask: Ask[Content]) -> MessageType:
    """Declare what is answered where it is asked, whether or not the asker has joined the room."""
    decoder = msgspec.json.Decoder(content)

    def handle(core: Core, session: Session, message: Envelope) -> Awaitable[None]:
        room = None
        if message.room is not None:
            room = chat_room(session.tenant.id, message.room)
        asked = decode(decoder, message.content)
        return answered(session, message, room, ask(chat_of(core), session, room, asked))

    return MessageType(name=name, content=content, handler=handle)


def command(
    name: str, content: type[Content], do: Do[Content], *, from_outside: bool = False, plain: bool = False
) -> MessageType:
    """Declare what runs at the owner of its room. Whoever sends it has joined the room, unless
    `from_outside`.
    """
    decoder = msgspec.json.Decoder(content)

    async def handle(core: Core, given: Command) -> bytes:
        found = await do(chat_of(core), given, decode(decoder, given.content))
        return msgspec.json.encode(found)

    return MessageType(
        name=name, kinds=ROOMS, content=content, owner=handle, from_outside=from_outside, plain=plain
    )


def chat_room(tenant: TenantId, name: str) -> RoomId:
    """Return a room of the chat by its name. Raises BadMessage: it is none."""
    found = parse_room(name)
    if not found.startswith(f"{KIND}:"):
        raise BadMessage(f"room {name[:64]!r} is no chat room: those are {KIND}:id")
    return RoomId(tenant, RoomName(found))


async def answered(
    session: Session, message: Envelope, room: RoomId | None, answer: Awaitable[object]
) -> None:
    """Send what a question is answered, when it is there."""
    found = await answer
    if message.id is not None:
        named = None if room is None else json_string(room.room)
        session.send(encode_reply("ack", message.id, named, msgspec.json.encode(found)))


def identity_of(session: Session) -> Identity:
    """Return who asks."""
    assert session.identity is not None  # nobody's sessions have no handlers
    return session.identity


Answer = dict[str, Any]

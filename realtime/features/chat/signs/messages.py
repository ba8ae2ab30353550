"""The message types of this part."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from realtime.core.contents import decode
from realtime.core.core import Core
from realtime.core.feature import MessageType
from realtime.core.session import Session
from realtime.errors import BadMessage
from realtime.features.chat.asking import Answer, chat_of, identity_of, question
from realtime.features.chat.chat import Chat
from realtime.features.chat.signs.people import Status, shown_to_self
from realtime.features.chat.signs.typing import Typing as TypingThere
from realtime.features.chat.words.messages import EVERYWHERE
from realtime.ids import RoomId, UserId
from realtime.native.encode import encode_reply
from realtime.native.message import Envelope

STATUS_CHARS_MAX: Final = 140
USERS_MAX: Final = 100

_Room = Annotated[str | int | None, Meta(description="The room, in place of `room`.")]


class Typing(msgspec.Struct):
    """Says that its sender types, or types no more."""

    typing: Annotated[bool, Meta(description="False where they stop before it ends by itself.")] = True
    chat_room_id: _Room = None


class ReadReceipt(msgspec.Struct):
    """Says up to which message its sender has read: by its id, or its offset."""

    id: Annotated[str | None, Meta(description="Of the message.")] = None
    offset: Annotated[
        Annotated[int, Meta(ge=0, le=2**53)] | None,
        Meta(description="Of the message, in place of `id`."),
    ] = None
    chat_room_id: _Room = None


class Presence(msgspec.Struct):
    """What its sender says of themselves, on all their devices and until they say something else."""

    status: Annotated[Status, Meta(description="Who is invisible looks as if gone.")]
    text: Annotated[
        str, Meta(max_length=STATUS_CHARS_MAX, description="In a few words, for as long as it is seen.")
    ] = ""


class PresenceOf(msgspec.Struct):
    """Asks for the presence of users; answered of those with whom the asker shares a room."""

    users: Annotated[tuple[str, ...], Meta(max_length=USERS_MAX, description="Their ids.")]


class Unread(msgspec.Struct):
    """Asks for what is unread, in all rooms."""


_typing = msgspec.json.Decoder(Typing)
_receipt = msgspec.json.Decoder(ReadReceipt)
_presence = msgspec.json.Decoder(Presence)


def _on_typing(core: Core, session: Session, message: Envelope) -> Awaitable[None] | None:
    if core.membership.is_end_to_end(session, message):
        core.signal_as_sent(session, message)  # sealed: nobody reads it here
        return None
    said = decode(_typing, message.content or b"{}")
    identity = identity_of(session)
    signs = chat_of(core).signs
    silent = signs.presence.is_silent(identity.tenant, identity.user)
    if not isinstance(silent, bool):
        return _type_later(signs.typing, session, message, silent, typing=said.typing)
    signs.typing.say(session, message, typing=said.typing, silent=silent)
    return None


async def _type_later(
    typing_there: TypingThere, session: Session, message: Envelope, silent: Awaitable[bool], *, typing: bool
) -> None:
    typing_there.say(session, message, typing=typing, silent=await silent)


def _on_receipt(core: Core, session: Session, message: Envelope) -> Awaitable[None] | None:
    if core.membership.is_end_to_end(session, message):
        return core.publish(session, message)  # sealed: nobody reads it here
    said = decode(_receipt, message.content)
    return chat_of(core).signs.reading.read(session, message, id=said.id, offset=said.offset)


async def _on_presence(core: Core, session: Session, message: Envelope) -> None:
    wanted = decode(_presence, message.content)
    if "\0" in wanted.text:
        raise BadMessage("a status may not have U+0000 in its text")
    identity = identity_of(session)
    kept = chat_of(core).signs.presence.set((identity.tenant, identity.user), wanted.status, wanted.text)
    content = msgspec.json.encode(shown_to_self(await kept))
    if message.id is not None:
        session.send(encode_reply("ack", message.id, None, content))


async def _of(chat: Chat, session: Session, room: RoomId | None, asked: PresenceOf) -> Answer:
    # PostgreSQL reads no U+0000 in JSON; no user has it in their id.
    users = [UserId(user) for user in dict.fromkeys(asked.users) if "\0" not in user]
    return {"users": await chat.signs.presence.seen_by(session, users)}


async def _unread(chat: Chat, session: Session, room: RoomId | None, asked: Unread) -> Answer:
    return await chat.signs.unread(session)


# That somebody types is of use to who is there, and untrue to whoever reads it later. Kept, each would cost a
# durable room a row on the disk, and its history would be full of them.
MESSAGES: Final[tuple[MessageType, ...]] = (
    MessageType(
        name="chat_typing",
        kinds=EVERYWHERE,
        content=Typing,
        handler=_on_typing,
        ephemeral=True,
        plain=True,
    ),
    MessageType(
        name="chat_read_receipt", kinds=EVERYWHERE, content=ReadReceipt, handler=_on_receipt, plain=True
    ),
    MessageType(name="chat_presence", kinds=EVERYWHERE, content=Presence, handler=_on_presence, plain=True),
    question("chat_presence_of", PresenceOf, _of),
    question("chat_unread", Unread, _unread),
)

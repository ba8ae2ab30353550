"""The message types of this part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from realtime.core.feature import MessageType
from realtime.core.session import Session
from realtime.features.chat.asking import Answer, question
from realtime.ids import RoomId

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat


class Upload(msgspec.Struct):
    """A file that is to be uploaded; or with `id` one that was begun, whose URL is wanted anew."""

    name: Annotated[str, Meta(max_length=1024, description="What the file is called.")] = ""
    bytes: Annotated[int, Meta(ge=0, description="How many bytes it has.")] = 0
    type: Annotated[
        str, Meta(max_length=255, description="What the client takes it for; the server looks for itself.")
    ] = ""
    sha256: Annotated[
        str, Meta(pattern="^([0-9a-f]{64})?$", description="The hash that its bytes have to have, in hex.")
    ] = ""
    id: Annotated[
        str, Meta(max_length=19, description="Of an upload of one's own that is not whole yet.")
    ] = ""


class Attachment(msgspec.Struct):
    """Which file is to be read."""

    id: Annotated[str, Meta(max_length=64, description="As the message names it.")]


async def _upload(chat: Chat, session: Session, room: RoomId | None, asked: Upload) -> Answer:
    if asked.id:
        return await chat.files.resume(session, room, asked.id)
    return await chat.files.begin(session, room, asked.name, asked.bytes, asked.sha256)


async def _attachment(chat: Chat, session: Session, room: RoomId | None, asked: Attachment) -> Answer:
    return await chat.files.link(session, asked.id)


MESSAGES: Final[tuple[MessageType, ...]] = (
    question("chat_upload", Upload, _upload),
    question("chat_attachment", Attachment, _attachment),
)
PERMISSIONS: Final[tuple[str, ...]] = ()

"""Messages: sent, edited, answered, and what became of them."""

from __future__ import annotations

from typing import Any

import msgspec

from realtime.core.command import Command
from realtime.core.contents import decode
from realtime.errors import BadMessage
from realtime.features.chat import ids
from realtime.features.chat.part import Part
from realtime.features.chat.rooms.state import check_send
from realtime.features.chat.words.draft import Draft
from realtime.features.chat.words.shown import Row, columns
from realtime.ids import RoomId, UserId

MESSAGE = "chat_message"

_drafts = msgspec.json.Decoder(Draft)


class Words(Part):
    """What is said in rooms that this worker owns."""

    async def send(self, command: Command) -> dict[str, Any]:
        """Publish a message and return its place: the owner's handler of `chat_message`."""
        now_ms = self.chat.rooms.now_ms
        async with self.chat.rooms.turn(command.room) as owned:
            standing = await self.chat.rooms.standing(command.room, command.identity.user)
            if not command.trusted:
                check_send(owned.room, standing, now_ms)
            if self.chat.core.rules.of(command.room).end_to_end:
                content, id = command.content, None  # sealed: nobody reads it here
            else:
                draft = await self.chat.order.examine(command, owned.room, decode(_drafts, command.content))
                files = await self.chat.files.claim(command, draft.attachments)
                id = self.chat.ids.new(now_ms)
                content = self._composed(draft, files, id)
            receipt = command.publish(MESSAGE, content, key=command.key)
            if id is not None:
                self.chat.order.sent(command, id, draft)
            standing.sent_ms = now_ms
        offset, epoch, duplicate = receipt if isinstance(receipt, tuple) else await receipt
        answer: dict[str, Any] = {"offset": offset, "epoch": epoch.decode()}
        if duplicate:
            return answer | {"duplicate": True}
        return answer if id is None else answer | {"id": ids.text_of(id)}

    async def find(self, room: RoomId, id: int, user: UserId = UserId("")) -> Row | None:
        """Return a message of `room` as its table has it, deleted and hidden ones too; None where there is
        none. What is `mine` of its reactions is `user`'s.
        """
        found = await self.database.read(
            f"SELECT {columns(self.database.dialect, '$4')} FROM rooms r JOIN chat_messages m ON m.room = r.id "
            "WHERE r.tenant = $1 AND r.name = $2 AND m.id = $3",
            room.tenant,
            room.room,
            id,
            user,
        )
        return Row(*found[0]) if found else None

    def _composed(self, draft: Draft, files: list[dict[str, Any]], id: int) -> bytes:
        limit = self.settings.chat_message_chars
        if len(draft.text) > limit:
            raise BadMessage(f"a message has {len(draft.text)} characters; {limit} are taken")
        if "\0" in draft.text:
            raise BadMessage("a message may not have U+0000 in its text")
        composed: dict[str, Any] = {"id": ids.text_of(id), "text": draft.text}
        return msgspec.json.encode(composed | ({"attachments": files} if files else {}))

"""Messages of elsewhere, with who sent them and when: what moves to us brings its history along.

One that has a key has its id by that: a repeat of it, however late, finds itself and is left out.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from realtime.core.command import Command
from realtime.core.personal import stamp
from realtime.core.sealed import refuse_reader
from realtime.errors import BadMessage, Forbidden, Unavailable
from realtime.features.chat import ids
from realtime.features.chat.acts import record
from realtime.features.chat.words import said as saying
from realtime.features.chat.words.draft import Draft, Import, Imported
from realtime.features.chat.words.said import check_text, say
from realtime.features.chat.words.times import read_time
from realtime.ids import RoomId, parse_user
from realtime.native.encode import json_string

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat

IMPORT: Final = "chat_import"
"""The permission, which only a rule that names it grants: whoever has it says things in others' names."""
ROUNDS: Final = 20
# The lower half of what one millisecond has is for `Ids.new`.
_KEYED: Final = 1 << ids.RANDOM_BITS - 1


class Importer:
    """The owner's handler of `chat_import`."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self.imported = 0

    async def take(self, command: Command, asked: Import) -> dict[str, Any]:
        """Publish messages as they were sent elsewhere, and return their ids, in their order.

        Raises:
            Forbidden: no rule of the policy grants the sender `chat_import` by name.
            BadMessage: one of them will not do; then none is taken.
        """
        room, identity = command.room, command.identity
        if not command.trusted and not self._chat.core.access.grants(identity, IMPORT, room.room):
            record(self._chat.core, identity, IMPORT, room.room, denied=True)
            raise Forbidden(
                f"to import takes the permission {IMPORT!r}, by a rule of the policy that names it"
            )
        flags = self._chat.core.rules.of(room)
        if flags.end_to_end or flags.encrypted:
            raise refuse_reader("import")
        times = self._checked(asked)
        async with self._chat.rooms.turn(room):
            found = await self._ids(room, asked.messages, times)
            receipts = [
                self._publish(command, each, id, at_ms)
                for each, (id, there), at_ms in zip(asked.messages, found, times, strict=True)
                if not there
            ]
        for receipt in receipts:
            if not isinstance(receipt, tuple):
                await receipt
        self.imported += len(receipts)
        return {"ids": [ids.text_of(id) for id, _ in found]}

    def _checked(self, asked: Import) -> list[int]:
        """Return when each was sent."""
        now_ms, limit = self._chat.rooms.now_ms, self._chat.services.settings.chat_message_chars
        times = []
        for place, each in enumerate(asked.messages):
            try:
                parse_user(each.sender)
                check_text(each.text, limit)
                at_ms = read_time("at", each.at)
                if not ids.AT_MS_MIN <= at_ms <= now_ms:
                    raise BadMessage("`at` has to be between 1986 and now")
            except BadMessage as error:
                raise BadMessage(f"messages[{place}]: {error.message}") from error
            times.append(at_ms)
        return times

    def _publish(self, command: Command, each: Imported, id: int, at_ms: int) -> Any:
        lang = each.lang.lower() if each.lang else self._chat.search.language(each.text)
        said = say(Draft(text=each.text), ids.text_of(id), lang, (), may_call=False)
        said.sent_at = stamp(at_ms)
        content = saying.encode(said)
        return command.publish("chat_message", content, sender=json_string(each.sender), key=each.key)

    async def _ids(self, room: RoomId, messages: list[Imported], times: list[int]) -> list[tuple[int, bool]]:
        """Return the id of each, and whether it is there already."""
        found: dict[int, tuple[int, bool]] = {}
        taken: set[int] = set()
        open_places = {
            place: _first_id(room, each, at_ms) or self._chat.ids.new(at_ms)
            for place, (each, at_ms) in enumerate(zip(messages, times, strict=True))
        }
        for _ in range(ROUNDS):
            there = await self._there(room, list(open_places.values()))
            again: dict[int, int] = {}
            for place, id in open_places.items():
                each = messages[place]
                if id in there and each.key is not None and there[id] in (None, (each.sender, each.text)):
                    found[place] = id, True
                elif id in there or id in taken:
                    again[place] = self._chat.ids.new(times[place]) if each.key is None else _after(id)
                else:
                    taken.add(id)
                    found[place] = id, False
            open_places = again
            if not open_places:
                return [found[place] for place in range(len(messages))]
        raise Unavailable("too many messages of one moment", retry_after_s=1.0)

    async def _there(self, room: RoomId, wanted: list[int]) -> dict[int, tuple[str | None, str] | None]:
        """Return who said what, of those ids that are taken; None of what has changed since."""
        database = self._chat.services.database
        listed = ",".join(map(str, wanted))
        # With SQLite an id is one message's, whatever its room.
        of_room = "" if database.dialect == "sqlite" else "AND r.tenant = $1 AND r.name = $2"
        rows = await database.read(
            "SELECT m.id AS id, m.sender AS sender, m.text AS text, CASE WHEN r.tenant = $1 AND r.name = $2 "
            "THEN 1 ELSE 0 END AS ours, m.edited_ms + m.deleted_ms + m.hidden_ms AS changed "
            f"FROM chat_messages m JOIN rooms r ON r.id = m.room WHERE m.id IN ({listed}) {of_room}",
            *room,
        )
        return {
            id: ((sender, text) if not changed else None) if ours else ("", "")
            for id, sender, text, ours, changed in rows
        }


def _first_id(room: RoomId, each: Imported, at_ms: int) -> int | None:
    if each.key is None:
        return None
    told = "\0".join((*room, each.sender, each.key)).encode()
    part = int.from_bytes(hashlib.blake2b(told, digest_size=4).digest()) & (_KEYED - 1)
    return at_ms << ids.RANDOM_BITS | _KEYED | part


def _after(id: int) -> int:
    """The next one that keyed messages of the same millisecond have, round and round."""
    return (id & ~(_KEYED - 1)) | (id + 1 & (_KEYED - 1))

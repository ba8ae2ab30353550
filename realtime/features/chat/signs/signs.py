"""Signs of life: typing, reading, presence."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

from realtime.core.database import Statement
from realtime.core.session import Session
from realtime.features.chat.asking import identity_of
from realtime.features.chat.ids import text_of
from realtime.features.chat.part import Part
from realtime.features.chat.signs.positions import COUNTED_MAX, ROOMS_MAX, unread
from realtime.features.chat.signs.presence import Presence
from realtime.features.chat.signs.reading import Reading
from realtime.features.chat.signs.typing import Typing
from realtime.ids import RoomId, RoomName, UserId

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat


ERASED_AT_ONCE: Final = 1_000


class Signs(Part):
    """The parts of this part, and what has not been read."""

    def __init__(self, chat: Chat) -> None:
        super().__init__(chat)
        settings, services = self.settings, chat.services
        interval_s, members_max = settings.chat_signs_interval_s, settings.chat_signs_members
        self.typing = Typing(
            chat.core,
            self.clock,
            typing_s=settings.chat_typing_s,
            interval_s=interval_s,
            members_max=members_max,
        )
        self.presence = Presence(
            chat.core,
            self.database,
            self.clock,
            services.spawn,
            interval_s=interval_s,
            grace_s=settings.presence_grace_s,
            members_max=members_max,
        )
        self.reading = Reading(
            chat.core,
            self.database,
            self.clock,
            services.spawn,
            interval_s=interval_s,
            members_max=members_max,
            is_silent=lambda room, user: self.presence.is_silent(room.tenant, user),
        )

    def said(self, room: RoomId, user: UserId) -> None:
        """A user has sent a message to a room that this worker owns: they have done typing."""
        self.typing.end(room, user)

    async def unread(self, session: Session) -> dict[str, Any]:
        """Return what the asker has not read, in all rooms that they may read: members of them, and those
        that nobody has created where they have read something.

        Raises:
            Unavailable: the store gives no answer.
        """
        identity = identity_of(session)
        rows = await self.database.read(
            unread(self.database.dialect),
            identity.tenant,
            identity.user,
            self.chat.rooms.now_ms,
            int(self.settings.chat_open_rooms),
        )
        rooms = [
            self._shown(RoomId(identity.tenant, RoomName(name)), *counts)
            for name, *counts in rows[:ROOMS_MAX]
            if self.chat.may_read(session, RoomId(identity.tenant, RoomName(name)))
        ]
        return {"rooms": rooms, "more": len(rows) > ROOMS_MAX}

    def _shown(
        self, room: RoomId, read_id: int, place: int, last_id: int, last: int, count: int, mentions: int
    ) -> dict[str, Any]:
        if self.chat.core.rules.of(room).encrypted:  # messages cannot be told from the rest
            count = min(max(0, last - place), COUNTED_MAX)
        return {
            "room": room.room,
            "unread": count,
            "mentions": mentions,
            "read_id": text_of(read_id) if read_id else None,
            "last_id": text_of(last_id) if last_id else None,
            "offset": place,
            "last_offset": last,
        }

    def tick(self) -> None:
        """As `Part.tick`."""
        self.typing.tick()
        self.reading.tick()
        self.presence.tick()

    def erasure(self, room: int) -> Sequence[Statement]:
        """As `Part.erasure`."""
        return (
            Statement(
                "DELETE FROM chat_reads WHERE room = $1 AND user_id IN "
                f"(SELECT user_id FROM chat_reads WHERE room = $1 LIMIT {ERASED_AT_ONCE}) RETURNING user_id",
                (room,),
            ),
        )

    def disown(self, slots: Collection[int]) -> None:
        """As `Part.disown`."""
        self.typing.disown(slots)

    def stats(self) -> dict[str, int]:
        """As `Part.stats`."""
        return {
            "chat_typists": self.typing.typists,
            "chat_people": len(self.presence),
            "chat_reads_waiting": len(self.reading),
            "chat_reads_total": self.reading.written,
        }

    async def settle(self) -> None:
        """Write now what is gathered: acks wait for it."""
        await self.reading.settle()
        await self.presence.settle()

    async def close(self) -> None:
        """As `Part.close`."""
        await self.reading.settle()
        await self.presence.close()

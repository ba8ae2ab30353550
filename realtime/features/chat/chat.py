"""The chat on one worker: its parts, and what the core asks of a feature that runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import msgspec

from realtime.core.services import Gate, Services
from realtime.core.session import Session
from realtime.features.chat.files.files import Files
from realtime.features.chat.ids import Ids
from realtime.features.chat.order.order import Order
from realtime.features.chat.part import Part
from realtime.features.chat.rooms.rooms import Rooms
from realtime.features.chat.rules import KIND
from realtime.features.chat.search.search import Search
from realtime.features.chat.signs.presence import PresenceState
from realtime.features.chat.signs.signs import Signs
from realtime.features.chat.words.words import Words
from realtime.ids import RoomId
from realtime.policy import Policy

if TYPE_CHECKING:
    from realtime.core.core import Core


class Chat:
    """A `Running`. Each part is one folder: rooms and members, words (messages), signs (typing, reading,
    presence), search, files, and order (moderation and what the law asks for).
    """

    def __init__(self, core: Core, services: Services) -> None:
        self.core = core
        self.services = services
        self.ids = Ids()
        self.rooms = Rooms(self)
        self.words: Words = Words(self)
        self.signs = Signs(self)
        self.search = Search(self)
        self.files = Files(self)
        self.order = Order(self)
        self.parts: tuple[Part, ...] = (
            self.rooms,
            self.words,
            self.signs,
            self.search,
            self.files,
            self.order,
        )

    def may_read(self, session: Session, room: RoomId) -> bool:
        """Whether the policy, and a room token where one is needed, let a session read a room's history;
        whether it may be in the room is another question (`Rooms.admits`, `rooms.readable`).
        """
        kind = self.core.catalog.kinds[KIND]
        return self.core.membership.rights_in(session, kind, room.room).history

    @property
    def gates(self) -> Mapping[str, Gate]:
        """Who may be in chat rooms."""
        return {KIND: self.rooms.admits}

    def prepare(self, policy: Policy) -> Callable[[], None]:
        """As `Running.prepare`."""
        return self.order.prepare(policy)

    def tick(self) -> None:
        """As `Running.tick`."""
        for part in self.parts:
            part.tick()

    def stats(self) -> dict[str, int]:
        """As `Running.stats`."""
        return {name: value for part in self.parts for name, value in part.stats().items()}

    async def settle(self) -> None:
        """As `core.handover.HandsOver.settle`."""
        await self.signs.settle()

    def export(self) -> bytes:
        """As `HandsOver.export`: who is here as what. All else is in the tables, or soon said again."""
        return msgspec.msgpack.encode(self.signs.presence.export())

    def adopt(self, state: bytes) -> None:
        """As `HandsOver.adopt`."""
        self.signs.presence.adopt(msgspec.msgpack.decode(state, type=PresenceState))

    async def close(self) -> None:
        """As `Running.close`."""
        for part in self.parts:
            await part.close()

    @staticmethod
    def on_disown(core: Core, slots: Collection[int]) -> None:
        """Drop what is known of rooms that other workers own now."""
        running = core.running.get("chat")
        if isinstance(running, Chat):
            for part in running.parts:
                part.disown(slots)

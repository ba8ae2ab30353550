"""The gates that are open to joins: by the kind of a room, what a feature keeps of who may be in it.

A gate is asked and answers later, and what it looked at may change before whoever asked is in the room. So
each question stays open until then, and a review (`core.admission`) of its room makes its answer old.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from realtime.ids import RoomId, UserId

if TYPE_CHECKING:
    from realtime.core.auth import Identity
    from realtime.core.services import Gate


class Passage:
    """One user's way through the gate of one room."""

    __slots__ = ("_gate", "identity", "old", "room")

    def __init__(self, gate: Gate, identity: Identity, room: RoomId) -> None:
        self._gate = gate
        self.identity = identity
        self.room = room
        self.old = True  # what the gate said last holds no longer, or it has said nothing

    async def admits(self) -> bool:
        """Return what the gate says now: asked anew where a review came in between."""
        while True:
            self.old = False
            admitted = await self._gate(self.identity, self.room)
            if not self.old:
                return admitted


class Gates:
    """All gates, and the passages that are under way."""

    def __init__(self) -> None:
        self._gates: dict[str, Gate] = {}
        self._passages: dict[RoomId, set[Passage]] = {}

    def __len__(self) -> int:
        """In how many rooms somebody is on the way through a gate."""
        return len(self._passages)

    def add(self, kind: str, gate: Gate) -> None:
        """Ask `gate` about all rooms of a kind. ValueError where there is one already: a mistake of ours."""
        if kind in self._gates:
            raise ValueError(f"rooms of kind {kind!r} have a gate already")
        self._gates[kind] = gate

    def has(self, room: str) -> bool:
        """Whether a room, by its name, has a gate."""
        return bool(self._gates) and room.partition(":")[0] in self._gates

    @contextmanager
    def passage(self, identity: Identity, room: RoomId) -> Iterator[Passage]:
        """Give the way through a room's gate, which there is, for as long as its answer has to hold."""
        passage = Passage(self._gates[room.room.partition(":")[0]], identity, room)
        passages = self._passages.setdefault(room, set())
        passages.add(passage)
        try:
            yield passage
        finally:
            passages.discard(passage)
            if not passages and self._passages.get(room) is passages:
                del self._passages[room]

    def review(self, room: RoomId, user: UserId | None) -> None:
        """Let no answer hold that was given about a room, or about `user` there, until now."""
        for passage in self._passages.get(room, ()):
            if user is None or passage.identity.user == user:
                passage.old = True

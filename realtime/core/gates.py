"""The gates that are open to joins: by the kind of a room, what a feature keeps of who may be in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realtime.ids import RoomId

if TYPE_CHECKING:
    from realtime.core.auth import Identity
    from realtime.core.services import Gate


class Gates:
    """All gates. `turn` counts the reviews (`core.admission`): an answer from before one is old."""

    def __init__(self) -> None:
        self._gates: dict[str, Gate] = {}
        self.turn = 0

    def add(self, kind: str, gate: Gate) -> None:
        """Ask `gate` about all rooms of a kind. ValueError where there is one already: a mistake of ours."""
        if kind in self._gates:
            raise ValueError(f"rooms of kind {kind!r} have a gate already")
        self._gates[kind] = gate

    def of(self, room: str) -> Gate | None:
        """Return the gate of a room by its name, None where there is none."""
        return self._gates.get(room.partition(":")[0]) if self._gates else None

    async def admits(self, gate: Gate, identity: Identity, room: RoomId) -> bool:
        """Return what the gate says now: asked anew while a review went on in between."""
        while True:
            turn = self.turn
            admitted = await gate(identity, room)
            if turn == self.turn:
                return admitted

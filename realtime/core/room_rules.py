"""What the policy says of rooms by their names: private, encrypted, end to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from realtime.core.patterns import matcher
from realtime.ids import RoomId
from realtime.policy import RoomRule

REMEMBERED_MAX: Final = 50_000


class RoomFlags(NamedTuple):
    """What holds for one room; see `policy.RoomRule`."""

    private: bool = False
    encrypted: bool = False
    end_to_end: bool = False


NO_FLAGS: Final = RoomFlags()


class RoomRules:
    """Finds the flags of rooms. One object for the life of a worker, whose rules may change."""

    def __init__(self, rules: Sequence[RoomRule] = ()) -> None:
        self._remembered: dict[RoomId, RoomFlags] = {}
        self._rules: list[tuple[Callable[[str], bool], Callable[[str], bool], RoomFlags]] = []
        self.replace(rules)

    def replace(self, rules: Sequence[RoomRule]) -> None:
        """Let other rules hold from now on."""
        self._rules = [
            (
                matcher(rule.tenants),
                matcher(rule.rooms),
                RoomFlags(rule.private, rule.encrypted, rule.end_to_end),
            )
            for rule in rules
        ]
        self._remembered.clear()

    @property
    def any(self) -> bool:
        """Whether there are rules at all."""
        return bool(self._rules)

    @property
    def any_encrypted(self) -> bool:
        """Whether there may be rooms that are encrypted, at rest or end to end."""
        return any(flags.encrypted or flags.end_to_end for _, _, flags in self._rules)

    def of(self, room: RoomId) -> RoomFlags:
        """Return the flags of `room`: of all rules that speak of it together."""
        if not self._rules:
            return NO_FLAGS
        flags = self._remembered.get(room)
        if flags is None:
            if len(self._remembered) >= REMEMBERED_MAX:
                self._remembered.clear()
            flags = self._remembered[room] = self._find(room)
        return flags

    def _find(self, room: RoomId) -> RoomFlags:
        found = [flags for tenants, rooms, flags in self._rules if tenants(room.tenant) and rooms(room.room)]
        return RoomFlags(*(any(each) for each in zip(*found, strict=True))) if found else NO_FLAGS

"""Who is connected to this worker, what they say of themselves, and what others may see of that.

Who is invisible looks as if gone: nobody is told when they come, go, type or read, and `last_seen` stays at
when they were last visible. What they say of themselves is shown only where they are seen.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from realtime.core.pending import Pending
from realtime.core.personal import stamp
from realtime.ids import TenantId, UserId

Status = Literal["online", "away", "busy", "invisible"]
ONLINE: Final = "online"
INVISIBLE: Final = "invisible"
OFFLINE: Final = "offline"

Key = tuple[TenantId, UserId]


class Said(msgspec.Struct, frozen=True, array_like=True):
    """What somebody says of themselves; `seen_ms` is when they were last seen, or visible, 0 for never."""

    status: str = ONLINE
    text: str = ""
    seen_ms: int = 0

    @property
    def invisible(self) -> bool:
        """Whether nobody is to see them."""
        return self.status == INVISIBLE


NOTHING: Final = Said()


class Person:
    """A user with connections to this worker, or who had until a moment ago.

    `said` is None until the table has been asked: so long nobody is told anything of them.
    """

    __slots__ = ("connections", "known", "said", "went_ms")

    def __init__(self) -> None:
        self.connections = 0
        self.said: Said | None = None
        self.known: Pending[bool] = Pending()  # settled when `said` is there
        self.went_ms = 0

    def learn(self, said: Said) -> None:
        """Know what they say."""
        first, self.said = self.said is None, said
        if first:
            self.known.settle(True)

    @property
    def silent(self) -> bool:
        """Whether nobody is to see them."""
        return self.said is None or self.said.invisible


def shown(said: Said, *, connected: bool) -> dict[str, Any]:
    """Return what others see: alike for who is gone and who is invisible."""
    if connected and not said.invisible:
        return {"status": said.status, **({"text": said.text} if said.text else {})}
    return {"status": OFFLINE, **({"last_seen": stamp(said.seen_ms)} if said.seen_ms else {})}


def shown_to_self(said: Said) -> dict[str, Any]:
    """Return what somebody's own devices see."""
    return {"status": said.status, **({"text": said.text} if said.text else {})}


class People:
    """The users of this worker, by tenant and name."""

    def __init__(self) -> None:
        self._known: dict[Key, Person] = {}

    def __len__(self) -> int:
        return len(self._known)

    def said(self) -> dict[Key, tuple[Said, int]]:
        """Return what is known of whom, and when they went, for another process."""
        return {key: (each.said, each.went_ms) for key, each in self._known.items() if each.said is not None}

    def adopt(self, key: Key, said: Said, went_ms: int) -> None:
        """Know of a user what another process knew; their connections are counted as they come."""
        person = self._known[key] = Person()
        person.learn(said)
        person.went_ms = went_ms

    def find(self, key: Key) -> Person | None:
        """Return a user who is here, or was a moment ago."""
        return self._known.get(key)

    def came(self, key: Key) -> Person:
        """Count one more connection."""
        person = self._known.get(key)
        if person is None:
            person = self._known[key] = Person()
        person.connections += 1
        return person

    def went(self, key: Key, at_ms: int) -> Person | None:
        """Count one less; None of somebody who was never counted."""
        person = self._known.get(key)
        if person is None or not person.connections:
            return None
        person.connections -= 1
        person.went_ms = at_ms
        return person

    def forget(self, key: Key) -> None:
        """Forget a user who has gone."""
        person = self._known.pop(key, None)
        if person is not None and person.said is None:
            person.learn(Said(INVISIBLE))  # whoever waits for it

    def connected(self) -> list[Key]:
        """Return all who are here now."""
        return [key for key, person in self._known.items() if person.connections]

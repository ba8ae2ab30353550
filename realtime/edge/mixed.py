"""The native hub with other servers' connections beside its own: one set of rooms, users and drains for both.

The hub's own connections stay as they are. What is not its own carries `FOREIGN` in its variant, so that a
room keeps it in a lane of its own, whose log hands every message to each member's queue.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Protocol

from realtime.native.hub import Hub

FOREIGN: Final = 1 << 5  # above all variants of the hub: deflate window bits (at most 15) << 1 | binary


class Reader(Protocol):
    """What a `ForeignLog` needs of its members."""

    def queue(self, payload: bytes, log: ForeignLog) -> None:
        """Queue what was appended to `log`; who reads too slowly for its limit leaves it."""
        ...


class Foreign(Reader, Protocol):
    """What the hub needs of connections that are not its own, beside what the core does."""

    @property
    def id(self) -> int: ...
    def abort(self) -> None: ...


class ForeignLog:
    """One room in one encoding, for connections that are not the hub's."""

    def __init__(self, lag_limit_bytes: int) -> None:
        self.lag_limit_bytes = lag_limit_bytes
        self.readers: dict[Reader, None] = {}  # a set that keeps their order

    def append(self, payload: bytes) -> None:
        """Queue one message for every member, in the order of their joining."""
        for reader in tuple(self.readers):  # one that is too slow leaves meanwhile
            reader.queue(payload, self)


class MixedHub(Hub):
    """A hub that is asked about foreign connections as about its own. `adopt` and `drop` tell it of them."""

    def __init__(self, *, room_lag_limit_bytes: int, **options: Any) -> None:
        super().__init__(room_lag_limit_bytes=room_lag_limit_bytes, **options)
        self._lag_limit_bytes = room_lag_limit_bytes
        self.foreign_cut = 0  # how many read too slowly
        self._foreign: dict[int, Foreign] = {}  # by id, oldest first
        self._by_user: dict[int, list[Foreign]] = {}

    @property
    def foreign(self) -> Iterable[Foreign]:
        """The connections that are not its own, oldest first."""
        return tuple(self._foreign.values())

    def adopt(self, connection: Foreign) -> None:
        """Take a connection in, until `drop`."""
        self._foreign[connection.id] = connection

    def drop(self, connection: Foreign, user_key: int) -> None:
        """Forget a connection that is gone; `user_key` is whose it was, 0 nobody's."""
        del self._foreign[connection.id]
        if user_key:
            theirs = self._by_user[user_key]
            theirs.remove(connection)
            if not theirs:
                del self._by_user[user_key]

    def list_under(self, user_key: int, connection: Foreign) -> None:
        """Have `connections_of(user_key)` find it. Once per connection."""
        self._by_user.setdefault(user_key, []).append(connection)

    def room(self, variant: int = 0, **limits: Any) -> Any:
        """Make a log for one room in one variant, the hub's own or a `ForeignLog`."""
        if variant < FOREIGN:
            return super().room(variant, **limits)
        return ForeignLog(limits.get("lag_limit_bytes") or self._lag_limit_bytes)

    def connections(self) -> list[Any]:
        """All connections that have completed their handshake."""
        return [*super().connections(), *self._foreign.values()]

    def count_of(self, user_key: int) -> int:
        """How many connections belong to the key, foreign ones included."""
        return super().count_of(user_key) + len(self._by_user.get(user_key, ()))

    def connections_of(self, user_key: int) -> list[Any]:
        """The connections that belong to the key, foreign ones included, oldest first."""
        foreign = self._by_user.get(user_key)
        own: list[Any] = super().connections_of(user_key)
        return own if foreign is None else sorted([*own, *foreign], key=lambda each: each.id)

    def stats(self) -> dict[str, int]:
        """As the hub's, with all connections."""
        stats = super().stats()
        stats["connections"] += len(self._foreign)
        stats["slow_consumers"] += self.foreign_cut
        return stats

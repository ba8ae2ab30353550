"""The native hub with other servers' connections beside its own: one set of rooms, users and drains for both.

The hub's own connections stay as they are. What is not its own carries `FOREIGN` in its variant, so that a
room keeps it in a lane of its own, whose log hands every message to each member's outbox.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from realtime.core.contracts import OnGap
from realtime.core.kinds import SlowReader
from realtime.core.room import FOREIGN
from realtime.edge.network import EVERYBODY
from realtime.edge.outbox import ForeignLog
from realtime.native.address import pack
from realtime.native.cidr import CidrTable
from realtime.native.hub import Hub
from realtime.protocol.priority import Priority


class Foreign(Protocol):
    """What the hub needs of connections that are not its own, beside what the core does."""

    @property
    def id(self) -> int: ...
    @property
    def address(self) -> str: ...
    def close(self, code: int, reason: bytes = b"") -> None: ...
    def abort(self) -> None: ...


class MixedHub(Hub):
    """A hub that is asked about foreign connections as about its own. `take_in` and `drop` tell of them."""

    def __init__(self, *, room_lag_limit_bytes: int, room_lag_limit_messages: int, **options: Any) -> None:
        super().__init__(
            room_lag_limit_bytes=room_lag_limit_bytes,
            room_lag_limit_messages=room_lag_limit_messages,
            **options,
        )
        self._lag_limit_bytes = room_lag_limit_bytes
        self._lag_limit_messages = room_lag_limit_messages
        self.counts: Counter[str] = Counter()  # of foreign connections, by the names of `stats`
        self._foreign: dict[int, Foreign] = {}  # by id, oldest first
        self._by_user: dict[int, list[Foreign]] = {}
        self._trusted: CidrTable | None = None
        self._on_forwarded: Callable[[bytes, str], bytes | None] | None = None

    def trust(
        self,
        trusted: CidrTable | None,
        *,
        proxy_protocol: str = "off",
        forwarded_header: str = "",
        on_forwarded: Callable[[bytes, str], bytes | None] | None = None,
        on_untrusted: Callable[[bytes, str], object] | None = None,
    ) -> None:
        """As the hub's. Foreign connections have no PROXY protocol: what `client_of` reads is the header."""
        super().trust(
            trusted,
            proxy_protocol=proxy_protocol,
            forwarded_header=forwarded_header,
            on_forwarded=on_forwarded,
            on_untrusted=on_untrusted,
        )
        self._trusted = trusted
        self._forwarded_header = forwarded_header
        self._on_forwarded = on_forwarded
        self._on_untrusted = on_untrusted

    def client_of(self, peer: bytes, header: Callable[[str], str | None]) -> bytes | None:
        """Whose request it is that came from `peer`, packed; None where a proxy's word is unreadable."""
        if self._on_forwarded is None or self._trusted is None or not self._trusted.find(peer):
            return peer
        value = header(self._forwarded_header)
        client = peer if value is None else self._on_forwarded(peer, value)
        if client is None and self._on_untrusted is not None:
            self._on_untrusted(peer, "forwarded_header")
        return client

    @property
    def foreign(self) -> Iterable[Foreign]:
        """The connections that are not its own, oldest first."""
        return tuple(self._foreign.values())

    def take_in(self, connection: Foreign) -> None:
        """Take a connection in, until `drop`."""
        self._foreign[connection.id] = connection

    def drop(self, connection: Foreign, user_key: int) -> None:
        """Forget a connection that is gone; `user_key` is whose it was, 0 nobody's."""
        del self._foreign[connection.id]
        self._unlist(user_key, connection)

    def list_under(self, user_key: int, connection: Foreign, former_key: int = 0) -> None:
        """Have `connections_of(user_key)` find it, and not that of `former_key` any more."""
        self._unlist(former_key, connection)
        self._by_user.setdefault(user_key, []).append(connection)

    def _unlist(self, user_key: int, connection: Foreign) -> None:
        if user_key:
            theirs = self._by_user[user_key]
            theirs.remove(connection)
            if not theirs:
                del self._by_user[user_key]

    def room(
        self,
        variant: int = 0,
        *,
        lag_limit_bytes: int = 0,
        lag_limit_messages: int = 0,
        slow_reader: str = "disconnect",
        priority: int = 1,
        on_gap: OnGap | None = None,
    ) -> Any:
        """Make a log for one room in one variant, the hub's own or a `ForeignLog`."""
        if variant < FOREIGN:
            return super().room(
                variant,
                lag_limit_bytes=lag_limit_bytes,
                lag_limit_messages=lag_limit_messages,
                slow_reader=slow_reader,
                priority=priority,
                on_gap=on_gap,
            )
        return ForeignLog(
            lag_limit_bytes=lag_limit_bytes or self._lag_limit_bytes,
            lag_limit_messages=lag_limit_messages or self._lag_limit_messages,
            slow_reader=SlowReader(slow_reader),
            priority=Priority(priority),
            on_gap=on_gap,
            counts=self.counts,
        )

    def review(
        self, welcomes: Callable[[bytes], bool], *, cursor: int, count: int, code: int, reason: bytes
    ) -> int:
        """As the hub's; the foreign connections are all looked at with the first slice."""
        for connection in tuple(self._foreign.values()) if cursor == EVERYBODY else ():
            address = pack(connection.address)
            if address is not None and not welcomes(address):
                connection.close(code, reason)
        return super().review(welcomes, cursor=cursor, count=count, code=code, reason=reason)

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
        for name, count in self.counts.items():
            stats[name] += count
        return stats

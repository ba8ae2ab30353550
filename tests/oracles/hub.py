"""The hub's part of the contract in plain Python: connections, room logs and fan-out without sockets."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec

from realtime.core.contracts import Log

_numbers = itertools.count(1)


class FakeConnection:
    """A connection whose peer has read everything: `sent` is what it got, unicast and room, in order."""

    def __init__(self, variant: int = 0, hub: FakeHub | None = None) -> None:
        self.id = next(_numbers)
        self.address = "192.0.2.1"
        self.hub = hub
        self.state: object = None
        self.aborted = False
        self.variant = variant
        self.binary = bool(variant & 1)
        self.open = True
        self.sent: list[bytes] = []
        self.sent_before_join: list[bytes] = []  # what it had been sent when it last joined a log
        self.closed: tuple[int, bytes] | None = None
        self.confirmed = False
        self.logs: list[FakeLog] = []

    def send(self, payload: bytes, urgent: bool = False) -> bool:
        if self.open:
            self.sent.append(payload)
        return self.open

    def close(self, code: int, reason: bytes = b"") -> None:
        if self.open:
            self.open = False
            self.closed = (code, reason)
            for log in self.logs[:]:
                self.leave(log)

    def abort(self) -> None:
        self.open, self.aborted = False, True

    def draw_on(self, allowance: Any) -> None:
        """Here nobody is read before others."""

    def belong(self, user_key: int) -> None:
        if self.hub is not None and self not in self.hub.belonging.setdefault(user_key, []):
            self.hub.belonging[user_key].append(self)

    def gone(self) -> None:
        """End, as when its socket is closed."""
        self.open = False
        for log in self.logs[:]:
            self.leave(log)
        for theirs in () if self.hub is None else self.hub.belonging.values():
            if self in theirs:
                theirs.remove(self)

    def confirm(self) -> None:
        self.confirmed = True

    def join(self, log: FakeLog) -> None:
        if log.variant != self.variant:
            raise ValueError(f"a connection of variant {self.variant} cannot join a log of {log.variant}")
        self.sent_before_join = self.sent[:]
        if self.open and log not in self.logs:
            self.logs.append(log)
            log.joined.append(self)

    def leave(self, log: FakeLog) -> None:
        if log in self.logs:
            self.logs.remove(log)
            log.joined.remove(self)

    def messages(self) -> list[dict[str, Any]]:
        """Return and forget what was sent, decoded."""
        sent, self.sent = self.sent, []
        return [msgspec.msgpack.decode(each) if self.binary else json.loads(each) for each in sent]


class FakeLog:
    """A room log that every member has read to its end."""

    def __init__(self, variant: int, policy: dict[str, Any]) -> None:
        self.variant = variant
        self.policy = policy
        self.on_gap = policy.get("on_gap")
        self.lag_limit_bytes = policy.get("lag_limit_bytes")
        self.offset = 0  # of the last publication
        self.joined: list[FakeConnection] = []
        self.appended = 0

    @property
    def members(self) -> int:
        return len(self.joined)

    def export(self) -> bytes:
        policy = {name: value for name, value in self.policy.items() if name != "on_gap"}
        return json.dumps(
            [self.variant, policy, self.offset, [connection.id for connection in self.joined]]
        ).encode()

    def append(self, payload: bytes, offset: int = 0) -> None:
        self.appended += 1
        self.offset = offset or self.offset
        for connection in self.joined:
            connection.send(payload)


class FakeHub:
    """Makes fake logs; its time is the fake clock's."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.logs: list[FakeLog] = []
        self.belonging: dict[int, list[FakeConnection]] = {}  # by user key
        self.arriving: dict[int, FakeConnection] = {}  # those whose logs are adopted, by id

    def count_of(self, user_key: int) -> int:
        return len(self.belonging.get(user_key, ()))

    def connections_of(self, user_key: int) -> list[FakeConnection]:
        return self.belonging.get(user_key, [])[:]

    def connections(self) -> list[FakeConnection]:
        return [each for theirs in self.belonging.values() for each in theirs]

    @property
    def timestamp(self) -> bytes:
        return self._clock.timestamp

    def room(self, variant: int = 0, **policy: Any) -> Log:
        self.logs.append(FakeLog(variant, policy))
        return self.logs[-1]

    def adopt_room(self, blob: bytes, on_gap: Any = None) -> Log:
        variant, policy, offset, joined = json.loads(blob)
        log = FakeLog(variant, {**policy, "on_gap": on_gap})
        log.offset = offset
        for number in joined:
            if number in self.arriving:
                self.arriving[number].join(log)
        self.logs.append(log)
        return log


class FakeClock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def monotonic(self) -> float:
        return self.now

    def monotonic_ns(self) -> int:
        return round(self.now * 1e9)

    def time(self) -> float:
        return 1_752_575_400.0 + self.now

    @property
    def timestamp(self) -> bytes:
        return b"2025-07-15T10:30:00.123Z"

"""What a run is to do: told to every generator process, kept with its result."""

from __future__ import annotations

import msgspec

TICK_S = 0.001
MARKERS_BYTES = 26


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `rate` is of all connections together, in messages a second; 0 only connects and waits."""

    url: str
    connections: int
    rooms: int
    rate: float
    publishers: int
    duration_s: float
    warmup_s: float
    payload_bytes: int
    kind: str
    type: str
    processes: int
    arrivals_per_second: float
    patience_s: float
    run: str
    ca_file: str = ""
    insecure: bool = False
    calibrate: bool = True

    def room(self, number: int) -> str:
        """The room of connection `number`."""
        return f"{self.kind}:bench-{self.run}-{number % self.rooms}"

    def user(self, number: int) -> str:
        """Who connection `number` is, where the server is open."""
        return f"bench-{self.run}-{number}"


class Start(msgspec.Struct, frozen=True, tag=True):
    """What the coordinator tells a generator first: `token` is empty where there is none."""

    plan: Plan
    process: int
    tokens: list[str]


class Go(msgspec.Struct, frozen=True, tag=True):
    """All are connected: sending begins at `at_ns` of the monotonic clock."""

    at_ns: int


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Enough: what was sent has arrived everywhere, or nothing comes any more."""


class Calibrated(msgspec.Struct, frozen=True, tag=True):
    """What a generator can do by itself, in µs of processor time; zeros, and why, where that is not known."""

    send_us: float
    read_us: float
    failed: str = ""


class Connected(msgspec.Struct, frozen=True, tag=True):
    """A generator has all its connections in their rooms, or has given up on some."""

    connections: int
    failures: dict[str, int]
    seconds: float
    connect: list[int]
    join: list[int]
    members: dict[str, int]


class Progress(msgspec.Struct, frozen=True, tag=True):
    """One second of a generator: counts since the start, durations of this second alone."""

    process: int
    second: float
    connected: int
    sent: int
    delivered: int
    acked: int
    errors: int
    lately: list[int]
    late: list[int]
    lag: list[int]
    cpu_share: float


class Done(msgspec.Struct, frozen=True, tag=True):
    """The books of one generator."""

    sent: int
    sent_in_time: int
    sent_by_room: dict[str, int]
    unsent: int
    delivered: int
    delivered_in_time: int
    acked: int
    duplicated: int
    skipped: int
    others: int
    received_bytes: int
    closed: dict[str, int]
    errors: dict[str, int]
    delivery: list[int]
    ack: list[int]
    late: list[int]
    lag: list[int]
    cpu_share: float
    waited_share: float


Told = Start | Go | Stop
Said = Calibrated | Connected | Progress | Done

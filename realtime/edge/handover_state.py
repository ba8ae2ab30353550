"""What a worker hands over beside its core: its connections with what stands for each, and its own counts."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from realtime.core.auth import Identity
from realtime.core.contracts import Connection
from realtime.core.limits import Buckets
from realtime.core.session import Session
from realtime.edge.gate import ECHO, GUEST, Echo, Guest, Pending
from realtime.edge.guard import GuardState
from realtime.edge.handover_wire import HandoverFailed, Moved
from realtime.native.histogram import BOUNDS_S
from realtime.native.hub import Connection as HubConnection
from realtime.settings import Settings, as_text

if TYPE_CHECKING:
    from realtime.edge.worker import Worker

FIXED: Final = (
    "host",
    "port",
    "tls_port",
    "admin_port",
    "share_port",
    "redis_url",
    "redis_prefix",
    "postgres_url",
    "sqlite_path",
)
"""Settings that the new process has to have as the old one: the sockets, and what both stand on."""


class EdgeState(msgspec.Struct, array_like=True):
    """What is nobody's connection: counts by address, penalties, who was warned; `last_id` of a connection,
    since when nobody is served (monotonic ns), and whether others keep the socket that clients come to.
    """

    last_id: int
    frozen_ns: int
    guard: GuardState
    rates: dict[str, Buckets]
    warned: list[int]
    record: Record
    keeps_listening: bool


class Record(msgspec.Struct, array_like=True):
    """What came of hand-overs, from the first process on: for /metrics.

    A process of the release before reads it, and ends it before `pauses`: those then begin anew. They are a
    histogram as `native.histogram` has it, whose own cannot be filled with what another process measured.
    """

    done: int = 0
    refused: int = 0
    adopted: int = 0
    drained: int = 0
    pauses_s: float = 0.0
    pauses: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))

    def paused(self, seconds: float) -> None:
        """Count a hand-over that served nobody for so long."""
        self.pauses[bisect_left(BOUNDS_S, seconds)] += 1
        self.pauses_s += seconds

    def taken(self) -> tuple[Sequence[int], float]:
        """Return the pauses, as a histogram's `taken`."""
        return self.pauses, self.pauses_s

    def stats(self) -> dict[str, int]:
        """Counters, by name."""
        return {
            "handovers_total": self.done,
            "handovers_refused_total": self.refused,
            "handover_connections_adopted_total": self.adopted,
            "handover_connections_drained_total": self.drained,
        }


def fixed_settings(settings: Settings) -> dict[str, str]:
    """Return what must not change over a hand-over, by name: as digests, for URLs have passwords in them."""
    said = {name: as_text(getattr(settings, name)) for name in FIXED} | {"open mode": str(settings.open_mode)}
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in said.items()}


def check_settings(settings: Settings, theirs: Mapping[str, str]) -> None:
    """Raise HandoverFailed where these settings differ in what must not change."""
    ours = fixed_settings(settings)
    changed = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if changed:
        raise HandoverFailed(f"{', '.join(changed)} changed, which takes a restart")


def export_connection(worker: Worker, connection: HubConnection) -> Moved:
    """Return all that there is of a connection.

    Raises:
        ValueError: it cannot move; the message says why.
    """
    moved = _moved(worker, connection)
    moved.recorded_s = worker.recorder.left_s(connection.id)
    return moved


def _moved(worker: Worker, connection: HubConnection) -> Moved:
    state = connection.state
    if isinstance(state, Session):
        if state.state.waits:
            raise ValueError("it waits for an answer")
        return Moved(worker.hub.export(connection), "session", session=worker.core.handover.session(state))
    if isinstance(state, Identity):
        return Moved(worker.hub.export(connection), "identity", identity=state)
    if isinstance(state, Pending):
        return Moved(worker.hub.export(connection), "pending", user=state.user)
    kinds = {Guest: "guest", Echo: "echo", type(None): "arriving"}
    kind = kinds.get(type(state))
    if kind is None:
        raise ValueError("its token is being judged")
    return Moved(worker.hub.export(connection), kind)


def adopt_connection(worker: Worker, fd: int, moved: Moved) -> Connection:
    """Take over a connection with its socket, which is the hub's from here on; the caller's where it fails.

    Raises:
        ValueError: it is none, or of another version.
        OSError: the socket cannot be watched.
    """
    handover = worker.core.handover
    state: object = {"guest": GUEST, "echo": ECHO, "pending": Pending(moved.user)}.get(moved.kind)
    if moved.identity is not None:
        state = handover.shared(moved.identity)
    connection: Connection = worker.hub.adopt(fd, moved.blob, GUEST if moved.session else state)
    if moved.session is not None:
        handover.adopt_session(connection, moved.session)
    elif isinstance(state, Identity):
        handover.adopt_silent(connection, state)
        worker.silent.add(state)
    worker.recorder.resume(connection, moved.recorded_s)
    return connection


def export_edge(worker: Worker, frozen_ns: int) -> EdgeState:
    """Return what is nobody's connection; nobody is served since `frozen_ns`."""
    return EdgeState(
        worker.hub.last_id,
        frozen_ns,
        worker.guard.export(),
        worker.rates.export(),
        worker.silent.export(),
        worker.record,
        worker.keeps_listening,
    )


def adopt_edge(worker: Worker, state: EdgeState) -> None:
    """Take over what is nobody's connection."""
    worker.hub.last_id = state.last_id
    worker.guard.adopt(state.guard)
    worker.rates.adopt(state.rates)
    worker.silent.adopt(state.warned)
    worker.record = record = state.record
    if not any(record.pauses):  # of the release before, which said the last one alone
        record.pauses_s = 0.0
    worker.keeps_listening = state.keeps_listening


edge_encoder: Final = msgspec.msgpack.Encoder()
edge_decoder: Final = msgspec.msgpack.Decoder(EdgeState)

"""What an operator's HTTP API takes and gives. The API's reference (OpenAPI) is made from this page.

What is the same on the wire is the wire's own type: a receipt is an `Ack`, an error an `Error`, a page of
history a `HistoryPage`, who is there a `Presence`, and so are their fields.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from realtime.protocol.messages import (
    Ack,
    Content,
    Count,
    Epoch,
    Error,
    HistoryPage,
    Offset,
    Presence,
    Timestamp,
)

COMMANDS_MAX: Final = 1000
PAGE_MAX: Final = 1000

Room = Annotated[
    str,
    Meta(
        min_length=3,
        max_length=200,
        pattern="^[a-z][a-z0-9_]{0,31}:",
        description="`kind:id`, such as `chat:lobby`.",
    ),
]
Type = Annotated[
    str, Meta(min_length=1, max_length=64, description="A message type, such as `chat_message`.")
]
Tenant = Annotated[
    str,
    Meta(
        pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="Absent: the caller's own.",
    ),
]
User = Annotated[str, Meta(min_length=1, max_length=128, description="User id: the `sub` of their tokens.")]
Key = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        description="Idempotency key: a repeat within the recovery window gets the first receipt.",
    ),
]
Limit = Annotated[int, Meta(ge=1, le=PAGE_MAX, description="At most so many; a page may have fewer.")]
Next = Annotated[
    str, Meta(max_length=512, description="Position of the next page. Absent: this was the last.")
]
After = Annotated[str, Meta(max_length=512, description="The `next` of the page before.")]
CloseReason = Annotated[str, Meta(max_length=100, description="Told to the client.")]
CloseCode = Annotated[
    int,
    Meta(ge=1000, le=4999, description="From 4500 on clients do not come back by themselves."),
]


class Asked(Content, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked; what is not declared is a mistake."""


# ---------------------------------------------------------------- rooms


class Publish(Asked, frozen=True, kw_only=True):
    """A publication. Its content is what the type says; any JSON where that says nothing."""

    room: Room
    type: Annotated[Type | None, Meta(description="Absent: the one that rooms of this kind take.")] = None
    content: Any = None
    tenant: Tenant | None = None
    user: Annotated[User | None, Meta(description="Publish for this user; absent: as the server.")] = None
    key: Key | None = None


class Broadcast(Asked, frozen=True, kw_only=True):
    """The same publication for many rooms, each with its own place in each."""

    rooms: Annotated[list[Room], Meta(min_length=1, max_length=COMMANDS_MAX)]
    type: Annotated[Type | None, Meta(description="Absent: the one that rooms of this kind take.")] = None
    content: Any = None
    tenant: Tenant | None = None
    user: Annotated[User | None, Meta(description="Publish for this user; absent: as the server.")] = None
    key: Key | None = None


class Signal(Asked, frozen=True, kw_only=True):
    """Something that is not kept, of a type such as `chat_typing`, for members who are there now."""

    room: Room
    type: Type
    content: Any = None
    tenant: Tenant | None = None
    user: Annotated[User | None, Meta(description="Whose it is; absent: the server's.")] = None


class Notify(Asked, frozen=True, kw_only=True):
    """A notification for all connections of a user."""

    user: User
    title: Annotated[str, Meta(min_length=1, max_length=1024)]
    content: str = ""
    priority: Annotated[int, Meta(ge=0, le=3, description="0 LOW, 1 NORMAL, 2 HIGH, 3 CRITICAL.")] = 1
    data: dict[str, Any] | None = None
    tenant: Tenant | None = None
    id: (
        Annotated[str, Meta(min_length=1, max_length=64, description="Its name; absent: one is made.")] | None
    ) = None


class Notified(Content, frozen=True, kw_only=True):
    """Its name, and how many connections took it."""

    id: str
    connections: Count


class RoomAsked(Asked, frozen=True, kw_only=True):
    """A room."""

    room: Room
    tenant: Tenant | None = None


class HistoryAsked(Asked, frozen=True, kw_only=True):
    """A page of a room's history: below `before`, above `after`, or the newest."""

    room: Room
    tenant: Tenant | None = None
    before: Offset | None = None
    after: Offset | None = None
    limit: Limit = 100


class RoomHistory(HistoryPage, frozen=True, kw_only=True):
    """A page of a room's history, and where the room is."""

    offset: Offset
    epoch: Epoch


class RoomsAsked(Asked, frozen=True, kw_only=True):
    """Rooms that have members, by name."""

    tenant: Tenant | None = None
    kind: Annotated[str, Meta(max_length=32, description="Only rooms of this kind.")] = ""
    after: After = ""
    limit: Limit = 100


class RoomSummary(Content, frozen=True, kw_only=True):
    """A room that has members."""

    room: Room
    users: Annotated[Count, Meta(description="How many users are in it, over all workers.")]
    connections: Annotated[Count, Meta(description="How many connections.")]


class Rooms(Content, frozen=True, kw_only=True):
    """A page of rooms."""

    rooms: list[RoomSummary]
    next: Next | None = None


class RoomInfo(Content, frozen=True, kw_only=True):
    """How a room is: `offset` 0 where nothing was published."""

    room: Room
    kind: str
    durable: Annotated[bool, Meta(description="Whether the store keeps what is published there.")]
    users: Count
    offset: Offset
    epoch: Epoch


# ---------------------------------------------------------------- connections


class ConnectionsAsked(Asked, frozen=True, kw_only=True):
    """Connections of a tenant, or of one user of it."""

    tenant: Tenant | None = None
    user: User | None = None
    after: After = ""
    limit: Limit = 100


class ConnectionInfo(Content, frozen=True, kw_only=True):
    """A connection. Of its rooms the first 20 are named."""

    connection_id: Annotated[str, Meta(description="As in `connected`.")]
    user_id: User
    worker: str
    address: Annotated[str, Meta(description="The client's IP address.")]
    encoding: Annotated[str, Meta(description="`json` or `msgpack`.")]
    rooms: list[str]
    in_rooms: Annotated[Count, Meta(description="How many rooms it is in.")]


class Connections(Content, frozen=True, kw_only=True):
    """A page of connections."""

    connections: list[ConnectionInfo]
    next: Next | None = None


class Disconnect(Asked, frozen=True, kw_only=True):
    """Close one connection, all of a user, or those of everybody in the tenant."""

    connection_id: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    user: User | None = None
    everybody: bool = False
    tenant: Tenant | None = None
    reason: CloseReason = "kicked"
    code: CloseCode = 4503


class Leave(Asked, frozen=True, kw_only=True):
    """Put a user out of a room, on all connections. They may come back: rules and tokens keep them out."""

    room: Room
    user: User
    tenant: Tenant | None = None


class Closed(Content, frozen=True, kw_only=True):
    """How many connections it concerned."""

    connections: Count


class Revoke(Asked, frozen=True, kw_only=True):
    """Refuse tokens: those of a user so far, one by its `jti`, or those of everybody in the tenant."""

    user: User | None = None
    token_id: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    everybody: bool = False
    tenant: Tenant | None = None
    issued_before: Annotated[float, Meta(ge=0, lt=1e12, description="Unix seconds; absent: now.")] | None = (
        None
    )
    keep_s: Annotated[
        float, Meta(gt=0, le=315_360_000, description="As long as the longest of them may live.")
    ] = 2_592_000.0


class Revoked(Content, frozen=True, kw_only=True):
    """Until when, in Unix seconds."""

    until: float


class TokenAsked(Asked, frozen=True, kw_only=True):
    """A token for a client. It gives none of the powers of this API."""

    user: User
    tenant: Tenant | None = None
    roles: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=100)], ...], Meta(max_length=32)] = ()
    ttl_s: Annotated[int, Meta(ge=1, le=2_592_000, description="How long it holds.")] = 3600
    token_id: Annotated[str, Meta(min_length=1, max_length=256, description="Its `jti`.")] | None = None
    room: Annotated[Room | None, Meta(description="Make a room token, for this private room.")] = None
    can: Annotated[
        tuple[str, ...], Meta(max_length=4, description="What a room token allows there; empty: all.")
    ] = ()


class TokenIssued(Content, frozen=True, kw_only=True):
    """The token, and when it ends, in Unix seconds."""

    token: str
    expires_at: int


# ---------------------------------------------------------------- workers


class NoneAsked(Asked, frozen=True, kw_only=True):
    """Nothing is asked."""


class Busy(Content, frozen=True, kw_only=True):
    """What there is most of: a room or a tenant, and how many connections it has on the worker."""

    name: str
    connections: Count
    tenant: str = ""


class WorkerStatus(Content, frozen=True, kw_only=True):
    """A worker as it says it is. Its counters count from its start, which was `uptime_s` ago."""

    worker: str
    node: str
    version: str
    uptime_s: float
    draining: bool
    checks: Annotated[dict[str, str], Meta(description="As in /ready: `ok`, or what is wrong.")]
    connections: Count
    rooms: Count
    tenants: Count
    counters: Annotated[dict[str, int], Meta(description="Of the hub and the core, by name.")]
    cpu_s: float
    memory_bytes: Count
    bounds_s: Annotated[list[float], Meta(description="Buckets of the histograms below: upper bounds.")]
    lag_counts: Annotated[list[int], Meta(description="How late the event loop was; one more than bounds.")]
    latency_counts: Annotated[list[int], Meta(description="How long deliveries took, from read to sent.")]
    busiest_rooms: list[Busy]
    busiest_tenants: list[Busy]
    orders: Annotated[list[str], Meta(description="What it may be told to do, such as `drain`.")]
    answered_ms: Annotated[float, Meta(description="How long it took to answer.")] = 0.0


class Workers(Content, frozen=True, kw_only=True):
    """All workers that answer, and the ids of those that do not."""

    workers: list[WorkerStatus]
    silent: list[str]


class Order(Asked, frozen=True, kw_only=True):
    """A worker, by its id."""

    worker: Annotated[str, Meta(min_length=1, max_length=200)]


class Ordered(Content, frozen=True, kw_only=True):
    """The order is taken; the worker says in its status how far it is."""

    worker: str


class Occurrence(Content, frozen=True, kw_only=True):
    """An entry of the audit log, while the worker remembers it."""

    at: Timestamp
    tenant: str
    action: str
    outcome: str
    actor: str
    source: str
    target: str
    count: int
    detail: dict[str, str | int]


class Point(Content, frozen=True, kw_only=True):
    """All workers in one second. Rates are a second's; times are in milliseconds."""

    at: Timestamp
    connections: Count
    rooms: Count
    messages_in: float
    deliveries: float
    bytes_in: float
    bytes_out: float
    latency_p50_ms: float
    latency_p99_ms: float
    lag_p99_ms: float
    cpu: Annotated[float, Meta(description="Cores that the workers use.")]
    errors: float


class WorkerLine(Content, frozen=True, kw_only=True):
    """A worker, in one line."""

    worker: str
    node: str
    version: str
    uptime_s: float
    draining: bool
    troubles: Annotated[dict[str, str], Meta(description="The checks that are not ok.")]
    connections: Count
    rooms: Count
    messages_in: float
    deliveries: float
    cpu: float
    memory_bytes: Count
    lag_p99_ms: float
    answered_ms: float
    orders: list[str]


class Overview(Content, frozen=True, kw_only=True):
    """What the dashboard shows. `trouble` says why there is nothing else."""

    server_time: Timestamp
    trouble: str = ""
    point: Point | None = None
    workers: tuple[WorkerLine, ...] = ()
    silent: tuple[str, ...] = ()
    rooms: tuple[Busy, ...] = ()
    tenants: tuple[Busy, ...] = ()
    events: tuple[Occurrence, ...] = ()


class Watching(Content, frozen=True, kw_only=True):
    """Who is let see the dashboard, and what else they may do."""

    user_id: str
    tenant: str
    powers: list[str]
    interval_s: float


# ---------------------------------------------------------------- errors and batches


class Problem(Error, frozen=True, kw_only=True):  # noqa: N818 - what is told, not raised
    """RFC 9457, and the wire's own error: `code` is the status, `name` what programs match on."""

    type: Annotated[str, Meta(description="`urn:realtime:error:` and the name.")]
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: Annotated[str, Meta(description="One sentence for a human.")]


class RoomReceipt(Content, frozen=True, kw_only=True):
    """What came of a broadcast in one room: a receipt, or why not."""

    room: Room
    receipt: Ack | None = None
    error: Problem | None = None


class Broadcasted(Content, frozen=True, kw_only=True):
    """By room, in the order in which they were asked for."""

    rooms: list[RoomReceipt]


class Command(Asked, frozen=True, kw_only=True):
    """One of these."""

    publish: Publish | None = None
    broadcast: Broadcast | None = None
    signal: Signal | None = None
    notify: Notify | None = None
    presence: RoomAsked | None = None
    history: HistoryAsked | None = None
    disconnect: Disconnect | None = None
    leave: Leave | None = None
    revoke: Revoke | None = None


class Batch(Asked, frozen=True, kw_only=True):
    """Commands, done one after the other; one that fails does not stop those after it."""

    commands: Annotated[list[Command], Meta(min_length=1, max_length=COMMANDS_MAX)]


class Result(Content, frozen=True, kw_only=True):
    """What a command's own route would have answered, under its name; or why it was not done."""

    publish: Ack | None = None
    broadcast: Broadcasted | None = None
    signal: Ack | None = None
    notify: Notified | None = None
    presence: Presence | None = None
    history: RoomHistory | None = None
    disconnect: Closed | None = None
    leave: Closed | None = None
    revoke: Revoked | None = None
    error: Problem | None = None


class Results(Content, frozen=True, kw_only=True):
    """By command, in their order."""

    results: list[Result]


class Health(Content, frozen=True, kw_only=True):
    """Whether the process is alive, and reaches what it needs."""

    ok: bool
    checks: dict[str, str] = msgspec.field(default_factory=dict)

"""The hub as Python sees it; `native/hub.pyx` says how it works."""

from collections.abc import Callable
from typing import Any

from realtime.native.cidr import CidrTable
from realtime.native.ratelimit import Allowance

class Handshake:
    """A client's upgrade request. Valid only while `on_handshake` runs; RuntimeError after it."""

    @property
    def path(self) -> str: ...
    @property
    def query(self) -> str: ...
    @property
    def remote(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def connection_id(self) -> int: ...
    def header(self, name: str) -> str | None:
        """Return the field's value (several lines joined by ", "), or None."""

class Accept:
    """Let a client in. `state` comes back in every later callback of this connection.

    `subprotocol` and `extensions` are sent as they are; `binary` fixes the opcode of messages both ways;
    `deflate_bits` (0, or 9 to 15) turns compression on; `welcome` goes out in one piece with the 101.
    With a `user_key` it is a user's from the start, as by `Connection.belong`. With `pending` the handshake
    deadline runs on until `Connection.confirm`. A `close_code` (1000 to 4999,
    with a reason of at most 123 bytes) lets it in only to close it: browsers show their pages no HTTP status.
    """

    def __init__(
        self,
        state: object,
        *,
        subprotocol: str | None = None,
        extensions: str | None = None,
        binary: bool = False,
        deflate_bits: int = 0,
        echo: bool = False,
        pending: bool = False,
        welcome: bytes | None = None,
        close_code: int = 0,
        close_reason: bytes = b"",
        user_key: int = 0,
    ) -> None: ...
    # What whoever is no hub, but keeps to the same verdict, needs of it.
    @property
    def state(self) -> object: ...
    @property
    def subprotocol(self) -> str | None: ...
    @property
    def binary(self) -> bool: ...
    @property
    def pending(self) -> bool: ...
    @property
    def welcome(self) -> bytes | None: ...
    @property
    def close_code(self) -> int: ...
    @property
    def close_reason(self) -> bytes: ...
    @property
    def user_key(self) -> int: ...

class Refuse:
    """Answer with an HTTP status (400 to 599) and close. `headers` are lines that each end in CRLF.

    Whoever is refused as `blameless` is no offender: `on_offence` does not hear of it.
    """

    def __init__(
        self, status: int, body: str = "", headers: str = "", *, blameless: bool = False
    ) -> None: ...
    @property
    def blameless(self) -> bool: ...
    @property
    def status(self) -> int: ...
    @property
    def body(self) -> bytes: ...
    @property
    def headers(self) -> str: ...

class Connection:
    """A handle of one socket. It outlives the socket; `open` says whether that still stands."""

    @property
    def id(self) -> int: ...
    @property
    def remote(self) -> str: ...
    @property
    def address(self) -> str:
        """The client's IP address, without a port; "" once it is gone."""
    @property
    def open(self) -> bool: ...
    @property
    def binary(self) -> bool: ...
    @property
    def variant(self) -> int:
        """Deflate window bits << 1 | binary: connections of one variant can share encoded frames."""
    def fileno(self) -> int:
        """Its socket, which stays the hub's; -1 once it is closed."""
    @property
    def queued_bytes(self) -> int:
        """Unicast bytes that the kernel has not taken yet."""
    @property
    def silent_s(self) -> float:
        """Seconds since something came from the peer, a pong included, in steps of 0.1; 0 once it is gone."""
    state: object
    def send(self, payload: bytes, urgent: bool = False) -> bool:
        """Queue one message; False when the connection does not take any more.

        An urgent one goes before all that waits but a half-sent frame and earlier urgent ones.
        """
    def close(self, code: int, reason: bytes = b"") -> None:
        """Begin the closing handshake with `code` (1000 to 4999) and a reason of at most 123 bytes."""
    def abort(self) -> None:
        """Close the socket at once, with a reset."""
    def confirm(self) -> None:
        """The peer is authenticated: its handshake deadline ends, heartbeats begin."""
    def draw_on(self, allowance: Allowance | None) -> None:
        """Let the rates of its tenant decide when it is served; None where it has none.

        While these are exceeded it is read behind all other connections, what it sends waits until it
        passes, and the rooms that it is in are flushed behind all others.
        """
    def record(self, ring_bytes: int, payload_bytes: int) -> bool:
        """Record its frames from now on, the last ones that fit into `ring_bytes`, a KiB at least.

        Of each payload up to `payload_bytes` are kept. One that is recorded goes on with what there is, and
        the larger of the limits. False where it is gone, or all rings have their `memory_bytes`.
        """
    def recorded(self) -> tuple[bytes, int, int, int] | None:
        """What is recorded of it: entries, frames noted, those of them that were overwritten, and which way
        the first Close frame went (1: it came from the peer, 2: it was sent, 0: there was none). None where
        nothing is recorded.

        An entry is `struct` format "=qQIBB2x", with the first bytes of the payload behind it: time
        (CLOCK_MONOTONIC, ns), bytes of the payload on the wire, bytes of it here, kind, the frame's first
        byte. Kind 1 came from the peer, 2 was sent; 3 was refused for its head, which stands for the payload.
        """
    def stop_recording(self) -> None:
        """Record it no more, and forget what was. Harmless when it is not recorded."""
    def belong(self, user_key: int) -> None:
        """It is a user's from here on: `Hub.connections_of(user_key)` has it until it is gone.

        `user_key` is a number of 32 bits, not 0, which stands for a user as a hash does: two may share one.
        """
    def join(self, room: RoomLog) -> None:
        """Become a member at the log's end. Raises ValueError when the variants differ."""
    def leave(self, room: RoomLog) -> None:
        """Stop being a member at the log's end: what was appended before still comes."""

class RoomLog:
    """The log of one room in one variant. Members of a deleted log are detached from it."""

    @property
    def variant(self) -> int: ...
    @property
    def members(self) -> int: ...
    @property
    def laggards(self) -> int:
        """How many members have not been sent everything because their sockets are full."""
    @property
    def queued_bytes(self) -> int: ...
    def append(self, payload: bytes, offset: int = 0) -> None:
        """Add one message for every member, in order; sent at the end of the batch.

        `offset` is a publication's, 0 for what has none; they rise by one.
        """
    def export(self) -> bytes:
        """What `Hub.adopt_room` makes the same log of: what some member lacks, and where each stands.

        Raises:
            RuntimeError: the hub is not frozen.
            ValueError: it holds over 1 GiB.
        """

class Hub:
    """All WebSocket connections of one worker; not thread-safe.

    `on_handshake(handshake)` answers Accept or Refuse. `on_message(state, payload)` gets whole messages, text
    already valid UTF-8. `on_limited(state, payload, limit, retry_after_s)` gets those over a rate of the
    connection, `limit` is `messages_per_second` or `bytes_per_second`; without it they are dropped.
    `on_close(state, code, reason, clean)` comes once per accepted connection. `on_http(fd, received,
    remote, forwarded)` takes over the socket of a request that is no upgrade even if it raises; `forwarded`
    says that the next request on it may be another client's. `on_wake(delay_s)` must arrange
    for one call of `on_ready()` after that time. A callback that raises is logged to `realtime.hub` and
    closes its connection with 4000.

    `on_arrival(address)` says whether a client may come in from an address, packed (4 bytes for IPv4, also
    for one in IPv6's form, 16 for IPv6), before anything is made or read for it: whoever may not is reset and
    counted as `denied_arrivals`; so is everybody while it raises. `on_departure(address)` comes once for each
    that was let in, when its connection is gone or handed over. Who gives neither pays for neither.

    `on_offence(address, code, admitted)` hears of each connection that the hub, or whoever holds it, ends:
    with which close code or HTTP status, and whether its peer had been let in. Which of them are offences, it
    decides. A request that comes too late counts where some of it came (408).
    """

    def __init__(
        self,
        *,
        on_handshake: Callable[[Handshake], Accept | Refuse],
        on_message: Callable[..., object],
        on_close: Callable[..., object],
        on_http: Callable[[int, bytes, str, bool], object],
        on_wake: Callable[[float], object],
        on_limited: Callable[..., object] | None = None,
        on_arrival: Callable[[bytes], bool] | None = None,
        on_departure: Callable[[bytes], object] | None = None,
        on_offence: Callable[[bytes, int, bool], object] | None = None,
        max_connections: int = 100_000,
        max_message_bytes: int = 65_536,
        max_head_bytes: int = 16_384,
        max_fragments: int = 131_072,
        handshake_timeout_s: float = 10.0,
        heartbeat_s: float = 30.0,
        close_timeout_s: float = 5.0,
        messages_per_second: float = 0.0,
        control_frames_per_second: float = 0.0,
        control_frames_burst: float = 1.0,
        message_burst: float = 1.0,
        unicast_limit_bytes: int = 1_048_576,
        read_chunk_bytes: int = 65_536,
        flush_chunk: int = 256,
        accept_batch: int = 64,
        bytes_per_second: float = 0.0,
        bytes_burst: float = 0.0,
        accepts_per_second: float = 0.0,
        accepts_burst: float = 1.0,
        max_age_s: float = 0.0,
        max_age_reason: bytes = b'{"r":"rebalance"}',
        rest_ratio: float = 0.0,
        rest_max_s: float = 0.02,
        compression_level: int = 1,
        compression_threshold: int = 256,
        room_lag_limit_bytes: int = 1_048_576,
        room_lag_limit_messages: int = 0,
    ) -> None: ...
    def deliver_to(self, on_message: Callable[..., object]) -> None:
        """Replace `on_message`: what takes the messages is often built later than the hub, on top of it."""
    def guard(
        self,
        on_arrival: Callable[[bytes], bool] | None,
        on_departure: Callable[[bytes], object] | None,
    ) -> None:
        """Replace both callbacks. `on_departure` comes for those alone who arrived while there was one."""
    def trust(
        self,
        trusted: CidrTable | None,
        *,
        proxy_protocol: str = "off",
        forwarded_header: str = "",
        on_forwarded: Callable[[bytes, str], bytes | None] | None = None,
        on_untrusted: Callable[[bytes, str], object] | None = None,
    ) -> None:
        """Take the word of `trusted` peers about whose connections theirs are, from the next one on.

        With `proxy_protocol` "optional" such a peer may begin with a PROXY header, with "required" it must,
        and nobody else may connect. Whom it names may be `trusted` too, and name another in its request:
        `on_forwarded(address, value)` gets its address and the header `forwarded_header`, and returns the
        client's address, None where the header cannot be read. `on_arrival` is asked about the client's
        address as soon as that is known; here a refusal is an HTTP answer (403), or the proxy would take us
        for broken. `on_untrusted(address, reason)` hears of whom was refused over what it said: reason
        `not_a_proxy`, `proxy_header` or `forwarded_header`.
        """
    def review(
        self,
        welcomes: Callable[[bytes], bool],
        *,
        cursor: int,
        count: int,
        code: int,
        reason: bytes,
    ) -> int:
        """Look at up to `count` connections below `cursor`; close with `code` those that are not welcome.

        Returns the cursor for the next call, 0 when all have been seen that were there when it was largest.
        Whoever comes meanwhile is asked by `on_arrival`.
        """
    def record_to(
        self,
        on_recorded: Callable[[Connection, int, tuple[bytes, int, int, int]], object] | None,
        *,
        ring_bytes: int,
        payload_bytes: int,
        memory_bytes: int,
        share: float = 1.0,
    ) -> None:
        """Record a `share` of the connections that come in from now on, each as by `Connection.record`.

        With 0 `ring_bytes` none is recorded but by that. All rings together take at most `memory_bytes`.
        `on_recorded(connection, code, recorded)` comes once for each that is recorded when it ends, before
        `on_close`; not for those that `release` lets go of.
        """
    def listen(self, fd: int) -> None:
        """Accept from the listening socket `fd`, which stays the caller's."""
    def stop_listening(self) -> None: ...
    def fileno(self) -> int:
        """The epoll set; readable when `on_ready` has something to do."""
    def on_ready(self) -> bool:
        """Run batches until nothing is left or the budget is spent; True when there is more to do."""
    def tick(self) -> None:
        """Handle the deadlines that have come; to be called about every 100 ms."""
    def current(self) -> Connection:
        """The connection whose callback runs. Raises RuntimeError outside of one."""
    def connections(self) -> list[Connection]: ...
    def find(self, number: int) -> Connection | None:
        """The connection whose `id` is `number`, closing ones included; None where there is none."""
    def count_of(self, user_key: int) -> int:
        """How many connections belong to `user_key`, those that are closing included."""
    def connections_of(self, user_key: int) -> list[Connection]:
        """The connections that belong to `user_key`, oldest first, those that are closing included."""
    def take_id(self) -> int:
        """A connection id that none of this hub's connections will have."""
    @property
    def last_id(self) -> int:
        """The highest id given so far. It may be set higher (ValueError: lower), as ids go on in another
        process: adopting takes care of those of the connections alone."""
    @last_id.setter
    def last_id(self, value: int) -> None: ...
    @property
    def frozen(self) -> bool: ...
    def freeze(self) -> None:
        """Stand still until `thaw`: nothing is read, accepted, sent or timed. Harmless when it does already.

        First `on_close` is told of connections that have ended and of whom it has not heard yet. `on_ready`
        and `tick` do nothing then, but the epoll set stays readable: take it out of the event loop, which
        would turn without end. What is sent, appended or closed meanwhile waits, and nothing is lost by it;
        what has been exported does not have it, though.

        Raises RuntimeError inside of a callback.
        """
    def thaw(self) -> None:
        """Go on: what arrived meanwhile is read before anybody's time is up (within a second of now).

        A connection whose half-sent frame stands in a room that has not been adopted is ended, with 1006.
        Raises RuntimeError inside of a callback.
        """
    def all_connections(self) -> list[Connection]:
        """Those that are open, those that still shake hands (`state` None), and those that are closing."""
    def export(self, connection: Connection) -> bytes:
        """What `adopt` makes the same connection of, with its socket: all but the state and its rooms.

        The connection stays, and its socket too. Left out are its tenant's rates: `draw_on` says them anew.

        Raises:
            RuntimeError: the hub is not frozen.
            ValueError: the connection has ended, is another hub's, or holds over 1 GiB.
        """
    def export_all(self) -> list[tuple[int, int, object, bytes]]:
        """Id, socket, state (None without) and parcel of `all_connections`, at once."""
    def adopt(self, fd: int, blob: bytes, state: object) -> Connection:
        """Make the connection whose socket is `fd` of what `export` packed, under its id.

        `state` must be None for one that still shakes hands. The socket is the hub's from here on, which
        reads nothing of it before `thaw`. Nobody is told: `on_arrival` and `on_handshake` have had their
        turn, and `on_close` and `on_departure` come from this hub.

        Raises:
            RuntimeError: the hub is not frozen.
            ValueError: the parcel is garbled or of another format, or the id is there already.
            OSError: `fd` cannot be watched. It is the caller's still, after each of these.
        """
    def adopt_room(self, blob: bytes, on_gap: Callable[[Any, int, int], int] | None = None) -> RoomLog:
        """Make the log that `RoomLog.export` packed, after its members: who has not come along is left out.

        Raises:
            RuntimeError: the hub is not frozen.
            ValueError: the parcel is garbled or of another format; a member cannot be one; `on_gap` lacks.
        """
    def release(self, connection: Connection) -> None:
        """Forget it: its descriptor is closed, but nothing is sent, and neither `on_close` nor `on_departure`
        comes. Harmless when it is gone; its rooms go on with the others.

        Raises:
            RuntimeError: the hub is not frozen.
            ValueError: it has ended by itself, of which `on_close` is told after `thaw`; or is another hub's.
        """
    def room(
        self,
        variant: int = 0,
        *,
        lag_limit_bytes: int = 0,
        lag_limit_messages: int = 0,
        slow_reader: str = "disconnect",
        priority: int = 1,
        on_gap: Callable[[Any, int, int], int] | None = None,
    ) -> RoomLog:
        """Make a log for one room in one variant.

        `lag_limit_bytes` and `lag_limit_messages` bound what a member whose socket is full may lack; 0 stands
        for the hub's own limits, and there 0 messages for no limit. Messages are counted in whole chunks (64
        KiB at most) behind the one the member reads: it is never over too early, and late by what that chunk
        still holds for it.

        Whoever is over a limit is closed with 4001 ("disconnect"), skips what is oldest until it lags at most
        half of the limits ("drop_oldest"), or is taken out of the log and goes on at its end when its socket
        takes data again ("latest"). Then, before the room goes on, `on_gap(state, after, last)` is called:
        the member does not get the publications above offset `after` up to `last`. What it sends to the
        connection goes before the room's next message; it returns how many of them are lost for good.
        """
    @property
    def timestamp(self) -> bytes:
        """The time as `2025-07-15T10:30:00.123Z`."""
    def stats(self) -> dict[str, int]:
        """Counters since the start, and gauges of now, by name."""
    def timings(self) -> dict[str, tuple[tuple[int, ...], float]]:
        """Histograms since the start, each as `Histogram.taken`.

        `deliveries`: from the beginning of the batch that brought the oldest publication of a send (its frame
        was read in that; from outside of a batch: when it was given to the log) to the end of the flush that
        made the send, once for each send to a member. What waits for a full socket goes later, uncounted.
        `flushes`: how long the sends of one batch's flush took, at most about `flush_chunk` of them.
        `handshakes`: from accept to the answer that lets a connection in.
        """

"""Every knob of the server, once: name, unit, bounds, default and the sentence that `--help` prints.

`Settings` is plain data. `realtime.loading` fills it; what a value does stands with the code that uses it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Meta

from realtime.settings_observing import ObservingSettings
from realtime.units import ByteRate, Bytes, Count, Flag, Millis, Rate, Seconds, Text

KB: Final = 1024
MB: Final = 1024 * KB
GB: Final = 1024 * MB

RATE_MAX: Final = 1_000_000_000  # a second


class Settings(ObservingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One server's configuration. `loading.load()` makes it; `describe()` lists the knobs."""

    # -- where it listens ---------------------------------------------------------------------------------
    host: Annotated[str, Meta(min_length=1, description="Address to listen on.", extra=Text)] = "127.0.0.1"
    port: Annotated[
        int, Meta(ge=0, le=65535, description="TCP port; 0 lets the system choose.", extra={"unit": "port"})
    ] = 8000
    backlog: Annotated[
        int, Meta(ge=1, le=65535, description="Connections the kernel holds until accepted.", extra=Count)
    ] = 4096
    tcp_defer_accept_s: Annotated[
        int,
        Meta(
            ge=0,
            le=60,
            description="Wake for a new connection only when its request is there; 0 turns it off.",
            extra=Seconds,
        ),
    ] = 5
    ws_path: Annotated[
        str,
        Meta(
            pattern=r"^/[A-Za-z0-9._~/-]*[A-Za-z0-9._~-]$",
            description="Path of the WebSocket endpoint; {ws_path}/{user_id} works too.",
            extra=Text,
        ),
    ] = "/ws"
    echo_path: Annotated[
        str,
        Meta(
            pattern=r"^(/[A-Za-z0-9._~/-]*)?$",
            description="Path that echoes every message, for conformance suites; empty turns it off.",
            extra=Text,
        ),
    ] = ""
    node: Annotated[
        str,
        Meta(
            pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,31})?$",
            description="Name of this worker in connection ids and metrics; empty takes host name and pid.",
            extra=Text,
        ),
    ] = ""

    # -- who may connect ----------------------------------------------------------------------------------
    jwt_secret: Annotated[
        str,
        Meta(
            description="Key that signs tokens; 32 bytes or more. Empty: open mode, on loopback only.",
            extra={"unit": "text", "secret": True},
        ),
    ] = ""
    jwt_algorithms: Annotated[
        tuple[Literal["HS256", "HS384", "HS512"], ...],
        Meta(min_length=1, description="Signature algorithms accepted; the first one signs.", extra=Text),
    ] = ("HS256",)
    jwt_leeway_s: Annotated[
        float, Meta(ge=0, le=300, description="Clock difference forgiven on exp, nbf and iat.", extra=Seconds)
    ] = 5.0
    jwt_cache_tokens: Annotated[
        int,
        Meta(ge=0, le=1_000_000, description="Verified tokens remembered until they expire.", extra=Count),
    ] = 20_000
    allow_query_token: Annotated[
        bool, Meta(description="Accept ?token=; it ends up in the logs of proxies.", extra=Flag)
    ] = False
    allowed_origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Origins browsers may connect from, such as https://app.example.com or "
            "https://*.example.com. Empty checks nothing; once set, no or another Origin is refused.",
            extra=Text,
        ),
    ] = ()

    asgi_listen: Annotated[
        bool,
        Meta(
            description="Inside an ASGI application: listen on host and port too, beside its own.",
            extra=Flag,
        ),
    ] = False

    # -- how much one peer may take -----------------------------------------------------------------------
    max_connections: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000_000,
            description="Connections open at once in one process; 0: what the open file limit allows.",
            extra=Count,
        ),
    ] = 0
    max_connections_per_user: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Connections one user may hold at once.",
            extra={"unit": "count", "env": "MAX_WS_CONNECTIONS_PER_USER"},
        ),
    ] = 5
    connection_limit_policy: Annotated[
        Literal["reject", "replace"],
        Meta(
            description="What happens when a user opens one more: it is rejected (4504), or it replaces the "
            "user's oldest one (4508).",
            extra=Text,
        ),
    ] = "reject"
    max_message_bytes: Annotated[
        int, Meta(ge=125, le=16 * MB, description="Largest message after defragmentation.", extra=Bytes)
    ] = 64 * KB
    max_head_bytes: Annotated[
        int, Meta(ge=1 * KB, le=64 * KB, description="Largest HTTP request head.", extra=Bytes)
    ] = 16 * KB
    messages_per_frame: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000,
            description="Most messages in one client frame.",
            extra={"unit": "count", "env": "MESSAGE_BATCH_SIZE"},
        ),
    ] = 100
    max_rooms_per_connection: Annotated[
        int, Meta(ge=1, le=10_000, description="Rooms one connection may be in.", extra=Count)
    ] = 100
    messages_per_second: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000_000,
            description="Messages a second one connection may send, and frames, whatever they hold. The "
            "default is a fuse against a runaway client, not a quota; set it to what your clients need.",
            extra=Rate,
        ),
    ] = 100_000
    messages_burst: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000_000,
            description="Messages one connection may send at once before that rate holds.",
            extra=Count,
        ),
    ] = 100_000
    bytes_per_second: Annotated[
        int,
        Meta(ge=0, le=RATE_MAX, description="Bytes a second of a connection; 0: no limit.", extra=ByteRate),
    ] = 0
    messages_per_second_per_user: Annotated[
        int, Meta(ge=0, le=RATE_MAX, description="Messages a second of a user; 0: no limit.", extra=Rate)
    ] = 0
    bytes_per_second_per_user: Annotated[
        int, Meta(ge=0, le=RATE_MAX, description="Bytes a second of a user; 0: no limit.", extra=ByteRate)
    ] = 0
    deliveries_per_second_per_user: Annotated[
        int,
        Meta(
            ge=0,
            le=RATE_MAX,
            description="Deliveries a second of a user's publications, one a member; 0: no limit.",
            extra=Rate,
        ),
    ] = 0
    messages_per_second_per_tenant: Annotated[
        int, Meta(ge=0, le=RATE_MAX, description="Messages a second of a tenant; 0: no limit.", extra=Rate)
    ] = 0
    bytes_per_second_per_tenant: Annotated[
        int, Meta(ge=0, le=RATE_MAX, description="Bytes a second of a tenant; 0: no limit.", extra=ByteRate)
    ] = 0
    deliveries_per_second_per_tenant: Annotated[
        int,
        Meta(
            ge=0,
            le=RATE_MAX,
            description="Deliveries a second of a tenant's publications, one a member; 0: no limit.",
            extra=Rate,
        ),
    ] = 0
    rate_burst_s: Annotated[
        float,
        Meta(
            gt=0,
            le=3600,
            description="Seconds of those rates, and of accepts_per_second, that may come at once.",
            extra=Seconds,
        ),
    ] = 2.0
    accepts_per_second: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="New connections a second in one process; others wait in the backlog. 0: no limit.",
            extra=Rate,
        ),
    ] = 0
    errors_per_second: Annotated[
        float,
        Meta(
            gt=0,
            le=1_000_000,
            description="Errors a second one connection may cause; one that goes on beyond is closed (4509).",
            extra=Rate,
        ),
    ] = 1.0
    errors_burst: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000_000,
            description="Errors one connection may cause at once before that rate holds.",
            extra=Count,
        ),
    ] = 100

    # -- time ---------------------------------------------------------------------------------------------
    handshake_timeout_s: Annotated[
        float,
        Meta(
            gt=0, le=120, description="From accept to a whole request, and to authentication.", extra=Seconds
        ),
    ] = 10.0
    heartbeat_interval_s: Annotated[
        float,
        Meta(
            gt=0,
            le=3600,
            description="Ping a connection silent for so long; twice that closes it (4002).",
            extra={"unit": "seconds", "env": "WS_HEARTBEAT_INTERVAL"},
        ),
    ] = 30.0
    max_connection_age_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400 * 30,
            description="Close a connection (4006) at this age, give or take a tenth, so that it comes back "
            "where there is room. 0: never.",
            extra=Seconds,
        ),
    ] = 0.0
    close_timeout_s: Annotated[
        float, Meta(gt=0, le=60, description="Wait for the peer's close frame after ours.", extra=Seconds)
    ] = 5.0
    reconnect_min_ms: Annotated[
        int,
        Meta(ge=0, le=600_000, description="Least delay clients are told to reconnect with.", extra=Millis),
    ] = 500
    reconnect_max_ms: Annotated[
        int, Meta(ge=1, le=3_600_000, description="Longest delay clients are told.", extra=Millis)
    ] = 15_000
    drain_timeout_s: Annotated[
        float,
        Meta(gt=0, le=3600, description="From SIGTERM to exit, whatever is still open.", extra=Seconds),
    ] = 20.0

    # -- sending and memory -------------------------------------------------------------------------------
    send_buffer_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=16 * MB,
            description="Kernel send buffer of a connection (SO_SNDBUF); 0 leaves it to the kernel.",
            extra=Bytes,
        ),
    ] = 0
    unsent_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=16 * MB,
            description="Unsent bytes the kernel takes for a connection (TCP_NOTSENT_LOWAT): nothing can "
            "overtake or drop them any more; 0 leaves it to the kernel.",
            extra=Bytes,
        ),
    ] = 16 * KB
    read_chunk_bytes: Annotated[
        int, Meta(ge=4 * KB, le=4 * MB, description="Most bytes read from a socket at once.", extra=Bytes)
    ] = 64 * KB
    unicast_limit_bytes: Annotated[
        int,
        Meta(
            ge=4 * KB,
            le=256 * MB,
            description="Replies waiting for one connection before it is cut (4001); "
            "never below twice the largest message.",
            extra=Bytes,
        ),
    ] = 1 * MB
    answer_bytes: Annotated[
        int,
        Meta(
            ge=1 * KB,
            le=128 * MB,
            description="Publications in one answer: a `history` stops there, a recovery over it is refused; "
            "below unicast_limit_bytes.",
            extra=Bytes,
        ),
    ] = 512 * KB
    room_lag_limit_bytes: Annotated[
        int,
        Meta(
            ge=64 * KB,
            le=1 * GB,
            description="How far a member may lag in a room's log before the room's policy; "
            "never below twice the largest message.",
            extra=Bytes,
        ),
    ] = 4 * MB
    room_lag_limit_messages: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000_000,
            description="The same in messages, counted by the chunk of up to 64 KiB; 0: bytes alone count.",
            extra=Count,
        ),
    ] = 32_768
    flush_chunk: Annotated[
        int,
        Meta(
            ge=1, le=100_000, description="Sends of a room's pass between two looks for reads.", extra=Count
        ),
    ] = 256
    accept_batch: Annotated[
        int, Meta(ge=1, le=10_000, description="Connections accepted at once.", extra=Count)
    ] = 64
    room_rest_ratio: Annotated[
        float,
        Meta(
            ge=0,
            le=100,
            description="A room whose pass took over 1 ms rests this times as long; 0 never rests.",
            extra={"unit": "ratio"},
        ),
    ] = 0.0
    room_rest_max_ms: Annotated[
        float, Meta(ge=0, le=1000, description="Longest such rest.", extra=Millis)
    ] = 5.0
    compression: Annotated[
        bool, Meta(description="Offer permessage-deflate, without context takeover.", extra=Flag)
    ] = False
    compression_level: Annotated[
        int, Meta(ge=1, le=9, description="zlib level: 1 fast, 9 small.", extra={"unit": "level"})
    ] = 1
    compression_threshold_bytes: Annotated[
        int, Meta(ge=0, le=1 * MB, description="Messages shorter than this go uncompressed.", extra=Bytes)
    ] = 256

    # -- rooms --------------------------------------------------------------------------------------------
    history_messages: Annotated[
        int, Meta(ge=0, le=1_000_000, description="Publications a room keeps for recovery.", extra=Count)
    ] = 1000
    history_bytes: Annotated[
        int, Meta(ge=0, le=1 * GB, description="Bytes of them a room keeps.", extra=Bytes)
    ] = 1 * MB
    memory_bytes: Annotated[
        int,
        Meta(
            ge=1 * MB,
            le=1024 * GB,
            description="Bytes all rooms together keep; above them the longest unused are forgotten first.",
            extra=Bytes,
        ),
    ] = 256 * MB
    idle_rooms: Annotated[
        int, Meta(ge=0, le=10_000_000, description="Empty rooms that are kept at most.", extra=Count)
    ] = 10_000
    recovery_window_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="How long an empty room keeps its history, and a key is remembered.",
            extra=Seconds,
        ),
    ] = 300.0
    presence_members: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000,
            description="Most members of a room that are named, in lists and in news of who comes and goes; "
            "above that they are only counted.",
            extra=Count,
        ),
    ] = 100
    notification_queue_size: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000_000,
            description="Notifications waiting for delivery before new ones are refused.",
            extra={"unit": "count", "env": "NOTIFICATION_QUEUE_SIZE"},
        ),
    ] = 10_000

    # -- what it stands on --------------------------------------------------------------------------------
    postgres_url: Annotated[
        str,
        Meta(
            pattern=r"^(postgres(ql)?://.+)?$",
            description="PostgreSQL database that keeps durable rooms, instead of sqlite_path; "
            "one server at a time has it.",
            extra={"unit": "url", "secret": True, "env": "POSTGRES_URL"},
        ),
    ] = ""
    sqlite_path: Annotated[
        str,
        Meta(
            description="File that keeps durable rooms, made if absent; one server at a time has it. "
            "Empty: durable rooms are kept in memory only, and lost with the process.",
            extra=Text,
        ),
    ] = "realtime.sqlite"
    store_synchronous: Annotated[
        Literal["normal", "full"],
        Meta(
            description="What an acked publication survives. normal: kill -9 of any process, and with "
            "PostgreSQL a power cut too; one may cost SQLite its last moments, which shows as a new epoch. "
            "full: SQLite syncs every group to the disk, PostgreSQL waits for its synchronous standbys.",
            extra=Text,
        ),
    ] = "normal"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="Least severe line that is logged.", extra=Text),
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"], Meta(description="One line of text or one JSON object a line.", extra=Text)
    ] = "text"

    @property
    def open_mode(self) -> bool:
        """No secret is set: unless the policy names issuers, everybody may connect, as whoever they say."""
        return not self.jwt_secret

    @property
    def loopback(self) -> bool:
        """Whether `host` can only be reached from this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def tells_all(self) -> bool:
        """Whether the clients' ports show the metrics and the version too."""
        if self.public_metrics == "auto":
            return self.loopback and not self.admin_port
        return self.public_metrics == "yes"

    def __repr__(self) -> str:
        """The values with secrets masked, so that no log or traceback holds one."""
        return f"Settings({', '.join(f'{knob.name}={knob.show(self)}' for knob in KNOBS.values())})"

    def queue_bytes(self, limit: int) -> int:
        """`limit`, or as much as lets one legal message through without cutting its readers."""
        return max(limit, 2 * self.max_message_bytes)


@dataclass(frozen=True, slots=True)
class Knob:
    """What is known about one setting. `variable` is its environment variable."""

    name: str
    variable: str
    unit: str
    bounds: str
    description: str
    default: Any
    secret: bool
    type: Any  # the annotated type, for msgspec.convert
    many: bool  # several values: a comma-separated list where text gives it
    flag: bool

    @property
    def option(self) -> str:
        """Its command-line option."""
        return "--" + self.name.replace("_", "-")

    def show(self, settings: Settings) -> str:
        """Its value as text, without secrets."""
        value = getattr(settings, self.name)
        if not self.secret:
            return as_text(value)
        if self.unit == "url":
            return mask(value)
        return "(set)" if value else ""  # nothing of it, though it may look like a URL


def describe() -> tuple[Knob, ...]:
    """Every knob, in the order of the page."""
    return tuple(KNOBS.values())


def as_text(value: object) -> str:
    """A value as one would write it in the environment."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)


def mask(secret: str) -> str:
    """Say of a URL what is not secret."""
    if not secret:
        return ""
    parts = urlsplit(secret)
    if not parts.scheme or not parts.netloc:
        return "(set)"
    where = parts.netloc.rpartition("@")[2]
    masked = f"***@{where}" if "@" in parts.netloc else where
    # The query may hold a password too (PostgreSQL takes ?password=).
    return urlunsplit((parts.scheme, masked, parts.path, "***" if parts.query else "", ""))


def _knob(name: str, annotated: Any, default: Any) -> Knob:
    base, *metas = get_args(annotated)
    meta: Meta = metas[0]
    extra = meta.extra or {}
    return Knob(
        name=name,
        variable=extra.get("env", f"REALTIME_{name.upper()}"),
        unit=extra["unit"],
        bounds=_bounds(base, meta),
        description=meta.description or "",
        default=default,
        secret=extra.get("secret", False),
        type=annotated,
        many=get_origin(base) is tuple,
        flag=base is bool,
    )


def _bounds(base: Any, meta: Meta) -> str:
    """`0 to 65535`, `above 0, to 120`, `debug, info, …`; empty where any value of the type will do."""
    item = get_args(base)[0] if get_origin(base) is tuple else base
    if get_origin(item) is Literal:
        return ", ".join(map(str, get_args(item)))
    if meta.le is None:
        return ""
    low = f"{meta.ge}" if meta.ge is not None else f"above {meta.gt},"
    return f"{low} to {meta.le}"


def _knobs() -> dict[str, Knob]:
    hints = get_type_hints(Settings, include_extras=True)
    fields = msgspec.structs.fields(Settings)
    # Those of the bases come last on the page, though a base's fields come first.
    inherited = {field.name for field in msgspec.structs.fields(ObservingSettings)}
    return {
        field.name: _knob(field.name, hints[field.name], field.default)
        for field in sorted(fields, key=lambda field: field.name in inherited)
    }


KNOBS: Final[Mapping[str, Knob]] = _knobs()

"""The flight recorder of a worker: which connections are recorded, and what becomes of their recordings.

The frames are native/recorder's. Here is decided when they are written: a connection that ended over a
mistake (its peer's, or ours) or too slow a reader goes to a file, and one that an operator names is recorded
for a while and then theirs to take. Reading, redacting and writing are a thread's: the event loop only copies
a ring.
"""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from realtime.core.audit import OPERATOR, SERVER, Action, Auditor, Event, Outcome
from realtime.core.auth import Identity
from realtime.core.catalog import Catalog
from realtime.core.cluster import BODY_BYTES_MAX, Cluster, WorkerId
from realtime.core.contracts import Clock, Connection
from realtime.core.room_rules import RoomRules
from realtime.core.session import Session
from realtime.core.users import identity_of
from realtime.edge.logs import Redactor, secrets_of
from realtime.edge.recording_frames import IN, OUT, Entry, Teller, entries_of
from realtime.edge.recordings import Folder
from realtime.errors import BadMessage, CloseCode, TooLarge, Unavailable
from realtime.ids import DEFAULT_TENANT, TenantId
from realtime.native.hub import Connection as HubConnection
from realtime.native.hub import Hub
from realtime.policy import Policy
from realtime.protocol.recording import FORMAT, VERSION, Head, write
from realtime.settings import Settings

if TYPE_CHECKING:
    from realtime.edge.outsider import Outsider

log: Final = logging.getLogger("realtime.edge")

RECORD: Final = "record"
"""The verb that operators' processes ask workers by."""

LIVE_MAX: Final = 16
"""Connections that operators have recorded at once, on one worker."""
LIVE_BYTES: Final = 65_536
SECONDS_MAX: Final = 3600.0
GRACE_S: Final = 60.0  # for whoever asked to come for it; then it is written to the folder, or lost
WAITING_MAX: Final = 64
ANSWER_BYTES: Final = BODY_BYTES_MAX - 4096
PRUNE_EVERY_S: Final = 3600.0

ASKED: Final = "asked"
FAILURE: Final = "failure"
WHY: Final[dict[int, str]] = {
    CloseCode.PROTOCOL_ERROR: "protocol_error",
    CloseCode.UNSUPPORTED_DATA: "protocol_error",
    CloseCode.INVALID_DATA: "protocol_error",
    CloseCode.MESSAGE_TOO_BIG: "protocol_error",
    CloseCode.INTERNAL_ERROR: "internal",
    CloseCode.INTERNAL: "internal",
    CloseCode.SLOW_CONSUMER: "slow_consumer",
    CloseCode.BAD_FRAME: "protocol_error",
    CloseCode.TOO_MANY_ERRORS: "too_many_errors",
}
"""Close codes over which a recording is written, where it was us who closed."""

_CLOSED_BY: Final = {IN: "client", OUT: "server"}


class RecordAsked(msgspec.Struct, frozen=True, array_like=True):
    """Begin to record a connection, `look` how it is, or `take` its recording, which ends it."""

    tenant: TenantId
    connection: str
    what: str
    seconds: float = 0.0


class RecordSaid(msgspec.Struct, frozen=True, array_like=True):
    """The answer: is it still being recorded, how many frames there are; when taken, the file, deflated."""

    recording: bool
    frames: int
    file: bytes = b""


class Story(NamedTuple):
    """What is known of one recording when it is copied."""

    head: Head
    ring: bytes
    rules: RoomRules


class Live:
    """A connection that an operator has recorded: until when, and whether it was recorded before."""

    __slots__ = ("before", "until")

    def __init__(self, until: float, before: bool) -> None:
        self.until = until
        self.before = before


class Recorder:
    """Records. `tick` about ten times a second, on the event loop's thread, as all that has no other."""

    def __init__(
        self,
        settings: Settings,
        hub: Hub,
        cluster: Cluster,
        clock: Clock,
        audit: Auditor,
        *,
        prefix: str,
        catalog: Catalog,
        policy: Callable[[], Policy],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Raises StartupError: the folder for recordings cannot be had."""
        self._hub = hub
        self._clock = clock
        self._audit = audit
        self._prefix = prefix
        self._catalog = catalog
        self._policy = policy
        self._loop = loop
        self._contents = settings.recorder_contents
        self._payload_bytes = settings.recorder_payload_bytes
        self._always = settings.recorder_bytes > 0
        self._redact = Redactor(secrets_of(settings))
        self._rules: tuple[Policy, RoomRules] | None = None
        self._folder: Folder | None = None
        if settings.recorder_dir:
            self._folder = Folder(settings)
            self._folder.open()
        self._live: dict[int, Live] = {}
        self._ended: dict[int, tuple[float, Story]] = {}
        self._threads = ThreadPoolExecutor(1, "recorder")
        self._writing: set[asyncio.Task[None]] = set()
        self._per_second = settings.recorder_files_per_minute / 60
        self._burst = float(settings.recorder_files_per_minute)
        self._may, self._may_since = self._burst, clock.monotonic()
        self._prune_at = clock.monotonic()
        self._numbers = 0
        self._counts = dict.fromkeys(("files", "file_bytes", "dropped", "failures", "taken"), 0)
        hub.record_to(
            self._on_ended,
            ring_bytes=settings.recorder_bytes,
            payload_bytes=settings.recorder_payload_bytes,
            memory_bytes=settings.recorder_memory_bytes,
            share=settings.recorder_share,
        )
        cluster.answer(RECORD, self._on_record)

    def stats(self) -> dict[str, int]:
        """Counters for /metrics, by name."""
        return {f"recorder_{name}_total": count for name, count in self._counts.items()}

    def failed(self, session: Session) -> None:
        """A handler failed over a message of `session`, which goes on: what led there is written."""
        connection = session.connection
        if isinstance(connection, HubConnection) and (taken := connection.recorded()) is not None:
            self._dump(self._story(connection, FAILURE, 0, taken))

    def tick(self) -> None:
        """End what nobody has come for, and delete what is too old."""
        now = self._clock.monotonic()
        for number in [number for number, live in self._live.items() if now >= live.until]:
            connection, live = self._hub.find(number), self._live.pop(number)
            if connection is not None and (taken := connection.recorded()) is not None:
                self._dump(self._story(connection, ASKED, 0, taken))
                self._stop(connection, live)
        for number in [number for number, (until, _) in self._ended.items() if now >= until]:
            self._dump(self._ended.pop(number)[1])
        if self._folder is not None and now >= self._prune_at:
            self._prune_at = now + PRUNE_EVERY_S
            self._begin(self._prune(self._folder))

    async def closed(self) -> None:
        """Wait until all is written; what was asked for and not come for is written too."""
        for _, story in self._ended.values():
            self._dump(story)
        self._ended.clear()
        while self._writing:
            await asyncio.wait(self._writing)
        self._threads.shutdown()

    # -- hand-over ------------------------------------------------------------------------------------------

    def left_s(self, number: int) -> float:
        """For how long an operator has a connection recorded still; 0 where none does."""
        live = self._live.get(number)
        return 0.0 if live is None else max(0.001, live.until - self._clock.monotonic())

    def resume(self, connection: Connection, left_s: float) -> None:
        """Go on recording a connection that an operator named in the process before: from here on."""
        if left_s > 0 and isinstance(connection, HubConnection):
            before = connection.recorded() is not None
            if connection.record(LIVE_BYTES, self._payload_bytes):
                self._live[connection.id] = Live(self._clock.monotonic() + left_s, before)

    # -- what operators ask ---------------------------------------------------------------------------------

    async def _on_record(self, asker: WorkerId, body: bytes) -> bytes:
        try:
            asked = msgspec.msgpack.decode(body, type=RecordAsked)
        except msgspec.MsgspecError as error:
            raise BadMessage(f"{RECORD}: {error}") from error
        prefix, _, text = asked.connection.rpartition("-")
        if prefix != self._prefix or not text.isascii() or not text.isdigit() or len(text) > 18:
            return b""  # another worker's, or nobody's
        number = int(text)
        act = {"begin": self._begin_live, "look": self._look, "take": self._take}.get(asked.what)
        if act is None:
            raise BadMessage(f"{RECORD}: there is no {asked.what!r}")
        said = act(asked, number)
        if not isinstance(said, RecordSaid | None):
            said = await said
        return b"" if said is None else msgspec.msgpack.encode(said)

    def _find(self, asked: RecordAsked, number: int) -> HubConnection | None:
        for each in getattr(self._hub, "foreign", ()):
            if each.id == number:
                raise BadMessage(f"{asked.connection} is not on this server's own sockets (TLS, or ASGI)")
        connection = self._hub.find(number)
        if connection is None or _tenant_of(connection) != asked.tenant:
            return None
        return connection

    def _begin_live(self, asked: RecordAsked, number: int) -> RecordSaid | None:
        if not 0 <= asked.seconds <= SECONDS_MAX:
            raise BadMessage(f"a connection is recorded for 0 to {SECONDS_MAX:g} seconds")
        connection = self._find(asked, number)
        if connection is None:
            return None
        live = self._live.get(number)
        if live is None and len(self._live) >= LIVE_MAX:
            raise TooLarge(f"{LIVE_MAX} connections are being recorded on this worker already")
        taken = connection.recorded()
        if not connection.record(LIVE_BYTES, self._payload_bytes):
            raise Unavailable("no memory for another recording: recorder_memory_bytes", retry_after_s=10.0)
        before = taken is not None if live is None else live.before
        until = self._clock.monotonic() + asked.seconds + GRACE_S
        self._live[number] = Live(until, before)
        self._note(connection, "begin")
        return RecordSaid(True, 0 if taken is None else taken[1])

    def _look(self, asked: RecordAsked, number: int) -> RecordSaid | None:
        if number in self._ended and self._ended[number][1].head.tenant == asked.tenant:
            return RecordSaid(False, self._ended[number][1].head.frames)
        connection = self._find(asked, number)
        taken = None if connection is None else connection.recorded()
        return None if taken is None else RecordSaid(True, taken[1])

    async def _take(self, asked: RecordAsked, number: int) -> RecordSaid | None:
        if number in self._ended and self._ended[number][1].head.tenant == asked.tenant:
            story = self._ended.pop(number)[1]
        else:
            connection = self._find(asked, number)
            taken = None if connection is None else connection.recorded()
            if connection is None or taken is None:
                return None
            story = self._story(connection, ASKED, 0, taken)
            live = self._live.pop(number, None)
            if live is not None:
                self._stop(connection, live)
        self._tell(story, "take", OPERATOR)
        self._counts["taken"] += 1
        file = await self._loop.run_in_executor(self._threads, self._fitting, story)
        return RecordSaid(False, story.head.frames, file)

    def _stop(self, connection: HubConnection, live: Live) -> None:
        if not live.before:
            connection.stop_recording()

    # -- what is written ------------------------------------------------------------------------------------

    def _on_ended(self, connection: HubConnection, code: int, taken: tuple[bytes, int, int, int]) -> None:
        """The hub: one that was recorded is gone."""
        live = self._live.pop(connection.id, None)
        why = WHY.get(code) if taken[3] != IN else None  # a peer may name any code
        if why is None and live is None:
            return
        story = self._story(connection, why or ASKED, code, taken)
        if live is not None:
            self._ended[connection.id] = self._clock.monotonic() + GRACE_S, story
        if why is not None:
            self._dump(story)

    def _story(
        self, connection: HubConnection, why: str, code: int, taken: tuple[bytes, int, int, int]
    ) -> Story:
        ring, frames, lost, closer = taken
        state: Any = connection.state
        identity = identity_of(connection)
        user = identity.user if isinstance(identity, Identity) else getattr(state, "user", None)
        head = Head(
            format=FORMAT,
            version=VERSION,
            connection=f"{self._prefix}-{connection.id}",
            user=user or "",
            tenant=_tenant_of(connection),
            address=connection.address,
            encoding="msgpack" if connection.binary else "json",
            why=why,
            code=code,
            closed_by=_CLOSED_BY.get(closer, ""),  # type: ignore[arg-type]  # the values are those
            monotonic_ns=time.monotonic_ns(),
            unix_ns=time.time_ns(),
            frames=frames,
            lost=lost,
            contents=self._contents,
        )
        return Story(head, ring, self._rules_now())

    def _rules_now(self) -> RoomRules:
        """Rules that the thread may ask: the worker's own remember what they are asked."""
        policy = self._policy()
        if self._rules is None or self._rules[0] is not policy:
            self._rules = policy, RoomRules(policy.rooms)
        return self._rules[1]

    def _dump(self, story: Story) -> None:
        """Have a recording written, unless there are too many, which is counted."""
        if self._folder is None:
            return
        now = self._clock.monotonic()
        self._may = min(self._burst, self._may + (now - self._may_since) * self._per_second)
        self._may_since = now
        if self._may < 1 or len(self._writing) >= WAITING_MAX:
            self._counts["dropped"] += 1
            log.warning(
                "the recording of %s (%s) was dropped: there are too many",
                *(story.head.connection, story.head.why),
            )
            return
        self._may -= 1
        self._numbers += 1
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(story.head.unix_ns // 10**9))
        name = f"{stamp}-{story.head.connection}-{story.head.why}-{self._numbers}"
        self._begin(self._write(self._folder, name, story))

    def _begin(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write(self, folder: Folder, name: str, story: Story) -> None:
        head = story.head
        try:
            path, size = await self._loop.run_in_executor(self._threads, self._kept, folder, name, story)
        except Exception as error:  # whatever it is: a recording is lost, and that is said
            self._counts["failures"] += 1
            log.error("the recording of %s (%s) was not written: %r", head.connection, head.why, error)
            return
        self._counts["files"] += 1
        self._counts["file_bytes"] += size
        self._tell(story, head.why, SERVER, path.name)
        log.warning(
            "%s (%s, close code %d): its last frames are in %s",
            *(head.connection, head.why, head.code, path),
        )

    async def _prune(self, folder: Folder) -> None:
        try:
            await self._loop.run_in_executor(self._threads, folder.prune, self._clock.time())
        except OSError as error:
            log.error("old recordings were not deleted: %s", error)

    def _tell(self, story: Story, what: str, actor: str, file: str = "") -> None:
        head = story.head
        detail: dict[str, str | int] = {"connection": head.connection, "what": what, "frames": head.frames}
        if file:
            detail["file"] = file
        self._audit.record(
            Event(
                tenant=TenantId(head.tenant),
                action=Action.RECORD,
                outcome=Outcome.ALLOWED,
                actor=actor,
                source=head.address,
                target=head.user,
                detail=detail,
            )
        )

    def _note(self, connection: HubConnection, what: str) -> None:
        self._tell(self._story(connection, ASKED, 0, (b"", 0, 0, 0)), what, OPERATOR)

    # -- in the thread --------------------------------------------------------------------------------------

    def _kept(self, folder: Folder, name: str, story: Story) -> tuple[Path, int]:
        data = self._file(story, entries_of(story.ring))
        path = folder.keep(name, data)
        try:
            folder.prune(time.time())
        except OSError as error:
            log.error("old recordings were not deleted: %s", error)
        return path, len(data)

    def _file(self, story: Story, entries: list[Entry]) -> bytes:
        """Return the file of the last of its frames."""
        head = story.head
        teller = Teller(
            TenantId(head.tenant),
            self._catalog,
            story.rules,
            self._redact,
            contents=head.contents,
        )
        lost = head.frames - len(entries)
        return write(msgspec.structs.replace(head, lost=lost), teller.frames(entries))

    def _fitting(self, story: Story) -> bytes:
        """Return the file deflated, with as many of its last frames as one answer holds."""
        entries = entries_of(story.ring)
        while True:
            file = zlib.compress(self._file(story, entries))
            if len(file) <= ANSWER_BYTES or not entries:
                return file
            entries = entries[len(entries) // 4 + 1 :]


def _tenant_of(connection: HubConnection) -> TenantId:
    identity = identity_of(connection)
    return DEFAULT_TENANT if identity is None else identity.tenant


async def ask_to_record(outsider: Outsider, asked: RecordAsked) -> RecordSaid:
    """Ask the worker whose connection it is, wherever that is; return what it says.

    Raises:
        BadMessage: there is no such connection of the tenant, or it cannot be recorded.
        TooLarge: too many are being recorded there.
        Unavailable: the worker gave no answer, or has no memory for it.
    """
    workers = await outsider.workers()
    prefix = WorkerId(asked.connection.rpartition("-")[0])
    body = msgspec.msgpack.encode(asked)
    # In a ring it begins with its worker's id; a server alone is known by another.
    whom = [prefix] if prefix in workers else workers
    for answer in await asyncio.gather(*(outsider.reach.ask(worker, RECORD, body) for worker in whom)):
        if answer:
            return msgspec.msgpack.decode(answer, type=RecordSaid)
    if asked.what == "begin":
        raise BadMessage(f"there is no connection {asked.connection!r} of tenant {asked.tenant!r}")
    raise BadMessage(f"{asked.connection!r} is not being recorded, or its recording was taken already")

"""A connection that is kept up: dialed again with back-off, asked whether it lives, given up when silent."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from realtime.backends.redis_client.address import Endpoint
from realtime.backends.redis_client.contract import RedisError, Reply
from realtime.backends.redis_client.dial import Dialer, Hello, Refused
from realtime.backends.redis_client.wire import NEVER, Call, Wire, pack
from realtime.core.contracts import Clock
from realtime.errors import Unavailable
from realtime.native.histogram import Histogram

log: Final = logging.getLogger("realtime.redis")

PING: Final = pack(("PING",))
ASKING: Final = pack(("ASKING",))
WRITE_BYTES: Final = 256 * 1024
BACK_OFF_MIN_S: Final = 0.05
BACK_OFF_MAX_S: Final = 1.0
RETRY_S: Final = 1.0

W = TypeVar("W", bound=Wire)


def away(why: str = "Redis does not answer; try again") -> Unavailable:
    """Return the error of a command that was not done, or nobody knows."""
    return Unavailable(why, retry_after_s=RETRY_S)


@dataclass(slots=True)
class Counts:
    """What connections that were lost had counted, and how many there were; how long commands took."""

    connects: int = 0
    messages: int = 0
    replies: int = 0
    took: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True, slots=True)
class Terms:
    """What all links of a client have in common."""

    dialer: Dialer
    clock: Clock
    random: Callable[[], float]
    timeout_s: float
    ping_interval_s: float
    queue_bytes: int
    counts: Counts = field(default_factory=Counts)


class Link(ABC, Generic[W]):
    """One connection to `node`, over and over. Subclasses say what is done with it while it stands.

    `on_change` is called when it stands, when it is lost, and when it could not be had.
    """

    def __init__(self, node: Endpoint, terms: Terms, on_change: Callable[[], None]) -> None:
        self.node = node
        self.wire: W | None = None
        self.hello: Hello | None = None  # of the connection that stands, or last stood
        self.trouble: str | None = None  # why it could not be had the last time
        self.refused = False  # because the node would not have us
        self.down_since = terms.clock.monotonic()
        self._terms = terms
        self._on_change = on_change
        self._connects = 0
        self._tries = 0
        self._closing = False
        self._is_down = asyncio.Event()
        self._is_down.set()
        self._silent_since = 0.0
        self._asked_at: float | None = None  # when the PING was sent that has no answer
        self._task = asyncio.create_task(self._run())

    @property
    def up(self) -> bool:
        """Whether the connection stands."""
        return self.wire is not None and not self._closing

    @property
    def doubtful(self) -> bool:
        """Whether it stands but was asked for a sign of life and has given none yet."""
        return self._asked_at is not None

    def close(self) -> None:
        """End it for good; what waits for an answer gets Unavailable."""
        self._closing = True
        self._task.cancel()
        if self.wire is not None:
            self.wire.abort("closed here")

    async def closed(self) -> None:
        """Wait until it is closed."""
        await asyncio.gather(self._task, return_exceptions=True)
        await self._is_down.wait()

    def check(self, now: float) -> None:
        """Ask a silent node for a sign of life; give it up when it has given none for an interval more."""
        wire = self.wire
        if wire is None:
            return
        if wire.heard:
            wire.heard = False
            self._silent_since = now
            self._asked_at = None
        elif self._asked_at is None:
            if now - self._silent_since >= self._terms.ping_interval_s:
                self._asked_at = now
                wire.send(Call(-1, PING, None, NEVER, self, final=True))
        elif now - self._asked_at >= self._terms.ping_interval_s:
            wire.abort(f"silent for {now - self._silent_since:.2f} s", reset=True)

    def excuse(self, span_s: float) -> None:
        """Do not count so much time as silence: we did not listen."""
        self._silent_since += span_s
        if self._asked_at is not None:
            self._asked_at += span_s

    @abstractmethod
    def _make(self) -> W:
        """Return a connection that is not dialed yet."""

    def _opened(self, wire: W) -> None:
        """`wire` is now the link's."""

    def _lost(self, wire: W) -> None:
        """`wire` was lost, and is the link's no longer."""

    async def _run(self) -> None:
        while True:
            try:
                await self._once()
            except (OSError, TimeoutError, Refused) as error:
                self.trouble = str(error) or "no answer"
                self.refused = isinstance(error, Refused)
                if self._tries == 0:
                    log.warning("redis %s: %s", self.node, self.trouble)
                self._on_change()
            except Exception:
                log.exception("redis %s: the connection's own code failed", self.node)
            spread = min(BACK_OFF_MAX_S, BACK_OFF_MIN_S * 2.0 ** min(self._tries, 10))
            self._tries += 1
            # From half of it on: many workers that lost the same node do not come back in one moment.
            await asyncio.sleep(spread * (0.5 + 0.5 * self._terms.random()))

    async def _once(self) -> None:
        """Dial, and return when the connection is lost."""
        wire, hello = await self._terms.dialer.dial(self.node, self._make)
        lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def on_lost(why: str) -> None:
            self._down(wire)
            if not lost.done():
                lost.set_result(why)

        wire.on_lost = on_lost
        self._up(wire, hello)
        log.warning("redis %s: connection lost: %s", self.node, await lost)

    def _up(self, wire: W, hello: Hello) -> None:
        self.wire, self.hello, self.trouble, self.refused = wire, hello, None, False
        if self._connects or self._tries:
            log.warning("redis %s: connected again", self.node)
        self._is_down.clear()
        self._connects += 1
        self._terms.counts.connects += 1
        self._tries = 0
        wire.heard = True
        self._asked_at = None
        self._opened(wire)
        self._on_change()

    def _down(self, wire: W) -> None:
        self.wire = None
        self._asked_at = None
        self.down_since = self._terms.clock.monotonic()
        self._is_down.set()
        self._lost(wire)
        self._on_change()


class CommandLink(Link[Wire]):
    """Commands to one master, and what waits to be written, bounded together in bytes."""

    def __init__(
        self,
        node: Endpoint,
        terms: Terms,
        on_change: Callable[[], None],
        on_refused: Callable[[CommandLink, Call, RedisError], None],
    ) -> None:
        self._on_refused = on_refused
        self._waiting: deque[Call] = deque()
        self._waiting_bytes = 0
        self._flushing = False
        self._loop = asyncio.get_running_loop()
        super().__init__(node, terms, on_change)

    @property
    def queued_bytes(self) -> int:
        """Of commands without a reply, written or not."""
        return self._waiting_bytes + (self.wire.sent_bytes if self.wire is not None else 0)

    @property
    def busy(self) -> bool:
        """Whether anybody waits for a reply."""
        sent = self.wire.sent if self.wire is not None else ()
        return bool(self._waiting) or any(call.then is not None for call in sent)

    def take(self, call: Call) -> None:
        """Queue a command; it may be refused, but later: `then` is not called from within."""
        wire = self.wire
        size = len(call.data)
        if wire is None:
            if self._closing or self._terms.clock.monotonic() - self.down_since >= self._terms.timeout_s:
                return self._refuse(call, away())
            if self._waiting_bytes + size > self._terms.queue_bytes:
                return self._refuse(call, away("too much waits for Redis; try again"))
        elif self._waiting_bytes + wire.sent_bytes + size > self._terms.queue_bytes:
            return self._refuse(call, away("too much waits for Redis; try again"))
        elif not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        self._waiting.append(call)
        self._waiting_bytes += size
        return None

    async def ask(self, *command: str) -> Reply:
        """Return the reply to a command for this node alone. Raises RedisError and Unavailable, as is."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        self.take(Call(-1, pack(command), settler(answer), self._deadline(), self, final=True))
        reply: Reply = await settled(answer)
        return reply

    def give_back(self) -> list[Call]:
        """Return what is not written, and have it no longer: it may go elsewhere."""
        calls = list(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        return calls

    def expire(self, now: float) -> None:
        """Give up what has waited for too long. What is written keeps its place until its reply comes."""
        if self.wire is not None:
            for call in self.wire.sent:
                if call.deadline <= now and call.then is not None:
                    call.finish(away())
        if any(call.deadline <= now for call in self._waiting):
            calls = self.give_back()
            self._waiting.extend(call for call in calls if call.deadline > now)
            self._waiting_bytes = sum(len(call.data) for call in self._waiting)
            for call in calls:
                if call.deadline <= now:
                    call.finish(away())

    def close(self) -> None:
        super().close()
        _finish(self.give_back(), "Redis is not used any more")

    def _deadline(self) -> float:
        return self._terms.clock.monotonic() + self._terms.timeout_s

    def _refuse(self, call: Call, error: Unavailable) -> None:
        self._loop.call_soon(call.finish, error)

    def _make(self) -> Wire:
        wire = Wire()
        wire.on_refused = lambda call, error: self._on_refused(self, call, error)
        # A command's deadline says when it was asked for: it carries no other time.
        wire.timed = (self._terms.clock.monotonic, self._terms.timeout_s, self._terms.counts.took)
        return wire

    def _opened(self, wire: Wire) -> None:
        wire.on_resumed = self._flush
        self._flush()

    def _lost(self, wire: Wire) -> None:
        sent, wire.sent = wire.sent, deque()
        self._terms.counts.replies += wire.replies
        # Written: nobody knows whether these were done.
        _finish(sent, "the connection to Redis broke; try again")

    def _flush(self) -> None:
        """Write what waits, in one piece where it is not much; what the socket cannot take waits on."""
        self._flushing = False
        wire, waiting = self.wire, self._waiting
        while waiting and wire is not None and not wire.paused:
            parts = []
            size = 0
            while waiting and size < WRITE_BYTES:
                call = waiting.popleft()
                data = call.data
                if call.asking:
                    call.asking = False
                    parts.append(ASKING)
                    wire.sent.append(Call(-1, b"", None, NEVER, self, final=True))
                parts.append(data)
                size += len(data)
                wire.sent.append(call)
            self._waiting_bytes -= size
            wire.sent_bytes += size
            wire.write(b"".join(parts))


def settler(answer: asyncio.Future[Any]) -> Callable[[Any], None]:
    """Return what gives a reply to a future, whether or not anybody still waits for it."""

    def settle(result: Any) -> None:
        if not answer.done():
            answer.set_result(result)

    return settle


async def settled(answer: asyncio.Future[Any]) -> Any:
    """Return the reply that `answer` gets; raise it where it is an error."""
    result = await answer
    if isinstance(result, Exception):
        raise result
    return result


def _finish(calls: Iterable[Call], why: str) -> None:
    for call in calls:
        call.finish(away(why))

"""Worker to worker: requests with answers, and messages without, over one sharded channel a worker.

A channel forgets what nobody is there to read, and says how many were: who is gone is known at once. Nothing
is sent twice. Whoever asks waits for a bounded time, and then knows nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, NamedTuple

from realtime.backends.cluster.parcels import (
    ANSWER,
    ASK,
    ERROR,
    TELL,
    Parcel,
    decode_error,
    decode_parcel,
    encode_error,
    encode_parcel,
)
from realtime.backends.redis_client.contract import Redis, Reply, slot_of
from realtime.core.cluster import Answer, NotServed, WorkerId
from realtime.core.contracts import Clock
from realtime.core.router import Spawn
from realtime.core.verbs import Verbs, fitting
from realtime.errors import RealtimeError, Unavailable

log: Final = logging.getLogger("realtime.cluster")

ASKED_MAX: Final = 10_000  # requests that wait for answers
ANSWERING_MAX: Final = 10_000  # requests that handlers still work on


class Asked(NamedTuple):
    """A request that waits for its answer."""

    worker: WorkerId
    until: float
    answer: asyncio.Future[bytes]


class Inbox:
    """One worker's. `spawn` runs what has to wait. `ready` is whether others can ever have reached it."""

    def __init__(
        self,
        redis: Redis,
        worker: WorkerId,
        clock: Clock,
        spawn: Spawn,
        *,
        prefix: str,
        timeout_s: float,
    ) -> None:
        self.worker = worker
        self.ready = False
        self._redis = redis
        self._clock = clock
        self._spawn = spawn
        self._prefix = prefix
        self._timeout_s = timeout_s
        self._verbs = Verbs(spawn)
        # Not from 1: a process that goes on as this worker must not take answers for the one before it.
        self._numbers = itertools.count(clock.monotonic_ns())
        self._asked: dict[int, Asked] = {}  # by number, and so by `until` too
        self._answering = 0
        self._timeouts = 0
        self._own = self._channel(worker)
        self._all = f"{prefix}:{{all}}".encode()
        self.answer: Callable[[str, Answer], None] = self._verbs.add

    @property
    def answering(self) -> int:
        """How many requests handlers still work on."""
        return self._answering

    def open(self) -> None:
        """Begin to listen."""
        self._redis.subscribe(self._own, self)
        self._redis.subscribe(self._all, Ear(self._take))

    def close(self) -> None:
        """Listen no longer; whoever waits for an answer gets Unavailable."""
        self.ready = False
        self._redis.unsubscribe(self._own)
        self._redis.unsubscribe(self._all)
        self._fail(list(self._asked), "the worker has stopped")

    async def ask(self, worker: WorkerId, verb: str, body: bytes) -> bytes:
        """Return the answer, as `Cluster.ask`."""
        fitting(body)
        if worker == self.worker:
            outcome = self._verbs.asked(worker, verb, body)
            return outcome if isinstance(outcome, bytes) else await outcome
        if len(self._asked) >= ASKED_MAX:
            raise Unavailable("too many requests wait for other workers", retry_after_s=1.0)
        number = next(self._numbers)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[number] = Asked(worker, self._clock.monotonic() + self._timeout_s, answer)
        try:
            self._send(worker, Parcel(ASK, self.worker, number, verb, body), partial(self._sent, number))
            return await answer
        finally:
            self._asked.pop(number, None)

    def tell(self, verb: str, body: bytes, worker: WorkerId | None = None) -> None:
        """Tell one or all, as `Cluster.tell`. This worker hears it at once, and without Redis."""
        fitting(body)
        parcel = Parcel(TELL, self.worker, 0, verb, body)
        if worker is None:
            self._redis.send(slot_of(self._all), "SPUBLISH", self._all, encode_parcel(parcel))
        elif worker != self.worker:
            self._send(worker, parcel, None)
        if worker in (None, self.worker):
            self._verbs.told(self.worker, verb, body)

    def gone(self, worker: WorkerId) -> None:
        """Give up the answers of a worker that is not in the ring any more."""
        self._fail([number for number, asked in self._asked.items() if asked.worker == worker], "it has gone")

    def tick(self) -> None:
        """Give up what was not answered in time."""
        now = self._clock.monotonic()
        late = list(itertools.takewhile(lambda number: self._asked[number].until <= now, self._asked))
        self._timeouts += len(late)
        self._fail(late, "no answer in time")

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics."""
        return {
            "inbox_asked": len(self._asked),
            "inbox_answering": self._answering,
            "inbox_timeouts_total": self._timeouts,
        }

    # -- what Redis calls -----------------------------------------------------------------------------------

    def on_message(self, payload: bytes) -> None:
        """Take what another worker has sent to this one."""
        self._take(payload)

    def on_subscribed(self) -> None:
        """Others can reach this worker."""
        self.ready = True

    def on_unsubscribed(self) -> None:
        """They cannot for a while, and are told so where they try."""

    # -- parcels --------------------------------------------------------------------------------------------

    def _take(self, payload: bytes) -> None:
        parcel = decode_parcel(payload)
        if parcel is None:
            log.warning("%d bytes on a channel between workers are no parcel", len(payload))
        elif parcel.kind == ASK:
            self._answer(parcel)
        elif parcel.kind == TELL:
            if parcel.sender != self.worker:  # who tells all has told itself
                self._verbs.told(parcel.sender, parcel.verb, parcel.body)
        elif (asked := self._asked.get(parcel.number)) is not None and not asked.answer.done():
            if parcel.kind == ANSWER:
                asked.answer.set_result(parcel.body)
            else:
                asked.answer.set_exception(decode_error(parcel.body))

    def _answer(self, parcel: Parcel) -> None:
        try:
            if self._answering >= ANSWERING_MAX:
                raise Unavailable("the worker has too much to answer", retry_after_s=1.0)
            outcome = self._verbs.asked(parcel.sender, parcel.verb, parcel.body)
        except RealtimeError as error:
            self._reply(parcel, ERROR, encode_error(error))
            return
        if isinstance(outcome, bytes):
            self._reply(parcel, ANSWER, outcome)
        else:
            self._answering += 1
            self._spawn(self._answer_later(parcel, outcome))

    async def _answer_later(self, parcel: Parcel, outcome: Awaitable[bytes]) -> None:
        try:
            self._reply(parcel, ANSWER, await outcome)
        except RealtimeError as error:
            self._reply(parcel, ERROR, encode_error(error))
        finally:
            self._answering -= 1

    def _reply(self, parcel: Parcel, kind: int, body: bytes) -> None:
        self._send(parcel.sender, Parcel(kind, self.worker, parcel.number, "", body), None)

    def _send(
        self, worker: WorkerId, parcel: Parcel, then: Callable[[Reply | Exception], object] | None
    ) -> None:
        channel = self._channel(worker)
        self._redis.send(slot_of(channel), "SPUBLISH", channel, encode_parcel(parcel), then=then)

    def _sent(self, number: int, readers: Reply | Exception) -> None:
        """Look whether anybody has read a request."""
        asked = self._asked.get(number)
        if asked is None or asked.answer.done():
            return
        if readers == 0:
            asked.answer.set_exception(NotServed(f"worker {asked.worker} is not there"))
        elif isinstance(readers, Exception):
            self._fail([number], "it cannot be reached now")

    def _fail(self, numbers: list[int], why: str) -> None:
        for number in numbers:
            worker, _, answer = self._asked.pop(number)
            if not answer.done():
                answer.set_exception(Unavailable(f"worker {worker}: {why}", retry_after_s=1.0))

    def _channel(self, worker: WorkerId) -> bytes:
        return f"{self._prefix}:{{inbox/{worker}}}".encode()


class Ear:
    """A subscription of which the messages alone count."""

    def __init__(self, on_message: Callable[[bytes], None]) -> None:
        self.on_message = on_message

    def on_subscribed(self) -> None:
        """What was missed is lost."""

    def on_unsubscribed(self) -> None:
        """What is missed is lost."""

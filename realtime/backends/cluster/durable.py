"""The broker of many workers whose durable rooms outlive Redis: that orders them, a shared store keeps them.

A publication is ordered and delivered by Redis, written by the worker that has it from its client, and then
acknowledged: what was acked is found again whichever of the two dies. What was delivered and not acked may be
lost with a Redis master's tail; that is a new epoch, which everybody is told of.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Final, Protocol

from realtime.backends.cluster.broker import RedisBroker
from realtime.backends.cluster.deep import DeepHistory
from realtime.backends.cluster.mender import Mender
from realtime.backends.cluster.names import RoomNames, epoch_text
from realtime.backends.cluster.ordering import Ordered
from realtime.backends.cluster.pacer import Pacer
from realtime.backends.cluster.reader import RoomReader
from realtime.backends.cluster.stream import RedisStream
from realtime.backends.groups import Superseded
from realtime.backends.kept_order import Source
from realtime.backends.sealing.store import SharedStore
from realtime.backends.storage_usage import StorageMeter
from realtime.core.contracts import (
    Clock,
    Deliver,
    Lost,
    Others,
    Page,
    Position,
    Receipt,
    Recovery,
    Row,
    Stream,
    StreamState,
    Terms,
)
from realtime.core.kinds import RoomKind
from realtime.core.pending import Pending
from realtime.errors import Unavailable
from realtime.ids import RoomId
from realtime.native.sequence import Sequence

log: Final = logging.getLogger("realtime.broker")

RETRY_S: Final = 1.0
LOOKS_AT_ONCE: Final = 64
LOOKS_MAX: Final = 10_000  # repeats that wait to be looked up


class Order(Protocol):
    """Orders and delivers one publication, as `Writer.order`."""

    def __call__(
        self,
        type: str,
        sender: bytes | None,
        content: bytes,
        terms: Terms | None,
        then: Callable[[Ordered | Exception], None],
    ) -> None: ...


class KeepingBroker:
    """Rooms as `ordering` has them, those of durable kinds kept in `store`.

    `ordering` was made with an `Opener` on the same store, and with `deepen`.
    """

    def __init__(self, ordering: RedisBroker, store: SharedStore, clock: Clock) -> None:
        self.ordering = ordering
        self.store = store
        self._clock = clock
        self._pacer = Pacer(LOOKS_AT_ONCE)
        self._mender = Mender(ordering, store, clock, self._pacer)
        self.storage: StorageMeter | None = None  # whom tenants' storage is counted by
        self._in_flight = 0  # ordered, and not known to be kept
        self._repeats = 0

    def open(
        self,
        room: RoomId,
        kind: RoomKind,
        deliver: Deliver,
        lost: Lost | None = None,
        others: Others | None = None,
    ) -> Stream:
        """Subscribe this worker to `room`, as `Broker.open`."""
        stream = self.ordering.open(room, kind, deliver, lost, others)
        return KeepingStream(self, stream, kind) if kind.durable else stream

    def publish(
        self,
        room: RoomId,
        kind: RoomKind,
        type: str,
        sender: bytes | None,
        content: bytes,
        terms: Terms | None = None,
    ) -> Pending[Receipt]:
        """Publish to a room whether or not anybody here is in it, as `Broker.publish`."""
        if not kind.durable:
            return self.ordering.publish(room, kind, type, sender, content, terms)
        order = partial(self.ordering.order, room, kind)
        return self.keep(room, kind, order, type, sender, content, terms)

    def signal(self, room: RoomId, kind: RoomKind, push: bytes) -> None:
        """Give one push to who is there now, as `Broker.signal`."""
        self.ordering.signal(room, kind, push)

    async def expunge(self, room: RoomId, kind: RoomKind, upto: int) -> None:
        """Have Redis forget what the room published up to offset `upto`, as `Broker.expunge`.

        It keeps whole runs, so what came in one run with that goes too, and is in the store before.
        """
        if not kind.durable:
            return
        reader = self.ordering.reader(room, kind)
        run = await reader.run_at(upto)
        if run is None:
            return
        if run.last > upto:
            after, last = Position(upto, epoch_text(run.epoch)), Position(run.last, epoch_text(run.epoch))
            entries = await reader.entries(after, run.last - upto, last)
            # Of an epoch that is over, those that are not kept are nobody's any more.
            with contextlib.suppress(Superseded):
                await self._mender.keep(room, [each for each in entries if each.position.offset <= run.last])
        names = RoomNames(self.ordering.prefix, room)
        least = b"%d-%d" % (run.epoch, run.last + 1)
        await self.ordering.ask(names.slot, b"XTRIM", names.stream, b"MINID", least)

    def drop_history(self, room: RoomId) -> None:
        """Have the next answers from the store, as `Broker.drop_history`."""
        self.ordering.drop_history(room)

    @property
    def busy(self) -> int:
        """What waits for Redis or for the store, as `Broker.busy`."""
        return self.ordering.busy + self._in_flight + len(self._mender)

    def export(self, known: Mapping[RoomId, Position]) -> Iterator[StreamState]:
        """Return how far the members of each room are, as `Broker.export`."""
        return self.ordering.export(known)

    def adopt(self, state: StreamState, kind: RoomKind) -> None:
        """Go on in a room from there, as `Broker.adopt`."""
        self.ordering.adopt(state, kind)

    def keep_only(self, rooms: Collection[RoomId]) -> None:
        """Forget the others, as `Broker.keep_only`."""
        self.ordering.keep_only(rooms)

    @property
    def kept_rooms(self) -> Collection[RoomId]:
        """Those with members, as `Broker.kept_rooms`."""
        return self.ordering.kept_rooms

    def tick(self) -> None:
        """Do what is due. Called about ten times a second."""
        self.ordering.tick()
        self._mender.tick()

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics: those of the store too."""
        return {
            **self.store.stats(),
            **self.ordering.stats(),
            **({} if self.storage is None else self.storage.stats()),
            "broker_in_flight": self._in_flight,
            "broker_repeats_total": self._repeats,
            "broker_holes": len(self._mender),
            "broker_mended_total": self._mender.mended,
        }

    async def close(self) -> None:
        """Ask nothing more. The store is closed by who opened it, and then commits what is queued."""
        if self.storage is not None:
            await self.storage.close()
        await self._pacer.close()

    # -- the streams' ---------------------------------------------------------------------------------------

    def keep(
        self,
        room: RoomId,
        kind: RoomKind,
        order: Order,
        type: str,
        sender: bytes | None,
        content: bytes,
        terms: Terms | None,
    ) -> Pending[Receipt]:
        """Order, deliver and keep one publication.

        Raises:
            Unavailable: the store takes nothing now, so it was not ordered either.
            QuotaExceeded: the tenant keeps as much as it may; it was not ordered.
        """
        self.store.check(room)
        size = len(content)
        if self.storage is not None:
            self.storage.check(room.tenant, size)
            self.storage.hold(room.tenant, size)
        receipt: Pending[Receipt] = Pending()
        key = None if terms is None else terms.key
        order(type, sender, content, terms, partial(self._on_ordered, room, kind, sender, key, size, receipt))
        return receipt

    def _on_ordered(
        self,
        room: RoomId,
        kind: RoomKind,
        sender: bytes | None,
        key: str | None,
        size: int,
        receipt: Pending[Receipt],
        ordered: Ordered | Exception,
    ) -> None:
        if self.storage is not None:
            self.storage.let_go(room.tenant, size)  # the row is counted from here on
        if isinstance(ordered, Exception):
            receipt.settle(ordered)
            return
        if ordered.duplicate:
            self._repeat(room, kind, sender, key, receipt, ordered.position)
            return
        row = Row(room, ordered.position, ordered.push, sender, key, int(self._clock.time() * 1000))
        try:
            self.store.append(row, partial(self._on_kept, kind, receipt))
        except Unavailable as error:
            self._mender.note(room, kind, ordered.position)
            receipt.settle(_unknown(error))
        else:
            self._in_flight += 1
            if self.storage is not None:
                self.storage.sent(row)

    def _on_kept(
        self, kind: RoomKind, receipt: Pending[Receipt], row: Row, error: Unavailable | None
    ) -> None:
        self._in_flight -= 1
        if self.storage is not None:
            self.storage.done(row, kept=error is None)
        if error is None:
            receipt.settle((row.position.offset, row.position.epoch, False))
            return
        if isinstance(error, Superseded):
            self._mender.note_outrun(row.room, kind, row.position)
        else:
            self._mender.note(row.room, kind, row.position)
        receipt.settle(_unknown(error))

    def _repeat(
        self,
        room: RoomId,
        kind: RoomKind,
        sender: bytes | None,
        key: str | None,
        receipt: Pending[Receipt],
        first: Position,
    ) -> None:
        """Acknowledge a repeat once what it repeats is in the store."""
        assert key is not None
        self._repeats += 1
        if len(self._pacer) >= LOOKS_MAX:
            receipt.settle(Unavailable("too much waits for the store", retry_after_s=RETRY_S))
            return
        self._pacer.add(partial(self._look, room, kind, sender, key, receipt, first))

    async def _look(
        self,
        room: RoomId,
        kind: RoomKind,
        sender: bytes | None,
        key: str,
        receipt: Pending[Receipt],
        first: Position,
    ) -> None:
        outcome: Receipt | Exception = Unavailable("the store failed", retry_after_s=RETRY_S)
        try:
            await self._be_kept(room, kind, sender, key, first)
            outcome = (first.offset, first.epoch, True)
        except Unavailable as error:
            outcome = error
        finally:
            receipt.settle(outcome)

    async def _be_kept(
        self, room: RoomId, kind: RoomKind, sender: bytes | None, key: str, first: Position
    ) -> None:
        """See that the publication at `first` is in the store, written by whomever.

        Raises:
            Unavailable: it is not known to be; not now, or never: then the next repeat is published anew.
        """
        if await self.store.has(room, first):
            return
        before = Position(first.offset - 1, first.epoch)
        found = await self.ordering.reader(room, kind).entries(before, 1, first)
        if not found or found[0].position != first:
            raise Unavailable("what this repeats is not to be found now", retry_after_s=RETRY_S)
        try:
            await self._mender.keep(room, [found[0]._replace(key=key)])
        except Superseded:
            names = RoomNames(self.ordering.prefix, room)
            await self.ordering.ask(names.slot, b"DEL", names.idempotency(sender, key))
            raise


class KeepingStream:
    """A durable room's stream: as Redis has it, but what is published is kept before it is acknowledged."""

    __slots__ = ("_broker", "_inner", "_kind")

    sequence: Sequence | None = None

    def __init__(self, broker: KeepingBroker, inner: RedisStream, kind: RoomKind) -> None:
        self._broker = broker
        self._inner = inner
        self._kind = kind

    def publish(
        self, type: str, sender: bytes | None, content: bytes, terms: Terms | None = None
    ) -> Pending[Receipt]:
        """Order, deliver and keep one publication, as `Stream.publish`."""
        inner = self._inner
        return self._broker.keep(inner.room, self._kind, inner.order, type, sender, content, terms)

    def recover(self, since: Position | None) -> Recovery | Awaitable[Recovery]:
        """Return the position and what was missed, as `Stream.recover`."""
        return self._inner.recover(since)

    def history(self, before: int | None, after: int | None, limit: int) -> Page | Awaitable[Page]:
        """Return a page of all that was ever kept, as `Stream.history`."""
        return self._inner.history(before, after, limit)

    def signal(self, push: bytes) -> None:
        """Give one push to who is there now, as `Stream.signal`."""
        self._inner.signal(push)

    def share(self, entry: bytes | None) -> None:
        """Let other workers know `entry`, as `Stream.share`."""
        self._inner.share(entry)

    def close(self) -> None:
        """End the subscription. What is in flight is kept all the same."""
        self._inner.close()


def deepen(store: SharedStore, clock: Clock) -> Callable[[RoomId, RoomReader], Source]:
    """Return what makes durable rooms' histories whole, as `ordering.Deepen`."""

    def deep(room: RoomId, reader: RoomReader) -> Source:
        return DeepHistory(room, store, reader, clock)

    return deep


def _unknown(error: Unavailable) -> Unavailable:
    return Unavailable(
        "nobody knows whether it is kept; a repeat with the same key tells",
        retry_after_s=RETRY_S if error.retry_after_s is None else error.retry_after_s,
    )

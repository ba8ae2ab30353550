"""One room that this worker is subscribed to: everybody's publications in their one order, from Redis.

What is published comes over the room's channel, and this worker's own with Redis' answer too: whichever is
first. Only what is next in the order is delivered. Where something is missing (the channel was away, a
message got lost, another epoch begins) the stream stops, asks where the room is, fetches what it lacks from
what Redis keeps, tells what cannot be had, and goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from struct import Struct
from struct import error as StructError  # noqa: N812 - a class, though it is not named like one
from typing import TYPE_CHECKING, Final

from realtime.backends.cluster.names import epoch_text
from realtime.backends.cluster.ordering import Ordered
from realtime.backends.cluster.reader import Place, RoomReader, Run
from realtime.backends.cluster.shares import Shares
from realtime.backends.cluster.writer import RETRY_S, SIGNAL, Writer
from realtime.backends.kept_order import KeptOrder, Source
from realtime.backends.sealing.box import is_sealed
from realtime.core.contracts import Deliver, Lost, Others, Page, Position, Receipt, Recovery, Terms
from realtime.core.kinds import RoomKind
from realtime.core.pending import Pending
from realtime.errors import Unavailable
from realtime.ids import RoomId
from realtime.native.blob import SealedRecord, count_records, pushes_of
from realtime.native.encode import json_string
from realtime.native.sequence import Sequence

if TYPE_CHECKING:
    from realtime.backends.cluster.broker import RedisBroker

log: Final = logging.getLogger("realtime.broker")

EPOCH_CHANGED: Final = "epoch_changed"
UNRECOVERABLE: Final = "unrecoverable"  # Redis keeps it no longer

RUN, ENTRY, NO_ENTRY = 1, 3, 4  # the first byte on a room's channel; `SIGNAL` is 2
_RUN: Final = Struct("<BQQ")
# What may wait in a stream that is catching up; what comes after that is fetched.
HELD_RUNS: Final = 256
HELD_BYTES: Final = 1024 * 1024
PASSED_MAX: Final = 2000  # publications that are read of the store for members who are far behind
ROUNDS: Final = 20  # of asking where the room is, until what has come fits to it


class RedisStream:
    """A `Stream` on a room in Redis.

    `_standing`: the channel is subscribed to. `_live`: it is, and everything up to what comes next over it
    has been delivered. `_held` are the runs that came meanwhile, oldest first.
    """

    __slots__ = (
        "__weakref__",
        "_again",
        "_asking",
        "_breaks",
        "_broker",
        "_closed",
        "_deliver",
        "_doubted",
        "_epoch",
        "_held",
        "_held_bytes",
        "_kind",
        "_known",
        "_live",
        "_lost",
        "_make_ring",
        "_missed",
        "_order",
        "_reader",
        "_room_json",
        "_seal",
        "_shares",
        "_source",
        "_standing",
        "_start",
        "_waiting",
        "_writer",
        "room",
    )

    sequence: Sequence | None = None  # Redis gives the order

    def __init__(
        self,
        broker: RedisBroker,
        room: RoomId,
        kind: RoomKind,
        writer: Writer,
        deliver: Deliver,
        lost: Lost | None,
        others: Others | None,
    ) -> None:
        self.room = room
        self._broker = broker
        self._kind = kind
        self._writer = writer
        self._deliver = deliver
        self._lost = lost
        self._room_json = json_string(room.room)
        self._seal = writer.seal
        self._reader = RoomReader(broker, room, writer.names, broker.keep_of(kind), self.place, self._seal)
        self._source: Source = self._reader
        if broker.deepen is not None and broker.is_lasting(kind):
            self._source = broker.deepen(room, self._reader)
        self._shares = Shares(broker, self, writer.names, others)
        self._epoch = 0
        self._start = 0
        self._order: KeptOrder | None = None  # from the first answer on
        self._standing = False
        self._live = False
        self._asking = False
        self._again = False  # ask once more: the answer under way may be too old
        self._closed = False
        self._breaks = 0  # how often something was lost
        self._known = 0  # an offset of this epoch that there is
        self._doubted = False  # whether the broker will look if that has come
        self._held: list[tuple[int, int, bytes, int]] = []  # (epoch, first, payload, where its blob begins)
        self._held_bytes = 0
        self._missed = False  # too much came to be held
        self._waiting: Pending[bool] | None = Pending()
        writer.stream, writer.held = self, True
        broker.time_out(self, self._waiting)
        broker.redis.subscribe(writer.names.channel, self)
        if self._seal is not None and self._seal.on:
            self._seal.prepare()

    # -- the contract ---------------------------------------------------------------------------------------

    def publish(
        self,
        type: str,
        sender: bytes | None,
        content: bytes,
        terms: Terms | None = None,
    ) -> Pending[Receipt]:
        """Order, keep and deliver one publication, as `Stream.publish`."""
        return self._writer.publish(type, sender, content, terms)

    def recover(self, since: Position | None) -> Recovery | Awaitable[Recovery]:
        """Return the position and what was missed, as `Stream.recover`."""
        if self._live and self._order is not None and not self._is_ahead(since):
            recovery = self._order.recover(since)
            if isinstance(recovery, Recovery):
                return recovery
            return self._recover_on(since, self._order, self._breaks, recovery)
        return self._recover_later(since)

    def history(self, before: int | None, after: int | None, limit: int) -> Page | Awaitable[Page]:
        """Return a page of what is kept, as `Stream.history`."""
        if self._order is None:
            return self._history_later(before, after, limit)
        return self._order.history(before, after, limit)

    def signal(self, push: bytes) -> None:
        """Give one push to who is there now, as `Stream.signal`."""
        self._writer.signal(push)

    def share(self, entry: bytes | None) -> None:
        """Let other workers know `entry`, as `Stream.share`."""
        self._shares.share(entry)

    def close(self) -> None:
        """End the subscription. Redis keeps the room for the recovery window."""
        if self._closed:
            return
        self._closed, self._live, self._standing = True, False, False
        self._shares.close()
        self._broker.redis.unsubscribe(self._writer.names.channel)
        if self._order is not None:
            self._order.deliver_to(None)
        self._writer.stream = None
        self._writer.release()
        self._answer(Unavailable("the room was closed", retry_after_s=RETRY_S))
        self._broker.forget(self, self._writer)

    def order(
        self,
        type: str,
        sender: bytes | None,
        content: bytes,
        terms: Terms | None,
        then: Callable[[Ordered | Exception], None],
    ) -> None:
        """Order and deliver one publication, as `Writer.order`."""
        self._writer.order(type, sender, content, terms, then)

    # -- the subscription -----------------------------------------------------------------------------------

    def on_subscribed(self) -> None:
        """Ask where the room is: what comes from now on continues that."""
        self._standing, self._live = True, False
        self._shares.unread()
        self.ask(urgent=self._waiting is not None or self._order is None)

    def on_unsubscribed(self) -> None:
        """Deliver nothing until it stands again."""
        self._standing = self._live = False
        self._drop_held()

    def on_message(self, payload: bytes) -> None:
        """Take what came over the channel. What is no message of ours is counted and dropped."""
        what = payload[0] if payload else 0
        try:
            if what == RUN:
                _, epoch, first = _RUN.unpack_from(payload)
                self._take(epoch, first, payload, _RUN.size)
            elif what == SIGNAL:
                self._take_signal(payload[1:])
            elif what in (ENTRY, NO_ENTRY):
                self._shares.on_message(what == ENTRY, payload)
            else:
                self._broker.note_strange(self.room)
        except (ValueError, StructError):
            self._broker.note_strange(self.room)

    def on_ordered(self, epoch: int, first: int, last: int, blob: bytes) -> None:
        """Take this worker's own, from Redis' answer. What is not next will come over the channel."""
        if not self._live or self._order is None:
            return
        if epoch != self._epoch:
            self._stop()
        elif first <= self._order.offset + 1:
            self._append(first, blob, 0)
        elif last > self._known:
            self._known = last
            if not self._doubted:
                self._doubted = True
                self._broker.doubt(self)

    # -- the broker's ---------------------------------------------------------------------------------------

    @property
    def live(self) -> bool:
        """Whether it delivers what comes."""
        return self._live

    @property
    def shares(self) -> Shares:
        """What workers share in the room."""
        return self._shares

    def ask(self, *, urgent: bool = False) -> None:
        """Ask where the room is, and be there; once more where that is under way."""
        if self._closed:
            return
        if self._asking:
            self._again = True
        else:
            self._asking = True
            self._broker.pacer.add(self._catch_up, urgent=urgent)

    def look_again(self) -> None:
        """Ask, where something that there is has not come."""
        self._doubted = False
        if self._live and self._order is not None and self._known > self._order.offset:
            self._stop()

    def drop_history(self) -> None:
        """Have nothing of what was published in memory."""
        if self._order is not None:
            self._order.forget()

    def refresh(self) -> None:
        """Have Redis keep the room, and see whether anything has been missed."""
        if self._live:
            self.ask()
            self._shares.refresh()

    def retry(self) -> None:
        """Ask again after a failure."""
        if not self._live and self._standing:
            self.ask()

    def give_up(self, waiting: Pending[bool]) -> None:
        """Refuse those that wait: it takes too long."""
        if self._waiting is waiting:
            self._refuse(Unavailable("the room gives no answer", retry_after_s=RETRY_S))

    # -- catching up ----------------------------------------------------------------------------------------

    async def _catch_up(self) -> None:
        """Be where the room is, then deliver what comes."""
        try:
            await self._follow()
        except Unavailable as error:
            self._asking = False
            self._fail(error)
        except BaseException:
            self._asking = False
            self._fail(Unavailable("the room cannot be followed", retry_after_s=RETRY_S))
            raise

    async def _follow(self) -> None:
        """Go where the room is until nothing is missing any more.

        Raises:
            Unavailable: no answer in time, or none that fits what the channel says.
        """
        for _ in range(ROUNDS):
            self._again = False
            if self._seal is not None:
                await self._seal.fetch()
            epoch, offset, start = await self._broker.position(self.room, self._kind, self._writer.names)
            if not self._closed:
                await self._go_to(epoch, offset, start)
            if not self._closed:
                await self._shares.read()
            if self._closed or (not self._again and self._take_held()):
                break
        else:
            raise Unavailable("the room's order does not hold still", retry_after_s=RETRY_S)
        self._asking = False
        if self._standing and not self._live:
            self._live = True
            self._writer.release()
        if self._live:
            self._answer(None)

    async def _go_to(self, epoch: int, offset: int, start: int) -> None:
        """Deliver everything up to a position, or tell that it is lost."""
        if self._order is None:
            self.begin(epoch, start, offset)
        elif epoch != self._epoch:
            await self._go_through(epoch, start)
        await self._fill(offset)

    async def _go_through(self, epoch: int, start: int) -> None:
        """Deliver what Redis keeps of the epochs before `epoch`, then go on in that after `start`."""
        order = self._order
        while order is not None and not self._closed:
            runs = await self._reader.runs_before(epoch, self._epoch, order.offset + 1)
            if self._closed or not runs:
                break
            for run in runs:
                if run.epoch != self._epoch and not self._closed:
                    self._change(run.epoch, run.first - 1)
                await self._deliver_run(run)
            order = self._order
        if not self._closed:
            self._change(epoch, start)

    def _change(self, epoch: int, start: int) -> None:
        self._tell_lost(None, None, EPOCH_CHANGED)
        self.begin(epoch, start, start)

    def begin(self, epoch: int, start: int, offset: int) -> None:
        """Go on in another epoch, after `offset`."""
        if self._order is not None:
            self._order.deliver_to(None)
        self._epoch, self._start, self._known = epoch, start, 0
        make_ring = partial(self._broker.sequence, self.room, self._kind, epoch_text(epoch))
        self._order = KeptOrder(self.room, self._source, offset, make_ring, self._broker.answer_bytes)
        self._order.deliver_to(self._deliver)

    async def _fill(self, last: int) -> None:
        """Deliver what Redis keeps up to offset `last`; tell what is lost of it."""
        order = self._order
        assert order is not None
        while order.offset < last and not self._closed:
            runs = await self._reader.runs(self._epoch, order.offset + 1, last)
            for run in runs:
                await self._deliver_run(run)
            if not runs and order.offset < last:
                await self._pass(last)

    async def _deliver_run(self, run: Run) -> None:
        """Deliver what Redis had, after what it no longer had before it."""
        assert self._order is not None
        if run.first > self._order.offset + 1 and not self._closed:
            await self._pass(run.first - 1)
        if not self._closed and not self._append(run.first, run.blob, 0):
            raise Unavailable("a data key went while it was needed", retry_after_s=RETRY_S)

    async def _pass(self, last: int) -> None:
        """Go on after offset `last`, which Redis does not keep: deliver what the store has, tell the rest."""
        order = self._order
        assert order is not None
        if self._source is not self._reader and last - order.offset <= PASSED_MAX:
            try:
                rows = await self._source.read(self.room, order.offset, last - order.offset)
            except Unavailable:
                rows = []  # the members have to ask for it themselves, later
            for position, push in rows:
                if self._closed or position != Position(order.offset + 1, order.epoch):
                    break
                self._append_push(order, push)
        if order.offset < last and not self._closed:
            self._lose(last)

    def _lose(self, last: int) -> None:
        """Go on after offset `last`: what is missing before it will never come."""
        assert self._order is not None
        first = self._order.offset + 1
        self._order.skip_to(last)
        self._broker.count_lost(last - first + 1)
        self._tell_lost(first, last, UNRECOVERABLE)

    def _tell_lost(self, first: int | None, last: int | None, reason: str) -> None:
        self._breaks += 1
        if self._lost is not None:
            self._lost(first, last, reason)

    def _fail(self, error: Unavailable) -> None:
        """Refuse those that wait, and try again after a while."""
        if self._closed:
            return
        self._refuse(Unavailable("the room's order is away", retry_after_s=error.retry_after_s or RETRY_S))
        self._drop_held()
        self._broker.retry_later(self)

    def _refuse(self, error: Unavailable) -> None:
        """Refuse those that wait, and what was held back for a subscription that does not come."""
        self._answer(error)
        if self._writer.held:
            self._writer.refuse(error)
            self._writer.release()

    def _stop(self) -> None:
        """Deliver nothing more until it is known where the room is."""
        self._live = False
        self._broker.gaps += 1
        self.ask(urgent=True)

    # -- delivering -----------------------------------------------------------------------------------------

    def _take(self, epoch: int, first: int, payload: bytes, start: int) -> None:
        """Take a run of the channel: deliver it where it is next, else find out what is before it."""
        if self._live and self._order is not None:
            next_one = epoch == self._epoch and first <= self._order.offset + 1
            if next_one and self._append(first, payload, start):
                return
            self._stop()
        count_records(payload, start)  # what is no blob is not held
        self._hold(epoch, first, payload, start)

    def _take_signal(self, push: bytes) -> None:
        if is_sealed(push):
            opened = None if self._seal is None else self._seal.open_signal(push)
            if opened is None:
                self._fetch_keys()
                return
            push = opened
        self._give(push, 0)

    def _fetch_keys(self) -> None:
        """Find out what is lacking for what could not be opened, for what comes next."""
        if self._seal is not None and self._seal.lacks:
            self.ask()

    def _append(self, first: int, blob: bytes, start: int) -> bool:
        """Keep and deliver what is not there yet of a run that is next, or has been; False where a key has to
        be fetched before.
        """
        order = self._order
        assert order is not None
        try:
            pushes = pushes_of(blob, start, self._room_json, order.epoch, first, order.offset)
        except SealedRecord:
            return self._append_sealed(order, first, blob, start)
        for push in pushes:
            self._append_push(order, push)
        return True

    def _append_sealed(self, order: KeptOrder, first: int, blob: bytes, start: int) -> bool:
        """As `_append`. What cannot be read is told as lost: its key is, or it was tampered with."""
        count = count_records(blob, start)
        if first + count - 1 <= order.offset:
            return True  # this worker's own, back over the channel: nothing of it need be opened
        records = [None] * count if self._seal is None else self._seal.open(blob, start)
        if records is None:
            return False
        for offset, record in enumerate(records, first):
            if offset > order.offset and record is None:
                self._lose(offset)
            elif offset > order.offset and record is not None:
                self._append_push(order, *pushes_of(record, 0, self._room_json, order.epoch, offset))
        return True

    def _append_push(self, order: KeptOrder, push: bytes) -> None:
        try:
            order.append(push)
        except Exception:  # a mistake of ours, in a handler; it has its place all the same
            log.exception("%s: offset %d was not delivered", self.room.room, order.offset)

    def _give(self, push: bytes, offset: int) -> None:
        try:
            self._deliver(push, offset)
        except Exception:
            log.exception("%s: a signal was not delivered", self.room.room)

    def _hold(self, epoch: int, first: int, payload: bytes, start: int) -> None:
        if len(self._held) >= HELD_RUNS or self._held_bytes + len(payload) > HELD_BYTES:
            self._drop_held()
            self._missed = True
            return
        self._held.append((epoch, first, payload, start))
        self._held_bytes += len(payload)

    def _drop_held(self) -> None:
        self._held, self._held_bytes = [], 0

    def _take_held(self) -> bool:
        """Deliver what came meanwhile; False where there is more to be found out first.

        What is of an earlier epoch than the room's is an echo of a master that is none any more.
        """
        order = self._order
        assert order is not None
        if self._missed:
            self._missed = False
            self._drop_held()
            return False
        held, self._held, self._held_bytes = self._held, [], 0
        for at, (epoch, first, payload, start) in enumerate(held):
            if epoch < self._epoch:
                continue
            next_one = epoch == self._epoch and first <= order.offset + 1
            if not next_one or not self._append(first, payload, start):
                for each in held[at:]:
                    self._hold(*each)
                return False
        return True

    # -- answering ------------------------------------------------------------------------------------------

    def place(self) -> Place:
        """Return how far its members are; epoch 0: nobody knows yet."""
        return Place(self._epoch, self._start, 0 if self._order is None else self._order.offset)

    def _is_ahead(self, since: Position | None) -> bool:
        """Whether a client may have been further than this worker is, so that the room has to be asked."""
        order = self._order
        assert order is not None
        return since is not None and (since.epoch != order.epoch or since.offset > order.offset)

    async def _recover_later(self, since: Position | None) -> Recovery:
        """Recover when the stream is live, and as far as the client may have been."""
        asked = False
        while True:
            order = self._order
            if not self._live or order is None or (not asked and self._is_ahead(since)):
                asked = True
                await self._when_there()
                continue
            recovery = order.recover(since)
            if isinstance(recovery, Recovery):
                return recovery
            return await self._recover_on(since, order, self._breaks, recovery)

    async def _recover_on(
        self, since: Position | None, order: KeptOrder, breaks: int, recovery: Awaitable[Recovery]
    ) -> Recovery:
        """Return what is being read; something else where the room's order broke meanwhile."""
        found = await recovery
        if self._breaks == breaks and self._order is order:
            return found
        return await self._recover_later(since)

    async def _history_later(self, before: int | None, after: int | None, limit: int) -> Page:
        if self._order is None:
            await self._when_there()
        order = self._order
        assert order is not None
        found = order.history(before, after, limit)
        return found if isinstance(found, Page) else await found

    async def _when_there(self) -> None:
        """Return when the stream has caught up with where the room is now.

        Raises:
            Unavailable: it is away, or does not come in time.
        """
        if self._closed:
            raise Unavailable("the room was closed", retry_after_s=RETRY_S)
        if self._waiting is None:
            self._waiting = Pending()
            self._broker.time_out(self, self._waiting)
        # Without a subscription the question cannot make it live, but tells at once when Redis is away.
        if self._standing or not self._broker.redis.ok:
            self.ask(urgent=True)
        await self._waiting

    def _answer(self, error: Unavailable | None) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.settle(True if error is None else error)

"""One durable room: an order in memory that never runs ahead of the store.

A publication gets its offset at once. It is delivered and acknowledged when the store has committed it, in a
group with all that was queued meanwhile: what anybody saw is kept. An offset is never given to two contents:
when a group fails nobody knows what of it is kept, so the room looks what the store has before it goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from realtime.backends.broker_memory import weigh
from realtime.backends.kept_order import KeptOrder
from realtime.backends.keys import RoomKeys
from realtime.backends.storage_usage import size_of
from realtime.core.contracts import Deliver, Page, Position, Receipt, Recovery, Row, Terms
from realtime.core.kinds import RoomKind
from realtime.core.pending import Pending
from realtime.errors import Unavailable, Unreadable
from realtime.ids import RoomId
from realtime.native.encode import encode_push, json_string
from realtime.native.sequence import Sequence

if TYPE_CHECKING:
    from realtime.backends.broker_durable import DurableBroker

log: Final = logging.getLogger("realtime.broker")

CLOCK_STEP_MS: Final = 60_000
READ_ROWS: Final = 500  # of the store at once, after a failure: they were in memory just now
RETRY_S: Final = 1.0  # when to try again, where the store does not say


class Waiting(NamedTuple):
    """A publication whose room is not known yet."""

    type: str
    sender: bytes | None
    content: bytes
    terms: Terms | None
    receipt: Pending[Receipt]


class DurableStream:
    """A `Stream` whose publications are kept before they are seen.

    `_kept` is what is committed and delivered, `_flight` what is on its way, oldest first. While the stream
    does not know what the store has (before its first look, and after a failure) publications wait, in order;
    when it cannot be found out they are refused.
    """

    __slots__ = (
        "_broker",
        "_doubtful_from_ms",
        "_flight",
        "_kept",
        "_keys",
        "_keys_in_flight",
        "_kind",
        "_known",
        "_looking",
        "_outstanding",
        "_ready",
        "_room_json",
        "_waiting",
        "deliver",
        "fence",
        "room",
    )

    sequence: Sequence | None = None  # nothing goes the short way: all of it waits for its commit

    def __init__(self, broker: DurableBroker, room: RoomId, kind: RoomKind) -> None:
        self.room = room
        self.deliver: Deliver | None = None
        self.fence = 0  # the highest ring version that has written
        self._broker = broker
        self._kind = kind
        self._room_json = json_string(room.room)
        self._kept: KeptOrder | None = None  # from the first look on
        self._ready = False
        self._looking: asyncio.Task[None] | None = None
        self._known: Pending[bool] = Pending()  # the end of the look under way, or of the next one
        self._waiting: deque[Waiting] = deque()
        self._flight: deque[Pending[Receipt]] = deque()
        self._outstanding = 0  # rows that the store has still to tell of, given up ones included
        self._doubtful_from_ms = 0  # when the oldest of those given up was published
        self._keys = RoomKeys(broker.memory.keys)
        self._keys_in_flight: dict[tuple[bytes | None, str], Pending[Receipt]] = {}

    # -- the contract ---------------------------------------------------------------------------------------

    def publish(
        self, type: str, sender: bytes | None, content: bytes, terms: Terms | None = None
    ) -> Pending[Receipt]:
        """Order and keep one publication, then deliver it, as `Stream.publish`."""
        if self._ready and not self._is_outdated():
            return self._submit(type, sender, content, terms, Pending())
        broker = self._broker
        if broker.full:
            raise Unavailable("too much waits for the store", retry_after_s=RETRY_S)
        broker.waiting += 1
        broker.waiting_bytes += len(content)
        waiting = Waiting(type, sender, content, terms, Pending())
        self._waiting.append(waiting)
        self.look()
        return waiting.receipt

    def recover(self, since: Position | None) -> Recovery | Awaitable[Recovery]:
        """Return the committed position and what was missed, as `Stream.recover`."""
        if self._kept is None or self._is_outdated():
            return self._recover_later(since)
        return self._kept.recover(since)

    def history(self, before: int | None, after: int | None, limit: int) -> Page | Awaitable[Page]:
        """Return a page of all that was ever kept, as `Stream.history`."""
        if self._kept is None:
            return self._history_later(before, after, limit)
        return self._kept.history(before, after, limit)

    def signal(self, push: bytes) -> None:
        """Deliver without a place in the order, as `Stream.signal`."""
        if self.deliver is not None:
            self.deliver(push, 0)

    def share(self, entry: bytes | None) -> None:
        """There is no other worker."""

    def close(self) -> None:
        """End the subscription. What is in flight is kept all the same."""
        self._set_deliver(None)
        self._broker.rest(self)

    # -- the broker's ---------------------------------------------------------------------------------------

    def subscribe(self, deliver: Deliver) -> None:
        """Deliver from now on."""
        assert self.deliver is None, f"{self.room} is subscribed to already"
        self._set_deliver(deliver)

    @property
    def busy(self) -> bool:
        """Whether anything is under way, so that it must not be forgotten."""
        reading = self._kept is not None and self._kept.busy
        return bool(self._outstanding or self._looking or self._waiting or reading)

    def drop_history(self) -> None:
        """Have nothing of what is committed in memory."""
        if self._kept is not None:
            self._kept.forget()

    def forget(self) -> None:
        """Give back what it holds of what is shared."""
        self._keys.clear()
        self._broker.unknown.discard(self)

    def look(self) -> None:
        """Begin to find out what the store has, unless that is under way.

        Not while it has rows still to tell of: one of them might be committed after the look.
        """
        if self._looking is None and not self._outstanding:
            self._looking = asyncio.get_running_loop().create_task(self._look())

    # -- publishing -----------------------------------------------------------------------------------------

    def _submit(
        self, type: str, sender: bytes | None, content: bytes, terms: Terms | None, receipt: Pending[Receipt]
    ) -> Pending[Receipt]:
        """Give a publication the next offset and the store its row; the receipt comes with the commit."""
        kept, broker, key = self._kept, self._broker, None
        assert kept is not None
        last = kept.offset + len(self._flight)
        if terms is not None:
            key = terms.key
            if key is not None and self._is_repeat(sender, key, receipt):
                return receipt
            weigh(terms, last, self.fence)
        position = Position(last + 1, kept.epoch)
        push = encode_push(
            type, self._room_json, sender, last + 1, kept.epoch, content, broker.stamp.timestamp
        )
        row = Row(self.room, position, push, sender, key, int(broker.clock.time() * 1000))
        if broker.storage is not None:
            broker.storage.check(self.room.tenant, size_of(row))
        # Where the store takes no more, this row is not queued and its offset is still free: what is in
        # flight goes its way.
        broker.store.append(row, self._on_kept)
        if broker.storage is not None:
            broker.storage.sent(row)
        broker.in_flight += 1
        self._outstanding += 1
        self._flight.append(receipt)
        if key is not None:
            self._keys_in_flight[sender, key] = receipt
        if terms is not None and terms.fence is not None:
            self.fence = terms.fence
        return receipt

    def _is_repeat(self, sender: bytes | None, key: str, receipt: Pending[Receipt]) -> bool:
        """Settle `receipt` as the first publication with the key was, or will be; False where it is free."""
        first = self._keys_in_flight.get((sender, key))
        if first is not None:
            first.then(partial(_settle_as_duplicate, receipt))
            return True
        offset = self._keys.find(sender, key)
        if offset is None or self._kept is None:
            return False
        receipt.settle((offset, self._kept.epoch, True))
        return True

    def _on_kept(self, row: Row, error: Unavailable | None) -> None:
        """Take what the store says of the oldest row outstanding."""
        self._broker.in_flight -= 1
        self._outstanding -= 1
        if self._broker.storage is not None:
            self._broker.storage.done(row, kept=error is None)
        if not self._ready:
            self.look()  # it has been given up: what became of it the store will show
        elif error is not None:
            self._doubtful_from_ms = row.at_ms
            self._give_up(error)
        else:
            self._let_out(row)

    def _let_out(self, row: Row) -> None:
        """Deliver and acknowledge a committed publication."""
        assert self._kept is not None
        assert row.position.offset == self._kept.offset + 1, f"{self.room}: the store told out of order"
        receipt = self._flight.popleft()
        try:
            self._kept.append(row.push)
        except Exception:  # a mistake of ours; it is kept all the same, and its publisher is told so
            log.exception("%s: offset %d was not delivered", self.room.room, row.position.offset)
        if row.key is not None:
            del self._keys_in_flight[row.sender, row.key]
            self._keys.add(row.sender, row.key, row.position.offset)
        receipt.settle((row.position.offset, row.position.epoch, False))

    def _give_up(self, error: Unavailable) -> None:
        """Nobody knows what is kept of what is in flight: tell so, and find out before all else."""
        flight, self._flight = self._flight, deque()
        self._keys_in_flight.clear()
        self._ready = False
        self._broker.failures += 1
        self._broker.unknown.add(self)
        self.look()
        failure = _refusal(error, "nobody knows whether it was kept; a repeat with the same key tells")
        for receipt in flight:
            receipt.settle(failure)

    # -- what the store has ---------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Find out what the store has, then go on with what waits for it; or refuse it."""
        failure: Unavailable | None = None
        try:
            await self._catch_up()
        except Unavailable as error:
            failure = _refusal(error, f"the store gives no answer: {error.message}")
        except Exception:
            log.exception("%s: the store failed", self.room.room)
            failure = Unavailable("the store failed", retry_after_s=RETRY_S)
        self._looking = None
        known, self._known = self._known, Pending()
        if failure is None:
            self._ready = True
            self._broker.unknown.discard(self)
        self._release(failure)
        known.settle(failure or True)

    async def _catch_up(self) -> None:
        """Be where the store is, and know the keys that may still be repeated."""
        broker = self._broker
        now = broker.clock.time()
        # All keys are known that were used before the failure; the rest is for a clock that was set back.
        since_ms = max(int((now - broker.recovery_window_s) * 1000), self._doubtful_from_ms - CLOCK_STEP_MS)
        remembered = await broker.store.remembered(self.room, since_ms)
        if self._kept is None:
            self._kept = self._new_order(remembered.offset)
            self._kept.deliver_to(self.deliver)
        else:
            await self._deliver_kept(self._kept, remembered.offset)
            if self._kept.epoch != broker.store.epoch:
                # The offsets go on, so that the members see what was lost as a gap between two epochs.
                self._kept = self._new_order(self._kept.offset)
                self._kept.deliver_to(self.deliver)
        for sender, key, offset, at_ms in remembered.keys:
            self._keys.add(sender, key, offset, age_s=max(0.0, now - at_ms / 1000))

    async def _deliver_kept(self, kept: KeptOrder, last: int) -> None:
        """Deliver what was kept though nobody was told; `last` is the store's last offset."""
        while kept.offset < last:
            try:
                rows = await self._broker.store.read(self.room, kept.offset, READ_ROWS)
            except Unreadable as error:
                log.error("%s: not delivered up to offset %d: %s", self.room.room, last, error.message)
                kept.skip_to(last)
                break
            if not rows or rows[0][0].offset != kept.offset + 1:
                log.error("%s: the store has a hole after offset %d", self.room.room, kept.offset)
                kept.skip_to(last)
            for _, push in rows:
                if kept.offset < last:
                    kept.append(push)
        if kept.offset > last:
            log.error("%s: the store has lost what is after offset %d", self.room.room, last)

    def _is_outdated(self) -> bool:
        """Whether the store has begun another epoch since the last look; then there has to be another look.

        A database that was restored, or has lost its tail with its primary, comes back so while we run. What
        is in flight meanwhile ends in the epoch that it began in.
        """
        if self._kept is None or self._flight or self._kept.epoch == self._broker.store.epoch:
            return False
        self._ready = False
        self._broker.unknown.add(self)
        return True

    def _new_order(self, offset: int) -> KeptOrder:
        broker = self._broker
        epoch = broker.store.epoch
        make_ring = partial(broker.memory.sequence, self.room, self._kind, epoch)
        return KeptOrder(self.room, broker.store, offset, make_ring, broker.answer_bytes)

    def _set_deliver(self, deliver: Deliver | None) -> None:
        self.deliver = deliver
        if self._kept is not None:
            self._kept.deliver_to(deliver)

    async def _when_known(self) -> KeptOrder:
        """Return what is committed, once that is known."""
        known = self._known
        self.look()
        await known
        assert self._kept is not None
        return self._kept

    async def _recover_later(self, since: Position | None) -> Recovery:
        recovery = (await self._when_known()).recover(since)
        return recovery if isinstance(recovery, Recovery) else await recovery

    async def _history_later(self, before: int | None, after: int | None, limit: int) -> Page:
        found = (await self._when_known()).history(before, after, limit)
        return found if isinstance(found, Page) else await found

    def _release(self, failure: Unavailable | None) -> None:
        """Publish what has waited, or refuse it."""
        waiting, self._waiting = self._waiting, deque()
        for each in waiting:
            self._broker.waiting -= 1
            self._broker.waiting_bytes -= len(each.content)
            if failure is not None:
                each.receipt.settle(failure)
                continue
            try:
                self._submit(each.type, each.sender, each.content, each.terms, each.receipt)
            except Exception as error:  # whatever it is, it is this publication's alone
                each.receipt.settle(error)


def _settle_as_duplicate(receipt: Pending[Receipt], first: Receipt | Exception) -> None:
    """Settle `receipt` as its first publication was."""
    receipt.settle(first if isinstance(first, Exception) else (first[0], first[1], True))


def _refusal(error: Unavailable, message: str) -> Unavailable:
    return Unavailable(message, retry_after_s=RETRY_S if error.retry_after_s is None else error.retry_after_s)

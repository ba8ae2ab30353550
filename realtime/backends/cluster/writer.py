"""The way of one room's publications to Redis: in order, many in one blob, one blob on its way at a time.

What is published in one turn of the event loop, or while a blob is on its way, goes as the next blob. Since
the next is sent when the last was answered, no retry of the client can turn them round.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from realtime.backends.cluster.names import RoomNames, epoch_text
from realtime.backends.cluster.ordering import Ordered
from realtime.backends.redis_client.contract import Argument, RedisError
from realtime.core.contracts import Position, Receipt, Terms
from realtime.core.kinds import RoomKind
from realtime.core.pending import Pending
from realtime.errors import Conflict, Unavailable
from realtime.ids import RoomId
from realtime.native.blob import encode_record
from realtime.native.encode import encode_push, json_string

if TYPE_CHECKING:
    from realtime.backends.cluster.broker import RedisBroker
    from realtime.backends.cluster.stream import RedisStream

log: Final = logging.getLogger("realtime.broker")

BLOB_MESSAGES: Final = 64
BLOB_BYTES: Final = 64 * 1024  # one publication that is larger goes alone
RETRY_S: Final = 1.0
SIGNAL: Final = 2  # the first byte of one on a room's channel


class Waiting(NamedTuple):
    """A publication that has no place in the order yet."""

    record: bytes
    key: bytes | None  # what remembers it, in Redis
    terms: Terms | None
    receipt: Pending[Receipt]


class Writer:
    """One room's publications from this worker. `held` keeps them back until the room's stream stands."""

    __slots__ = (
        "_broker",
        "_fixed",
        "_flight",
        "_in_record",
        "_queue",
        "_room_json",
        "held",
        "names",
        "room",
        "seal",
        "stream",
    )

    def __init__(self, broker: RedisBroker, room: RoomId, kind: RoomKind) -> None:
        self.room = room
        self.names = RoomNames(broker.prefix, room)
        self.stream: RedisStream | None = None
        self.held = False
        self.seal = broker.seal_of(room)
        self._room_json = json_string(room.room)
        self._broker = broker
        self._fixed = broker.terms_of(kind)
        self._in_record = broker.is_lasting(kind)  # whether the key is the store's too
        self._queue: deque[Waiting] = deque()
        self._flight: list[Waiting] = []

    @property
    def busy(self) -> bool:
        """Whether anything waits or is on its way."""
        return bool(self._queue or self._flight)

    def publish(
        self,
        type: str,
        sender: bytes | None,
        content: bytes,
        terms: Terms | None = None,
        timestamp: bytes | None = None,
    ) -> Pending[Receipt]:
        """Order one publication, as `Stream.publish`; `timestamp` is the one of now unless given."""
        broker = self._broker
        key = None if terms is None else terms.key
        known = None if key is None or not self._in_record else key.encode("utf-8", "surrogatepass")
        record = encode_record(type, sender, known, timestamp or broker.stamp.timestamp, content)
        broker.admit(len(record))
        receipt: Pending[Receipt] = Pending()
        name = None if key is None else self.names.idempotency(sender, key)
        self._queue.append(Waiting(record, name, terms, receipt))
        self._go_on()
        return receipt

    def order(
        self,
        type: str,
        sender: bytes | None,
        content: bytes,
        terms: Terms | None,
        then: Callable[[Ordered | Exception], None],
    ) -> None:
        """Order and deliver one publication; `then` gets its place, or what `publish` raises.

        It is called later, or before this returns where the publication is refused at once.
        """
        timestamp = self._broker.stamp.timestamp

        def placed(receipt: Receipt | Exception) -> None:
            if isinstance(receipt, Exception):
                then(receipt)
                return
            offset, epoch, duplicate = receipt
            push = b""
            if not duplicate:
                push = encode_push(type, self._room_json, sender, offset, epoch, content, timestamp)
            then(Ordered(Position(offset, epoch), push, duplicate))

        try:
            receipt = self.publish(type, sender, content, terms, timestamp)
        except Unavailable as error:
            then(error)
        else:
            receipt.then(placed)

    def signal(self, push: bytes) -> None:
        """Give one push to who is there now, on all workers, as `Stream.signal`."""
        seal = self.seal
        if seal is not None and seal.on:
            try:
                push = seal.seal_signal(push)
            except Unavailable as error:
                log.debug("%s: a signal was lost: %s", self.room.room, error.message)
                seal.prepare()  # for the next one
                return
        self._broker.redis.send(self.names.slot, b"SPUBLISH", self.names.channel, bytes((SIGNAL,)) + push)

    def release(self) -> None:
        """Send what was held back."""
        self.held = False
        self._go_on()

    def refuse(self, error: Unavailable) -> None:
        """Refuse all that waits."""
        queue, self._queue = self._queue, deque()
        self._settle([(each, error) for each in queue])

    def flush(self) -> None:
        """Send the next blob, unless one is on its way."""
        if self._flight or self.held or not self._queue:
            return
        self._flight = self._next_batch()
        self._send()

    def _go_on(self) -> None:
        if self._queue and not self._flight and not self.held:
            self._broker.flush_soon(self)

    def _next_batch(self) -> list[Waiting]:
        queue = self._queue
        batch = [queue.popleft()]
        size = len(batch[0].record)
        while queue and len(batch) < BLOB_MESSAGES:
            size += len(queue[0].record)
            if size > BLOB_BYTES:
                break
            batch.append(queue.popleft())
        return batch

    def _send(self) -> None:
        batch, names = self._flight, self.names
        blob = self._blob(batch)
        if blob is None:
            self._broker.pacer.add(self._fetch_key, urgent=True)
            return
        keys: list[Argument] = [names.meta, names.stream]
        terms: list[Argument] = []
        for number, each in enumerate(batch, 1):
            if each.terms is not None:
                if each.key is not None:
                    keys.append(each.key)
                expect, fence = each.terms.expect, each.terms.fence
                terms += (
                    number,
                    0 if each.key is None else len(keys) - 2,
                    b"" if expect is None else expect,
                    b"" if fence is None else fence,
                )
        self._broker.redis.send(
            names.slot,
            *(b"FCALL", b"rt1_publish", len(keys), *keys, len(batch), *self._fixed, blob, *terms),
            then=self._on_reply,
        )

    def _blob(self, batch: list[Waiting]) -> bytes | None:
        """Return what Redis gets, sealed in an encrypted room; None where the key for that is not at hand."""
        if self.seal is not None and self.seal.on:
            try:
                return self.seal.seal(each.record for each in batch)
            except Unavailable:
                return None
        return batch[0].record if len(batch) == 1 else b"".join(each.record for each in batch)

    async def _fetch_key(self) -> None:
        """Have the key at hand, then send; where there is none, refuse what waits: nothing of it was sent."""
        assert self.seal is not None
        try:
            await self.seal.ready()
        except Unavailable as error:
            batch, self._flight = self._flight, []
            self._settle([(each, error) for each in batch])
            self.refuse(error)
        else:
            self._send()

    def _on_reply(self, reply: Any) -> None:
        """Take Redis' word on the blob that was on its way."""
        if isinstance(reply, RedisError) and reply.code == "NOFLOOR":
            self._broker.pacer.add(partial(self._open_epoch, reply), urgent=True)
        elif isinstance(reply, Exception):
            self._fail(reply)
        else:
            self._place(int(reply[0]), reply[1], reply[2] if len(reply) > 2 else None)

    async def _open_epoch(self, needed: RedisError) -> None:
        """Begin the room's epoch above the store's last offset, then send the blob again."""
        try:
            await self._broker.open_epoch(self.room, self.names, needed)
        except Unavailable as error:
            self._fail(error)
        else:
            self._send()

    def _place(self, epoch: int, last: int, said: list[Any] | None) -> None:
        """Deliver and acknowledge the blob: its publications end at offset `last`, but for what is `said`."""
        batch, self._flight = self._flight, []
        accepted = batch
        if said is None:
            said = list(range(last - len(batch) + 1, last + 1))
        else:
            accepted = [each for each, its in zip(batch, said, strict=True) if isinstance(its, int)]
        if self.stream is not None and accepted:
            blob = b"".join(each.record for each in accepted)
            self.stream.on_ordered(epoch, last - len(accepted) + 1, last, blob)
        self._go_on()
        text = epoch_text(epoch)
        self._settle([(each, _outcome(its, text, each.terms)) for each, its in zip(batch, said, strict=True)])

    def _fail(self, error: Exception) -> None:
        """Refuse what was on its way, and what waits behind it: it must not come before its repeats."""
        batch, self._flight = self._flight, []
        if isinstance(error, Unavailable):
            unknown = Unavailable(
                f"nobody knows whether it was ordered: {error.message}; a repeat with the same key tells",
                retry_after_s=error.retry_after_s or RETRY_S,
            )
        else:
            self._broker.note_refusal(self.room, error)
            unknown = Unavailable("Redis refuses publications", retry_after_s=RETRY_S)
        queue, self._queue = self._queue, deque()
        refused = Unavailable("the room's order is away", retry_after_s=unknown.retry_after_s)
        self._settle([(each, unknown) for each in batch] + [(each, refused) for each in queue])

    def _settle(self, outcomes: Sequence[tuple[Waiting, Receipt | Exception]]) -> None:
        for each, outcome in outcomes:
            self._broker.dismiss(len(each.record))
            each.receipt.settle(outcome)
        self._broker.rest(self)


def _outcome(said: Any, epoch: bytes, terms: Terms | None) -> Receipt | Exception:
    """What one publication met: an offset, the receipt of the one that it repeats, or a conflict."""
    if isinstance(said, int):
        return said, epoch, False
    if isinstance(said, list):
        return said[0], epoch_text(int(said[1])), True
    assert terms is not None
    number = int(said[1:])
    if said[:1] == b"F":
        return Conflict(f"the room has a newer owner: ring version {number}, not {terms.fence}")
    return Conflict(f"the room is at offset {number}, not {terms.expect}")

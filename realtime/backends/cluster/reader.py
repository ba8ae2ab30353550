"""What Redis keeps of one room, read back: entries of its stream, and the pushes in them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from realtime.backends.cluster.names import RoomNames, epoch_number, epoch_text
from realtime.backends.cluster.ordering import Entry
from realtime.backends.cluster.writer import BLOB_MESSAGES
from realtime.backends.sealing.rooms import RoomSeal
from realtime.core.contracts import Page, Position
from realtime.errors import Unreadable
from realtime.ids import RoomId
from realtime.native.blob import SealedRecord, count_records, decode_records, pushes_of
from realtime.native.encode import encode_push, json_string

if TYPE_CHECKING:
    from realtime.backends.cluster.broker import RedisBroker

ENTRIES: Final = 64  # read at once; each is at most 64 KiB, or one publication
_ID: Final = re.compile(rb"(\d+)-(\d+)")


class Run(NamedTuple):
    """Publications in a row, as an entry of the stream has them."""

    epoch: int
    first: int
    last: int
    blob: bytes


class Place(NamedTuple):
    """Where a room is, as its worker knows it."""

    epoch: int
    start: int  # offset before the epoch's first publication
    offset: int


class RoomReader:
    """Reads a room's stream, as `KeptOrder` asks for it.

    `place` says where the room is; `messages` and `size` are what the kind keeps: Redis may have more.
    """

    __slots__ = ("_broker", "_bytes", "_messages", "_names", "_place", "_room", "_room_json", "_seal")

    def __init__(
        self,
        broker: RedisBroker,
        room: RoomId,
        names: RoomNames,
        keep: tuple[int, int],
        place: Callable[[], Place],
        seal: RoomSeal | None = None,
    ) -> None:
        self._broker = broker
        self._names = names
        self._room = room
        self._room_json = json_string(room.room)
        self._messages, self._bytes = keep
        self._place = place
        self._seal = seal

    async def runs(self, epoch: int, first: int, last: int | None = None) -> list[Run]:
        """Return some runs of one epoch, oldest first, from the one with offset `first` on; none: none left.

        Raises:
            Unavailable: no answer in time.
        """
        end = b"%d" % epoch if last is None else b"%d-%d" % (epoch, last + BLOB_MESSAGES)
        return await self._ask(b"XRANGE", b"%d-%d" % (epoch, first), end)

    async def runs_before(self, end: int, epoch: int, first: int) -> list[Run]:
        """As `runs`, and of later epochs too, up to epoch `end`."""
        return await self._ask(b"XRANGE", b"%d-%d" % (epoch, first), b"(%d-0" % end)

    async def run_at(self, offset: int) -> Run | None:
        """Return the newest run that begins at an offset or before it; None: none is kept that does.

        Raises:
            Unavailable: no answer in time.
        """
        at = b"+"
        while runs := await self._ask(b"XREVRANGE", at, b"-"):
            for run in runs:
                if run.first <= offset:
                    return run
            at = b"(%d-%d" % (runs[-1].epoch, runs[-1].last)
        return None

    async def read(self, room: RoomId, after: int, limit: int) -> list[tuple[Position, bytes]]:
        """Return at most `limit` pushes of the present epoch above offset `after`, as `Store.read`."""
        place = self._place()
        if after < self._lowest(place) - 1:
            return []
        found: list[tuple[Position, bytes]] = []
        text = epoch_text(place.epoch)
        for run in await self.runs(place.epoch, after + 1):
            for offset, push in self._pushes(run, after):
                if len(found) == limit:
                    return found
                found.append((Position(offset, text), push))
        return found

    async def page(self, room: RoomId, before: int | None, after: int | None, limit: int) -> Page:
        """Return a page of what is kept, as `Stream.history`, of earlier epochs too where they go on."""
        place = self._place()
        if after is not None:
            return await self._page_up(place, max(after + 1, self._lowest(place)), limit)
        return await self._page_down(place, place.offset + 1 if before is None else before, limit)

    async def _page_up(self, place: Place, low: int, limit: int) -> Page:
        found: list[bytes] = []
        at = b"%d-%d" % (place.epoch, low) if low > place.start else b"-"
        while runs := await self._ask(b"XRANGE", at, b"+"):
            for run in runs:
                for _, push in self._pushes(run, low - 1):
                    if len(found) == limit:
                        return Page(found, True)
                    found.append(push)
            at = b"(%d-%d" % (runs[-1].epoch, runs[-1].last)
        return Page(found, False)

    async def _page_down(self, place: Place, before: int, limit: int) -> Page:
        """The last ones below `before`: found newest first, then turned round."""
        found: list[bytes] = []
        lowest, size = self._lowest(place), 0
        async for run in self._downwards(place.epoch, before + BLOB_MESSAGES):
            for offset, push in reversed(self._pushes(run, lowest - 1)):
                if offset >= before:
                    continue
                size += len(push)
                if len(found) == limit or size > self._bytes:
                    return Page(found[::-1], size <= self._bytes)
                found.append(push)
            if run.first <= lowest:
                break
        return Page(found[::-1], False)

    async def _downwards(self, epoch: int, last: int) -> AsyncIterator[Run]:
        at = b"%d-%d" % (epoch, last)
        while runs := await self._ask(b"XREVRANGE", at, b"-"):
            for run in runs:
                yield run
            at = b"(%d-%d" % (runs[-1].epoch, runs[-1].last)

    async def entries(self, after: Position, limit: int, until: Position | None = None) -> list[Entry]:
        """Return the first `limit` publications after a position, in Redis' order, over epochs; not many of
        those from `until` on.

        Raises:
            Unavailable: no answer in time.
        """
        epoch = epoch_number(after.epoch)
        found: list[Entry] = []
        at, end = b"%d-%d" % (epoch, after.offset + 1), b"+"
        if until is not None:
            end = b"%d-%d" % (epoch_number(until.epoch), until.offset + BLOB_MESSAGES)
        while len(found) < limit and (runs := await self._ask(b"XRANGE", at, end)):
            for run in runs:
                found += self._entries(run, after.offset if run.epoch == epoch else 0)
            at = b"(%d-%d" % (runs[-1].epoch, runs[-1].last)
        return found[:limit]

    def _entries(self, run: Run, after: int) -> list[Entry]:
        """Return those above offset `after`; what is sealed and cannot be read is left out."""
        try:
            records = list(enumerate(decode_records(run.blob), run.first))
        except SealedRecord:
            opened = None if self._seal is None else self._seal.open(run.blob)
            there = [(at, each) for at, each in enumerate(opened or (), run.first) if each is not None]
            records = [(at, decode_records(each)[0]) for at, each in there]
        epoch = epoch_text(run.epoch)
        return [
            Entry(
                Position(offset, epoch),
                encode_push(type, self._room_json, sender, offset, epoch, content, timestamp),
                sender,
                None if key is None else key.decode("utf-8", "surrogatepass"),
                round(datetime.fromisoformat(timestamp.decode()).timestamp() * 1000),
            )
            for offset, (type, sender, key, timestamp, content) in records
            if offset > after
        ]

    def _pushes(self, run: Run, after: int) -> list[tuple[int, bytes]]:
        """Return (offset, push) of those above offset `after`. Raises Unreadable: one of them is lost."""
        blob, epoch = run.blob, epoch_text(run.epoch)
        try:
            pushes = pushes_of(blob, 0, self._room_json, epoch, run.first, after)
        except SealedRecord:
            if self._seal is None:
                raise Unreadable(
                    f"{self._room.room} is sealed, and no encryption keys are configured"
                ) from None
            blob = b"".join(self._seal.open_all(blob))
            pushes = pushes_of(blob, 0, self._room_json, epoch, run.first, after)
        return list(enumerate(pushes, run.last - len(pushes) + 1))

    def _lowest(self, place: Place) -> int:
        """Offset of the oldest publication that the kind keeps."""
        return max(place.offset - self._messages, 0) + 1

    async def _ask(self, command: bytes, start: bytes, end: bytes) -> list[Run]:
        names = self._names
        entries = await self._broker.ask(names.slot, command, names.stream, start, end, b"COUNT", ENTRIES)
        assert isinstance(entries, list)
        runs = [self._run_of(id, fields[-1]) for id, fields in entries]
        if self._seal is not None:
            await self._seal.fetch([run.blob for run in runs])
        return runs

    def _run_of(self, id: bytes, blob: bytes) -> Run:
        matched = _ID.fullmatch(id)
        assert matched is not None
        last = int(matched[2])
        try:
            count = count_records(blob)
        except ValueError:  # none of ours; its offsets are missing
            self._broker.note_strange(self._room)
            blob, count = b"", 0
        return Run(int(matched[1]), last - count + 1, last, blob)

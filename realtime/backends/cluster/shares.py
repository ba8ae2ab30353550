"""What workers share in one room: this worker's entry to all others, and theirs to this one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from realtime.backends.cluster.names import RoomNames
from realtime.core.contracts import Others

if TYPE_CHECKING:
    from realtime.backends.cluster.broker import RedisBroker
    from realtime.backends.cluster.stream import RedisStream

log: Final = logging.getLogger("realtime.broker")


class Shares:
    """The entries of one room. One write is on its way at a time, and the newest entry follows it.

    Redis has them in a hash that whoever subscribes reads, and tells of each change over the room's channel.
    An entry in the hash of a worker that is not known to be alive waits: it may have just come, or be long
    gone.
    """

    __slots__ = (
        "_broker",
        "_doubtful",
        "_entry",
        "_heard",
        "_names",
        "_others",
        "_sending",
        "_stream",
        "_theirs",
        "_unread",
        "_unsent",
    )

    def __init__(
        self, broker: RedisBroker, stream: RedisStream, names: RoomNames, others: Others | None
    ) -> None:
        self._broker = broker
        self._stream = stream
        self._names = names
        self._others = others
        self._entry: bytes | None = None
        self._unsent = False
        self._sending = False
        self._theirs: dict[str, bytes] = {}
        self._doubtful: dict[str, bytes] = {}
        self._heard: set[str] = set()  # whose entries came over the channel since the hash was asked for
        self._unread = True

    def share(self, entry: bytes | None) -> None:
        """Share `entry` instead of the one before."""
        assert entry is None or len(entry) <= 64 * 1024, "a shared entry has at most 64 KiB"
        self._entry, self._unsent = entry, True
        self._send()

    def refresh(self) -> None:
        """Write the entry anew: it may be lost, or soon expire."""
        if self._entry is not None or self._unsent:
            self._unsent = True
            self._send()

    def again(self) -> None:
        """Write the entry, or that there is none: nobody knows what Redis has."""
        self._unsent = True
        self._send()

    def close(self) -> None:
        """Share nothing more, and hear nothing."""
        if self._entry is not None:
            self._entry, self._unsent = None, True
            self._send()
        for worker in self._theirs:
            self._broker.note_shared(worker, self._stream, shares=False)
        self._theirs.clear()
        self._doubtful.clear()
        self._others = None

    def unread(self) -> None:
        """Read the hash when it is next asked where the room is."""
        self._unread = True
        self._heard.clear()

    async def read(self) -> None:
        """Read what is shared, where that has not been done since the subscription stands. What Redis has
        lost of this worker's is written anew.

        Raises:
            Unavailable: no answer in time.
        """
        if not self._unread:
            return
        self._unread = False
        self._heard.clear()
        try:
            found = await self._broker.ask(self._names.slot, b"HGETALL", self._names.shared)
        except BaseException:
            self._unread = True
            raise
        entries = found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))
        if entries.pop(self._broker.worker.encode(), None) != self._entry and not self._sending:
            self.again()
        self._compare({worker.decode(): entry for worker, entry in entries.items()})

    def on_message(self, has_entry: bool, payload: bytes) -> None:
        """Take what another worker has told over the channel.

        Raises:
            ValueError: it is none of ours.
        """
        end = 3 + int.from_bytes(payload[1:3], "little") if has_entry else len(payload)
        worker = payload[3 if has_entry else 1 : end].decode()
        if end > len(payload) or not worker:
            raise ValueError("a shared entry is cut short")
        if worker == self._broker.worker:
            return
        if self._broker.is_gone(worker):
            # A late word; or it is back, and the news of that comes another way.
            if has_entry:
                self._doubt(worker, payload[end:])
        else:
            self._heard.add(worker)
            self._doubtful.pop(worker, None)
            self._set(worker, payload[end:] if has_entry else None)

    def drop(self, worker: str) -> None:
        """Forget a worker that is gone, here and in Redis."""
        self._doubtful.pop(worker, None)
        self._set(worker, None)
        self._broker.redis.send(self._names.slot, b"HDEL", self._names.shared, worker)

    def judge(self) -> None:
        """Decide on the entries of workers that were not known to be alive."""
        doubtful, self._doubtful = self._doubtful, {}
        for worker, entry in doubtful.items():
            if self._broker.is_alive(worker) and not self._broker.is_gone(worker):
                self._set(worker, entry)
            else:
                self.drop(worker)

    def _compare(self, entries: dict[str, bytes]) -> None:
        """Take the hash as it is, but for what has changed since it was asked for."""
        for worker in [each for each in self._theirs if each not in entries and each not in self._heard]:
            self._set(worker, None)
        for worker, entry in entries.items():
            if worker in self._heard:
                continue
            gone = self._broker.is_gone(worker)
            if not gone and (worker in self._theirs or self._broker.is_alive(worker)):
                self._set(worker, entry)
            else:
                self._doubt(worker, entry)

    def _doubt(self, worker: str, entry: bytes) -> None:
        if not self._doubtful:
            self._broker.judge_later(self)
        self._doubtful[worker] = entry

    def _set(self, worker: str, entry: bytes | None) -> None:
        """Tell what a worker shares now, where that is another than before."""
        if self._others is None or self._theirs.get(worker) == entry:
            return
        if entry is None:
            del self._theirs[worker]
        else:
            self._theirs[worker] = entry
        self._broker.note_shared(worker, self._stream, shares=entry is not None)
        try:
            self._others(worker, entry)
        except Exception:
            log.exception("%s: what %s shares was not taken", self._stream.room.room, worker)

    def _send(self) -> None:
        if self._sending or not self._unsent:
            return
        self._sending, self._unsent = True, False
        names, broker = self._names, self._broker
        entry = () if self._entry is None else (self._entry,)
        broker.redis.send(
            names.slot,
            *(b"FCALL", b"rt1_share", 1, names.shared, broker.window_ms, broker.worker, *entry),
            then=self._on_sent,
        )

    def _on_sent(self, reply: Any) -> None:
        """Send what is newer; what could not be written, after a while."""
        self._sending = False
        if isinstance(reply, Exception):
            self._unsent = True
            self._broker.share_later(self._stream.room, self)
        else:
            self._send()

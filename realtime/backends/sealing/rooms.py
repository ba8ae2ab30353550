"""What of encrypted rooms goes through Redis: records and signals, sealed by who sends, opened by who reads.

A sealed record has its size as every record, 0xffff where others have the size of their type, and a box with
the plain record in it: Redis' functions count and cut records by their size alone. A box is bound to tenant
and room. Its place in the room is Redis' to give, so that who can write to Redis may repeat a record there or
drop it, as with any; the store's row is bound to its offset too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Final

from realtime.backends.sealing.box import HEAD_BYTES, DataKey, Tampered, is_sealed, key_id, place
from realtime.backends.sealing.keyring import Keyring
from realtime.core.audit import Outcome
from realtime.core.room_rules import RoomRules
from realtime.errors import Unreadable
from realtime.ids import RoomId
from realtime.native.blob import records_of

log: Final = logging.getLogger("realtime.sealing")

SEALED: Final = b"\xff\xff"
"""Where the size of the type would be; no type is as long."""
BOX_AT: Final = 6
LACKING_MAX: Final = 64


class RoomSeals:
    """Makes what seals a room's records."""

    def __init__(self, keyring: Keyring, rules: RoomRules) -> None:
        self.keyring = keyring
        self.rules = rules

    def of(self, room: RoomId) -> RoomSeal:
        """Return the seal of one room."""
        return RoomSeal(self, room)


class RoomSeal:
    """Seals and opens what one room's workers tell each other. What has no key at hand is `lacking`."""

    __slots__ = ("_can", "_keyring", "_lacking", "_record", "_rules", "_signal", "room")

    def __init__(self, seals: RoomSeals, room: RoomId) -> None:
        self.room = room
        self._keyring = seals.keyring
        self._rules = seals.rules
        self._can = bool(seals.keyring.masters)
        named = room.tenant.encode(), room.room.encode()
        self._record, self._signal = place("record", *named), place("signal", *named)
        self._lacking: dict[bytes, None] = {}

    @property
    def on(self) -> bool:
        """Whether what is published is to be sealed from now on."""
        return self._can and self._rules.of(self.room).encrypted

    @property
    def lacks(self) -> bool:
        """Whether there are keys to be fetched."""
        return bool(self._lacking)

    def prepare(self) -> None:
        """Begin to fetch the key that seals."""
        self._keyring.prepare(self.room.tenant)

    async def ready(self) -> None:
        """Have the key at hand that seals. Raises Unavailable."""
        await self._keyring.ensure(self.room.tenant)

    def seal(self, records: Iterable[bytes]) -> bytes:
        """Return a blob of the records, sealed one by one: Redis may take some and refuse others.

        Raises:
            Unavailable: the key is not at hand; `ready` fetches it.
        """
        sealed: list[bytes] = []
        for record in records:
            box = self._keyring.active(self.room.tenant).seal(record, self._record)
            sealed += ((len(SEALED) + len(box)).to_bytes(4, "little"), SEALED, box)
        return b"".join(sealed)

    def open(self, blob: bytes, start: int = 0) -> list[bytes | None] | None:
        """Return the plain records of a blob, None for those that cannot be read; None for all of it where a
        key has to be fetched first, by `fetch`.

        Raises:
            ValueError: it is no blob.
        """
        opened: list[bytes | None] = []
        lacks = False
        for record in records_of(blob, start):
            if not _is_box(record):
                opened.append(record)
                continue
            key = self._look(_key_of(record))
            lacks = lacks or key is None
            opened.append(self._opened(record, key) if isinstance(key, DataKey) else None)
        return None if lacks else opened

    def open_all(self, blob: bytes) -> list[bytes]:
        """Return the plain records of a blob whose keys have been fetched.

        Raises:
            Unreadable: one of them cannot be read.
        """
        opened = self.open(blob)
        whole = [record for record in opened or () if record is not None]
        if opened is None or len(whole) < len(opened):
            name = f"{self.room.tenant}/{self.room.room}"
            raise Unreadable(f"{name}: what Redis keeps of it cannot be read: {self._why(blob)}")
        return whole

    async def fetch(self, blobs: Sequence[bytes] = ()) -> None:
        """Fetch the keys of these blobs, and those that `open` did not find at hand.

        Raises:
            Unavailable: nobody knows whether they are to be had.
        """
        for blob in blobs:
            for record in filter(_is_box, records_of(blob)):
                self._look(_key_of(record))
        while self._lacking:
            id = next(iter(self._lacking))
            try:
                await self._keyring.key(self.room.tenant, id)
            except Unreadable as error:
                log.debug("%s: %s", self.room.room, error.message)  # the keyring has told, and `look` says so
            self._lacking.pop(id, None)

    def seal_signal(self, push: bytes) -> bytes:
        """Return a signal's push, sealed. Raises Unavailable."""
        return self._keyring.active(self.room.tenant).seal(push, self._signal)

    def open_signal(self, data: bytes) -> bytes | None:
        """Return a signal's push; None where it cannot be read now, and is lost as signals may be."""
        if not is_sealed(data):
            return data
        key = self._look(key_id(data))
        if not isinstance(key, DataKey):
            return None
        try:
            return key.open(data, self._signal)
        except Tampered:
            self._tell_tampered(key)
            return None

    def _look(self, id: bytes) -> DataKey | str | None:
        key = self._keyring.look(self.room.tenant, id)
        if key is None and len(self._lacking) < LACKING_MAX:
            self._lacking[id] = None
        return key

    def _opened(self, record: bytes, key: DataKey) -> bytes | None:
        try:
            return key.open(record[BOX_AT:], self._record)
        except Tampered:
            self._tell_tampered(key)
            return None

    def _tell_tampered(self, key: DataKey) -> None:
        what = (
            f"{self.room.tenant}/{self.room.room}: what came over Redis was tampered with: data key "
            f"{key.name} has not sealed it so"
        )
        self._keyring.unreadable += 1
        self._keyring.note(self.room.tenant, what, Outcome.FAILED, self.room.room)

    def _why(self, blob: bytes) -> str:
        lost = (self._look(_key_of(record)) for record in records_of(blob) if _is_box(record))
        return next((why for why in lost if isinstance(why, str)), "it was tampered with")


def _is_box(record: bytes) -> bool:
    return record[4:BOX_AT] == SEALED


def _key_of(record: bytes) -> bytes:
    return key_id(record[BOX_AT : BOX_AT + HEAD_BYTES])

"""What a member is told that read too slowly for its room: gaps, and the newest of what it missed.

Whether and when it is told is the fan-out's: after everything it had before, and before the room goes on.
Received and gaps together are what was published.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

import msgspec

from realtime.core.kinds import Conflate
from realtime.core.session import Session
from realtime.native.encode import encode_reply

KEYS_MAX: Final = 1000  # conflation keys of one room; above it the one unused for longest is forgotten
GAP_BYTES: Final = 192  # more than a gap, which may have to go before each push


class _Push(msgspec.Struct, gc=False):
    """Of a push as JSON, what decides on its conflation key."""

    type: str
    content: msgspec.Raw


_decode = msgspec.json.Decoder(_Push).decode


class Newest:
    """The newest publication of each conflation key of a room, as JSON.

    At most `KEYS_MAX` of them, and `bytes_max` with the gaps between them: what is newest for longest goes
    first, and who lacks it is told of a gap.
    """

    def __init__(self, conflate: Conflate, bytes_max: int) -> None:
        self.conflate = conflate
        self._bytes_max = bytes_max
        self._bytes = 0
        self._kept: OrderedDict[str, tuple[int, bytes]] = OrderedDict()  # by offset

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, push: bytes, offset: int) -> None:
        """Take the publication with the highest offset so far."""
        told = _decode(push)
        key = self.conflate(told.type, bytes(told.content))
        former = self._kept.pop(key, None)
        if former is not None:
            self._bytes -= len(former[1]) + GAP_BYTES
        self._kept[key] = (offset, push)
        self._bytes += len(push) + GAP_BYTES
        while len(self._kept) > KEYS_MAX or self._bytes > self._bytes_max:
            _, (_, forgotten) = self._kept.popitem(last=False)
            self._bytes -= len(forgotten) + GAP_BYTES

    def export(self) -> list[tuple[int, bytes]]:
        """Return (offset, push) of all, by offset: what `keep` takes, in another process."""
        return list(self._kept.values())

    def clear(self) -> None:
        """Forget all: the offsets begin anew."""
        self._kept.clear()
        self._bytes = 0

    def above(self, after: int) -> list[tuple[int, bytes]]:
        """Return (offset, push) of those above offset `after`, by offset."""
        found: list[tuple[int, bytes]] = []
        for kept in reversed(self._kept.values()):
            if kept[0] <= after:
                break
            found.append(kept)
        return found[::-1]


def catch_up(
    session: Session, room_json: bytes, pushes: Iterable[tuple[int, bytes]], after: int, last: int
) -> int:
    """Send what a member lacks above offset `after` up to `last`: `pushes`, by offset, and gaps between them.

    Return how many publications the gaps stand for.
    """
    lost = 0
    for offset, push in (*pushes, (last + 1, b"")):
        if offset > after + 1:
            session.send(gap(room_json, after + 1, offset - 1))
            lost += offset - after - 1
        if push:
            session.send(push)
        after = offset
    return lost


def gap(room_json: bytes, first: int | None, last: int | None, reason: str = "slow_consumer") -> bytes:
    """Encode the `gap` of the offsets from `first` to `last`, both included; None where nobody can say."""
    fields = {"from": first, "to": last, "reason": reason}
    return encode_reply("gap", None, room_json, msgspec.json.encode(fields))

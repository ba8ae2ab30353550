"""The books of a replay: who was in which room from when to when, and whether each got all of it.

Every push of a room is the same bytes for every member, so each is decoded once and then known by them:
a delivery costs one dictionary look-up, and one that differs in a single byte is found out.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec


class Arrival(msgspec.Struct):
    """What is read of a message of the server."""

    type: str
    id: int | None = None
    offset: int | None = None
    epoch: str | None = None
    content: msgspec.Raw = msgspec.Raw(b"null")


class Placed(msgspec.Struct):
    """The content of an `ack` or `joined`, as far as it is needed here."""

    offset: int | None = None
    epoch: str | None = None


class Stay:
    """One member in one room, from `joined` to `leave` or the end."""

    __slots__ = ("floor", "holes", "next", "open", "out_of_order", "twice")

    def __init__(self, offset: int) -> None:
        self.next = offset + 1
        self.open = True
        self.floor = offset  # what it must have received at least
        self.holes: set[int] = set()
        self.out_of_order = 0
        self.twice = 0

    def receive(self, offset: int) -> None:
        """Count one publication of the room."""
        if offset == self.next:
            self.next += 1
        elif offset > self.next:
            self.holes.update(range(self.next, offset))
            self.next = offset + 1
        elif offset in self.holes:
            self.holes.discard(offset)
            self.out_of_order += 1
        else:
            self.twice += 1

    def missing(self) -> int:
        """Publications that it should have and has not."""
        return len(self.holes) + max(0, self.floor + 1 - self.next)


class RoomBooks:
    """What was published to one room, what was received of it, and by whom."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.known: dict[bytes, int] = {}  # payload of a push -> offset
        self.received: dict[int, bytes] = {}  # offset -> content as it arrived
        self.kept: dict[int, bytes] = {}  # offset -> content as it was sent, by its ack
        self.epoch: str | None = None
        self.last_offset = 0  # highest one acked
        self.last_by_sender: dict[int, int] = {}
        self.stays: list[Stay] = []
        self.faults: Counter[str] = Counter()

    def join(self, placed: Placed) -> Stay:
        """A member is in from here on."""
        self._check_epoch(placed.epoch)
        stay = Stay(placed.offset or 0)
        self.stays.append(stay)
        return stay

    def leaving(self, stay: Stay) -> None:
        """A member asks to leave: what was acked until now it must have, whatever it gets besides."""
        stay.floor = max(stay.floor, self.last_offset)

    def left(self, stay: Stay) -> None:
        """The server has let it out."""
        stay.open = False

    def acked(self, sender: int, content: bytes, placed: Placed) -> None:
        """The server keeps `content`; a sender's own messages must stand in the order it sent them."""
        self._check_epoch(placed.epoch)
        offset = placed.offset or 0
        if offset in self.kept:
            self.faults["two messages with one offset"] += 1
        self.kept[offset] = content
        self.last_offset = max(self.last_offset, offset)
        if offset <= self.last_by_sender.get(sender, 0):
            self.faults["a sender's messages out of order"] += 1
        self.last_by_sender[sender] = offset

    def first_seen(self, payload: bytes, arrival: Arrival) -> int | None:
        """A payload that is not known yet: return its offset, None when it has no place in the order."""
        if arrival.offset is None:
            return None
        self._check_epoch(arrival.epoch)
        if arrival.offset in self.received:
            self.faults["members got different bytes"] += 1
        self.known[payload] = arrival.offset
        self.received[arrival.offset] = bytes(arrival.content)
        return arrival.offset

    def waiting(self) -> int:
        """Publications that members who are still in have yet to get."""
        return sum(max(0, self.last_offset + 1 - stay.next) for stay in self.stays if stay.open)

    def close(self) -> None:
        """The end: who is still in must have everything, and everything must be what was sent."""
        for stay in self.stays:
            if stay.open:
                stay.floor = max(stay.floor, self.last_offset)
        for offset, sent in self.kept.items():
            received = self.received.get(offset)
            if received is None:
                self.faults["acked but received by nobody"] += 1
            elif received != sent and _value(received) != _value(sent):
                self.faults["received is not what was sent"] += 1

    def _check_epoch(self, epoch: str | None) -> None:
        if self.epoch is None:
            self.epoch = epoch
        elif epoch != self.epoch:
            self.faults["epoch changed"] += 1


def _value(content: bytes) -> Any:
    return msgspec.json.decode(content)

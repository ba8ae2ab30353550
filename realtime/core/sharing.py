"""What workers let each other know of a room's roster: one entry of each, and what one makes of the others'.

An entry is the state of one worker, never a diff, so it does not matter which ones got lost before it. It
names at most so many users, and says how many there are beyond.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

import msgspec

ENTRY_BYTES_MAX: Final = 60 * 1024  # of names: a broker takes entries of 64 KiB
NAME_BYTES: Final = 5  # what MessagePack puts before a name at most
LEFT_MAX: Final = 100  # who left of late: users of an entry, above it those are forgotten who left first


class Entry(msgspec.Struct, array_like=True, gc=False):
    """One worker's part of a roster. Users are JSON strings, those first who came first.

    `here` names users with a session on the worker, `lingering` those without one who may come back; there
    are `here_count` and `lingering_count` of them. `left` are users who said lately that they leave, each
    with a number that rises: nobody else need wait for them. Later versions may add fields at the end.
    """

    here_count: int
    lingering_count: int
    here: list[bytes]
    lingering: list[bytes]
    left: list[tuple[int, bytes]]


encode_entry: Final = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


def decode_entry(data: bytes) -> Entry:
    """Return the entry.

    Raises:
        ValueError: it is none.
    """
    try:
        entry = _decode(data)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
    if entry.here_count < len(entry.here) or entry.lingering_count < len(entry.lingering):
        raise ValueError("it names more users than it counts")
    return entry


def fitting(users: Iterable[bytes], limit: int, size: int) -> tuple[list[bytes], int]:
    """Return the first `limit` users, or as many of them as fit into `size` bytes, and what is left of it."""
    taken: list[bytes] = []
    for user in islice(users, limit):
        size -= len(user) + NAME_BYTES
        if size < 0:
            return taken, 0
        taken.append(user)
    return taken, size


class ShareState(msgspec.Struct, array_like=True, gc=False):
    """A `Share`, handed over."""

    here: list[bytes]
    lingering: list[bytes]
    here_more: int
    lingering_more: int
    heard: int


class ElsewhereState(msgspec.Struct, array_like=True, gc=False):
    """An `Elsewhere`, handed over."""

    shares: dict[str, ShareState]
    gone: list[ShareState]
    left: list[tuple[bytes, int]]
    shown: int


class Share:
    """What one other worker last said of a room. `heard` is the highest number of who left there."""

    __slots__ = ("heard", "here", "here_more", "lingering", "lingering_more")

    def __init__(self, entry: Entry, heard: int) -> None:
        self.here = set(entry.here)
        self.lingering = set(entry.lingering) - self.here
        self.here_more = entry.here_count - len(entry.here)
        self.lingering_more = entry.lingering_count - len(entry.lingering)
        self.heard = max((number for number, _ in entry.left), default=heard)

    def export(self) -> ShareState:
        """Return all of it, for another process."""
        more = self.here_more, self.lingering_more
        return ShareState(list(self.here), list(self.lingering), *more, self.heard)

    @classmethod
    def adopted(cls, state: ShareState) -> Share:
        """Make the share that another process had."""
        here_count, lingering_count = (
            len(state.here) + state.here_more,
            len(state.lingering) + state.lingering_more,
        )
        return cls(Entry(here_count, lingering_count, state.here, state.lingering, []), state.heard)

    @property
    def complete(self) -> bool:
        """Whether everybody is named."""
        return not self.here_more and not self.lingering_more

    @property
    def empty(self) -> bool:
        """Whether there is nobody in it."""
        return not self.here and not self.lingering and self.complete

    def __contains__(self, user: bytes) -> bool:
        return user in self.here or user in self.lingering

    def users(self) -> Iterator[bytes]:
        """All that are named, each once."""
        yield from self.here
        yield from self.lingering

    def discard(self, user: bytes) -> None:
        """Wait for a user no longer."""
        self.here.discard(user)
        self.lingering.discard(user)


class Elsewhere:
    """What a room's roster knows of other workers.

    `shares` are those of workers that are alive. `gone` are those of workers that are not: their users
    linger. `left` are our own users who said that they leave, while others may still wait for them.
    """

    __slots__ = ("_shown", "doubtful", "gone", "left", "more", "more_doubtful", "shares")

    def __init__(self) -> None:
        self.shares: dict[str, Share] = {}
        self.gone: list[Share] = []
        self.left: dict[bytes, int] = {}
        self.more = 0  # users with sessions elsewhere who are not named
        self.more_doubtful = 0  # users who linger elsewhere and are not named
        self.doubtful = 0  # those who linger and are named
        self._shown = 0

    def export(self) -> ElsewhereState:
        """Return all of it, for another process."""
        shares = {worker: share.export() for worker, share in self.shares.items()}
        return ElsewhereState(
            shares, [share.export() for share in self.gone], list(self.left.items()), self._shown
        )

    def adopt(self, state: ElsewhereState) -> None:
        """Take over what another process knew."""
        self.shares = {worker: Share.adopted(share) for worker, share in state.shares.items()}
        self.gone = [Share.adopted(share) for share in state.gone]
        self.left = dict(state.left)
        self._shown = state.shown
        self.recount()

    def recount(self) -> None:
        """Count anew. Called after each change of `shares` or `gone`."""
        self.more = self.more_doubtful = self.doubtful = 0
        for share in self.shares.values():
            self.more += share.here_more
            self.more_doubtful += share.lingering_more
            self.doubtful += len(share.lingering)
        for share in self.gone:
            self.more_doubtful += share.here_more + share.lingering_more
            self.doubtful += len(share.here) + len(share.lingering)

    def count(self, named: int, lingering: int) -> int:
        """Return how many users there are: `named` are known by name, of whom `lingering` linger here.

        Exact where all are named. Else whoever lingers may be one of those who are elsewhere without a name:
        between who is there for certain and that many more, it stays as it was, so that it does not swing
        when a worker ends and its users come back by and by.
        """
        high = named + self.more + self.more_doubtful
        low = named + self.more
        if self.more:
            low = max(self.more, low - lingering - self.doubtful)
        self._shown = min(max(self._shown, low), high)
        return self._shown

    def note_left(self, user: bytes, number: int) -> None:
        """Let the others know that the user said it leaves; `number` is above all before."""
        self.left.pop(user, None)
        self.left[user] = number
        if len(self.left) > LEFT_MAX:
            del self.left[next(iter(self.left))]

    def forget_left(self, before: int) -> None:
        """Forget who left with a number below `before`: nobody waits for them any more."""
        while self.left:
            user = next(iter(self.left))
            if self.left[user] >= before:
                return
            del self.left[user]

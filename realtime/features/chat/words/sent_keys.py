"""Which messages were sent with which keys just now: a repeat gets the first one's answer, before anything is
asked of it. What is not known here the room's order knows (`core.contracts.Terms`).
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Final

from realtime.core.cluster import room_slot
from realtime.core.command import Command
from realtime.core.contracts import Clock
from realtime.core.pending import Pending
from realtime.ids import RoomId, UserId

KEYS_MAX: Final = 20_000

Key = tuple[RoomId, UserId, str]


class SentKeys:
    """Answers by key, of the last `window_s` and of at most KEYS_MAX messages."""

    def __init__(self, clock: Clock, window_s: float) -> None:
        self._clock = clock
        self._window_s = window_s
        self._answers: dict[Key, tuple[float, Pending[bytes]]] = {}  # oldest first

    def find(self, command: Command) -> Pending[bytes] | None:
        """Return the answer to the first message with a command's key, as that of a repeat."""
        known = self._answers.get(_key(command))
        if known is None or known[0] + self._window_s <= self._clock.monotonic():
            return None
        again: Pending[bytes] = Pending()
        known[1].then(partial(_repeat, again))
        return again

    def add(self, command: Command, answer: Pending[bytes]) -> None:
        """Remember what a command will be answered."""
        self._answers.pop(_key(command), None)
        self._answers[_key(command)] = self._clock.monotonic(), answer
        while len(self._answers) > KEYS_MAX:
            del self._answers[next(iter(self._answers))]

    def forget(self, command: Command) -> None:
        """Forget a command that was not done, or nobody knows."""
        if command.key is not None:
            self._answers.pop(_key(command), None)

    def disown(self, slots: Collection[int]) -> None:
        """Forget rooms in these slots."""
        for key in [each for each in self._answers if room_slot(each[0]) in slots]:
            del self._answers[key]


def _key(command: Command) -> Key:
    assert command.key is not None
    return command.room, command.identity.user, command.key


def _repeat(again: Pending[bytes], outcome: bytes | Exception) -> None:
    if isinstance(outcome, bytes) and b'"duplicate":true' not in outcome:
        outcome = outcome[:-1] + b',"duplicate":true}'
    again.settle(outcome)

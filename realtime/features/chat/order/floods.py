"""What senders sent in a room a moment ago, where a rule counts it: at the room's owner, in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable
from typing import Final, NamedTuple

from realtime.core.cluster import room_slot
from realtime.ids import RoomId, UserId

SENDERS_MAX: Final = 50_000


class Excess(NamedTuple):
    """What is too much, and in how many seconds it is not any more."""

    what: str
    allowed: int
    wait_s: float


class Floods:
    """Counts of each sender in each room, by rule. Who has been quiet for longest is forgotten first."""

    def __init__(self) -> None:
        self._sent: dict[tuple[Hashable, RoomId, UserId], deque[tuple[float, int]]] = {}

    def __len__(self) -> int:
        return len(self._sent)

    def take(
        self,
        rule: Hashable,
        who: tuple[RoomId, UserId],
        text: str,
        now_s: float,
        bounds: tuple[int, int, float],
    ) -> Excess | None:
        """Count a message of `who` at `now_s` (monotonic); what is too much is not counted. `bounds` are how
        many messages, and how often the same text, in how many seconds; 0: any number.
        """
        messages, repeats, in_s = bounds
        sent = self._sent.pop((rule, *who), None) or deque()
        self._sent[(rule, *who)] = sent  # the newest, at the end
        if len(self._sent) > SENDERS_MAX:
            del self._sent[next(iter(self._sent))]
        while sent and sent[0][0] <= now_s - in_s:
            sent.popleft()
        key = hash(text)
        if messages and len(sent) >= messages:
            return Excess("messages", messages, sent[-messages][0] + in_s - now_s)
        same = [at for at, other in sent if other == key]
        if repeats and len(same) >= repeats:
            return Excess("times the same text", repeats, same[-repeats] + in_s - now_s)
        sent.append((now_s, key))
        return None

    def forget(self, slots: Collection[int]) -> None:
        """Drop what is known of rooms in these slots."""
        gone = frozenset(slots)
        for key in [key for key in self._sent if room_slot(key[1]) in gone]:
            del self._sent[key]

"""The native sequence in plain Python: what it does, without how."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from realtime.native.encode import encode_push


class Budget:
    """Bytes that many sequences may keep together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0


class Sequence:
    """The order of one room; keeps the last pushes within both bounds."""

    def __init__(
        self,
        room_json: bytes,
        epoch: bytes,
        messages_max: int,
        bytes_max: int,
        budget: Budget | None = None,
        offset: int = 0,
    ) -> None:
        if messages_max < 0 or bytes_max < 0:
            raise ValueError("messages_max and bytes_max must be at least 0")
        self.room_json = room_json
        self.epoch = epoch
        self.messages_max = messages_max
        self.bytes_max = bytes_max
        self.offset = offset
        self.deliver: Callable[[bytes, int], None] | None = None
        self._kept: deque[bytes] = deque()
        self._budget = Budget(bytes_max) if budget is None else budget

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def first(self) -> int:
        return self.offset - len(self._kept) + 1

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self._kept))

    def publish(self, type: str, sender: bytes | None, content: bytes, timestamp: bytes) -> int:
        return self.append(
            encode_push(type, self.room_json, sender, self.offset + 1, self.epoch, content, timestamp)
        )

    def append(self, push: bytes) -> int:
        self.offset += 1
        self._kept.append(push)
        self._budget.used += len(push)
        while self._kept and self._is_too_much():
            self._budget.used -= len(self._kept.popleft())
        if self.deliver is not None:
            self.deliver(push, self.offset)
        return self.offset

    def _is_too_much(self) -> bool:
        return (
            len(self._kept) > self.messages_max
            or self.size_bytes > self.bytes_max
            or self._budget.used > self._budget.limit
        )

    def between(self, low: int, high: int) -> list[bytes]:
        first = self.first
        return [push for at, push in enumerate(self._kept, first) if low <= at <= high]

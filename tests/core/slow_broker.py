"""A broker that answers late: the memory broker behind awaitables that a test lets go one by one.

It stands for every broker that has to ask somebody. A publication is ordered and delivered at once, and its
receipt arrives when the test says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from realtime.backends.broker_memory import MemoryBroker
from realtime.core.contracts import Deliver, Position, Terms
from realtime.core.kinds import RoomKind
from realtime.ids import RoomId


class SlowBroker:
    """Wraps a memory broker; `answer()` completes the oldest question."""

    def __init__(self, inner: MemoryBroker) -> None:
        self._inner = inner
        self.looks_late = False  # recoveries are of when they are answered, not of when they were asked for
        self.questions: list[tuple[asyncio.Future[Any], Callable[[], Any]]] = []

    def open(self, room: RoomId, kind: RoomKind, deliver: Deliver, *told: Any) -> SlowStream:
        return SlowStream(self, self._inner.open(room, kind, deliver, *told))

    def signal(self, room: RoomId, kind: RoomKind, push: bytes) -> None:
        self._inner.signal(room, kind, push)

    def publish(self, *given: Any) -> Any:
        return self.later(lambda: self._inner.publish(*given))

    async def expunge(self, room: RoomId, kind: RoomKind, upto: int) -> None:
        pass

    def drop_history(self, room: RoomId) -> None:
        pass

    def tick(self) -> None:
        self._inner.tick()

    def stats(self) -> dict[str, int]:
        return self._inner.stats()

    def later(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        self.questions.append((future, work))
        return future

    async def answer(self, failure: Exception | None = None) -> None:
        """Answer the oldest question, or fail it, and let what waits for it run."""
        future, work = self.questions.pop(0)
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(work())
        await settle()


class SlowStream:
    """A stream whose every answer waits."""

    sequence = None

    def __init__(self, broker: SlowBroker, inner: Any) -> None:
        self._broker = broker
        self._inner = inner

    def publish(self, type: str, sender: bytes | None, content: bytes, terms: Terms | None = None) -> Any:
        receipt = self._inner.publish(type, sender, content, terms)
        return self._broker.later(lambda: receipt)

    def recover(self, since: Position | None) -> Any:
        if self._broker.looks_late:
            return self._broker.later(lambda: self._inner.recover(since))
        recovery = self._inner.recover(since)
        return self._broker.later(lambda: recovery)

    def history(self, *asked: Any) -> Any:
        return self._broker.later(lambda: self._inner.history(*asked))

    def signal(self, push: bytes) -> None:
        self._inner.signal(push)

    def share(self, entry: bytes | None) -> None:
        self._inner.share(entry)

    def close(self) -> None:
        self._inner.close()


async def settle() -> None:
    """Let every task run until it waits for something."""
    for _ in range(10):
        await asyncio.sleep(0)

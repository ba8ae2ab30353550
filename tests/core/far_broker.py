"""A broker whose order is given elsewhere, by the test: it publishes, loses, and goes from epoch to epoch."""

import asyncio
import json
from typing import Any

from realtime.core.contracts import Deliver, Lost, Page, Position, Recovery
from realtime.core.kinds import RoomKind
from realtime.ids import RoomId
from realtime.native.encode import encode_push, json_string


class FarBroker:
    """One stream a room, by name. Recoveries are answered by `answer`, as of then."""

    def __init__(self) -> None:
        self.streams: dict[str, FarStream] = {}

    def open(
        self, room: RoomId, kind: RoomKind, deliver: Deliver, lost: Lost | None = None, *rest: Any
    ) -> "FarStream":
        assert lost is not None
        stream = self.streams[room.room] = FarStream(room, deliver, lost)
        return stream

    def publish(self, *given: Any) -> Any:
        raise NotImplementedError

    def signal(self, room: RoomId, kind: RoomKind, push: bytes) -> None:
        raise NotImplementedError

    async def expunge(self, room: RoomId, kind: RoomKind, upto: int) -> None:
        pass

    def drop_history(self, room: RoomId) -> None:
        pass

    def tick(self) -> None:
        pass

    def stats(self) -> dict[str, int]:
        return {}


class FarStream:
    """One room of it: in epoch `a` at offset 10, with nothing of before."""

    sequence = None

    def __init__(self, room: RoomId, deliver: Deliver, lost: Lost) -> None:
        self.room = room
        self.offset = 10
        self.epoch = b"a"
        self.questions: list[tuple[asyncio.Future[Recovery], Position | None]] = []
        self.kept: list[tuple[Position, bytes]] = []
        self._deliver = deliver
        self._lost = lost

    def push(self, *contents: Any, type: str = "play") -> None:
        """Deliver publications."""
        for content in contents:
            self.offset += 1
            text = json.dumps(content).encode()
            push = encode_push(
                type, json_string(self.room.room), b'"al"', self.offset, self.epoch, text, b"now"
            )
            self.kept.append((Position(self.offset, self.epoch), push))
            self._deliver(push, self.offset)

    def lose(self, count: int, reason: str = "lost") -> None:
        """Let as many publications be lost on their way."""
        first, self.offset = self.offset + 1, self.offset + count
        self._lost(first, self.offset, reason)

    def turn(self, epoch: bytes, offset: int | None = None) -> None:
        """Go on in another epoch, after `offset` or where the last one ended."""
        self.epoch = epoch
        self.offset = self.offset if offset is None else offset
        self._lost(None, None, "epoch_changed")

    def recovery(self, since: Position | None) -> Recovery:
        """Where it is now, with what is kept after `since` where that is all."""
        here = Recovery(self.offset, self.epoch, False, ())
        if since is None or since.epoch != self.epoch:
            return here
        missed = [(at, push) for at, push in self.kept if at.epoch == self.epoch and at.offset > since.offset]
        whole = len(missed) == self.offset - since.offset
        return here._replace(recovered=whole, messages=[push for _, push in missed] if whole else ())

    def recover(self, since: Position | None) -> asyncio.Future[Recovery]:
        question = (asyncio.get_running_loop().create_future(), since)
        self.questions.append(question)
        return question[0]

    def answer(self, recovery: Recovery | None = None) -> None:
        """Answer the oldest question, as of now or with what was true before."""
        future, since = self.questions.pop(0)
        future.set_result(recovery or self.recovery(since))

    def history(self, before: int | None, after: int | None, limit: int) -> Page:
        return Page([], more=False)

    def signal(self, push: bytes) -> None:
        self._deliver(push, 0)

    def share(self, entry: bytes | None) -> None:
        pass

    def close(self) -> None:
        pass

"""Requests under way: ids, futures, timeouts, and what is sent again after a reconnect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from realtime.client.clock import Clock, Timer
from realtime.client.errors import AckTimeout, from_wire
from realtime.client.wire import Message
from realtime.errors import RealtimeError

Encode = Callable[[dict[str, Any]], bytes]


@dataclass(eq=False, slots=True)
class Request:
    """One message that wants an answer. `durable`: it has a key, so it may be sent again.

    `on_answer` is called before the next message of the same frame is looked at; `future` tells its
    waiter only some turns of the event loop later.
    """

    id: int
    type: str
    payload: bytes
    future: asyncio.Future[Message]
    durable: bool
    room: str | None
    on_answer: Callable[[Message], None] | None = None
    timer: Timer | None = None


class Requests:
    """All requests of one client, by id, in the order they were made."""

    def __init__(self, clock: Clock, ack_timeout_s: float, encode: Encode) -> None:
        self._encode = encode
        self._clock = clock
        self._ack_timeout_s = ack_timeout_s
        self._by_id: dict[int, Request] = {}
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, type_: str, room: str | None, content: object, *, key: str | None = None) -> Request:
        """Make a request; nothing is sent and no time runs yet. A cancelled future forgets it.

        Raises:
            TypeError: the content is nothing that the codec can encode.
        """
        self._last_id += 1
        message: dict[str, Any] = {"type": type_, "id": self._last_id, "content": content}
        if room is not None:
            message["room"] = room
        if key is not None:
            message["key"] = key
        future = asyncio.get_running_loop().create_future()
        request = Request(self._last_id, type_, self._encode(message), future, key is not None, room)
        # Whoever waits is told; a request that nobody waits for any more needs no warning in the log.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._by_id[request.id] = request
        future.add_done_callback(lambda _: self._forget(request))
        return request

    def sent(self, request: Request) -> None:
        """It went out: its answer is due within `ack_timeout_s` from now."""
        if request.timer is not None:
            request.timer.cancel()
        request.timer = self._clock.call_later(self._ack_timeout_s, lambda: self._expire(request))

    def answer(self, answer: Message) -> bool:
        """Settle the request that `answer` names; False when it waits no longer."""
        request = self._by_id.get(answer.id) if isinstance(answer.id, int) else None
        if request is None or request.future.done():
            return False
        if answer.type == "error":
            request.future.set_exception(from_wire(answer.content))
            return True
        if request.on_answer is not None:
            request.on_answer(answer)
        request.future.set_result(answer)
        return True

    def fail(self, which: Callable[[Request], bool], error: RealtimeError) -> None:
        """Fail the requests that `which` names."""
        for request in [request for request in self._by_id.values() if which(request)]:
            if not request.future.done():
                request.future.set_exception(error)

    def disconnected(self, error: RealtimeError) -> None:
        """No answer will come over the old connection: fail what has no key, keep the rest for the next."""
        self.fail(lambda request: not request.durable, error)
        for request in self._by_id.values():
            self._stop(request)

    def durable_of(self, room: str) -> Iterator[Request]:
        """The requests that wait for `room` to be joined again, oldest first."""
        waiting = [one for one in self._by_id.values() if one.durable and one.room == room]
        return iter(waiting)

    def _expire(self, request: Request) -> None:
        if not request.future.done():
            what = f"{request.type} {request.room or ''}".strip()
            request.future.set_exception(AckTimeout(f"{what}: no answer in {self._ack_timeout_s:g} s"))

    def _forget(self, request: Request) -> None:
        self._stop(request)
        self._by_id.pop(request.id, None)

    def _stop(self, request: Request) -> None:
        if request.timer is not None:
            request.timer.cancel()
            request.timer = None

"""What is not there yet: outcomes that somebody else brings, without a task a message.

What is kept in groups of hundreds is told by callbacks: from its frame to its ack a publication to a durable
room takes 5.6 us so, and 13.2 us with a task each (500 a group, without the store's own work). Whoever would
rather wait may await the same object.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from realtime.native.encode import encode_ack, encode_reply

if TYPE_CHECKING:
    from realtime.core.contracts import Receipt
    from realtime.core.session import Session

log: Final = logging.getLogger("realtime.core")

Value = TypeVar("Value")


class Pending(Generic[Value]):
    """An outcome to come: a value, which is not None, or the exception that there is instead.

    `settle` is called once. Who asked by `then` is told in the order of asking; who awaits gets the value or
    the exception.
    """

    __slots__ = ("_outcome", "_waiting")

    def __init__(self) -> None:
        self._outcome: Value | Exception | None = None
        self._waiting: list[Callable[[Value | Exception], object]] = []

    def then(self, call: Callable[[Value | Exception], object]) -> None:
        """Call `call` with the outcome: now where it is there, else when it comes."""
        if self._outcome is None:
            self._waiting.append(call)
        else:
            call(self._outcome)

    def settle(self, outcome: Value | Exception) -> None:
        """Give the outcome. What a callback raises is logged and harms no other."""
        assert self._outcome is None, "settled twice"
        self._outcome = outcome
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            try:
                call(outcome)
            except Exception:
                log.exception("a callback failed")

    async def settled(self) -> None:
        """Wait for the outcome, whatever it is."""
        if self._outcome is None:
            came = asyncio.get_running_loop().create_future()
            self._waiting.append(partial(_wake, came))
            await came

    def __await__(self) -> Generator[Any, None, Value]:
        yield from self.settled().__await__()
        assert self._outcome is not None
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


class Debt(Generic[Value]):
    """An answer that is owed until its `receipt` is there. Awaited, it is paid then."""

    __slots__ = ("_id", "_room_json", "_session", "receipt")

    def __init__(self, session: Session, id: bytes | None, room_json: bytes, receipt: Pending[Value]) -> None:
        self._session = session
        self._id = id
        self._room_json = room_json
        self.receipt = receipt

    def pay(self, receipt: Value) -> None:
        """Send it. Without an id nobody waits for one."""
        raise NotImplementedError

    def __await__(self) -> Generator[Any, None, None]:
        self.pay((yield from self.receipt.__await__()))


class Owed(Debt["Receipt"]):
    """The ack of a publication that is being kept."""

    __slots__ = ()

    def pay(self, receipt: Receipt) -> None:
        """As `Debt.pay`."""
        if self._id is not None:
            self._session.send(encode_ack(self._id, self._room_json, receipt[0], receipt[1], receipt[2]))


class OwedAnswer(Debt[bytes]):
    """The ack of a command that is being done, whose content is the receipt."""

    __slots__ = ()

    def pay(self, receipt: bytes) -> None:
        """As `Debt.pay`."""
        if self._id is not None:
            self._session.send(encode_reply("ack", self._id, self._room_json, receipt))


def _wake(came: asyncio.Future[None], outcome: object) -> None:
    if not came.done():  # whoever waited may have been cancelled
        came.set_result(None)

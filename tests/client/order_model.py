"""A model of a server and its client's reader, for what may happen to a room's order; all of it by dice."""

import random
from collections import deque
from collections.abc import Iterator
from typing import Any

from realtime.client import Gap, Message, Page, Position, Resumed
from realtime.client.inbox import Inbox
from realtime.client.order import Ask, Order

RESTARTED = Gap(None, None, "epoch_changed")


def push(offset: int, epoch: str) -> Message:
    return Message("chat_message", f"{epoch}{offset}", "chat:x", "al", offset, epoch)


class History:
    """What a server keeps: (offset, epoch), oldest first, and pages of it."""

    def __init__(self, *runs: tuple[str, int, int]) -> None:
        self.kept = [(offset, epoch) for epoch, first, last in runs for offset in range(first, last + 1)]

    def answer(self, ask: Ask) -> Page:
        above = [push(*row) for row in self.kept if row[0] > ask.content["after"]]
        limit = ask.content["limit"]
        return Page(above[:limit], len(above) > limit)


async def drained(inbox: Inbox) -> list[object]:
    """Return what the reader gets of what is there."""
    return [await inbox.get() for _ in range(len(inbox))]


async def filled(order: Order, inbox: Inbox, history: History) -> list[object]:
    """Answer all that is wanted, and return what the reader gets."""
    got: list[object] = []
    asked = 0
    while (ask := order.wanted) is not None:
        order.page(ask, history.answer(ask))
        got += await drained(inbox)
        asked += 1
        assert asked < 200
    return got + await drained(inbox)


def at(offset: int, epoch: str, limit: int = 1000) -> tuple[Order, Inbox]:
    inbox = Inbox(limit)
    order = Order(inbox)
    order.joined(Position(offset, epoch), False, ())
    return order, inbox


def told(items: list[object]) -> list[object]:
    """What a test compares: contents of messages, and everything else as it is."""
    return [item.content if isinstance(item, Message) else item for item in items]


def names(epoch: str, first: int, last: int) -> list[str]:
    return [f"{epoch}{offset}" for offset in range(first, last + 1)]


class Trace:
    """An order that notes what it is told, what it wants and what comes of it, as data for its twin."""

    def __init__(self, order: Order, inbox: Inbox) -> None:
        self.steps: list[list[Any]] = []
        self.seen: list[list[Any]] = []
        self._order, self._inbox, self._put = order, inbox, inbox.put
        inbox.put = self._note  # type: ignore[method-assign]

    def joined(self, here: Position | None, recovered: bool, messages: list[Message]) -> None:
        place = None if here is None else {"offset": here.offset, "epoch": here.epoch}
        self.steps.append(["joined", place, recovered, list(map(_plain, messages)), self._inbox.free])
        self._order.joined(here, recovered, messages)

    def push(self, message: Message) -> None:
        self.steps.append(["push", _plain(message)])
        self._order.push(message)

    def gap(self, gap: Gap) -> None:
        self.steps.append(["gap", {"from": gap.first, "to": gap.last, "reason": gap.reason}])
        self._order.gap(gap)

    def page(self, ask: Ask, found: Page) -> None:
        self.steps.append(["page", {"messages": list(map(_plain, found.messages)), "more": found.more}])
        self._order.page(ask, found)

    @property
    def wanted(self) -> Ask | None:
        return self._order.wanted

    @property
    def position(self) -> Position | None:
        return self._order.position

    def asks(self, ask: Ask) -> None:
        """Note that the page that is wanted now has been asked for."""
        self.steps.append(["ask", ask.content])

    def _note(self, item: Any) -> None:
        if isinstance(item, Message):
            self.seen.append(["message", item.offset, item.epoch])
        elif isinstance(item, Gap):
            self.seen.append(["gap", item.first, item.last, item.reason])
        elif isinstance(item, Resumed):
            self.seen.append(["resumed", item.recovered])
        self._put(item)


def _plain(message: Message) -> dict[str, Any]:
    return {"offset": message.offset, "epoch": message.epoch}


class Model:
    """A server, one connection's wire, and a reader that is sometimes slow. All by dice."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.dice = random.Random(seed)
        self.epochs = self._epochs()
        self.epoch = next(self.epochs)
        self.offset = 0
        self.everything: list[tuple[int, str]] = []
        self.history = History()
        self.ring = self.dice.choice([0, 2, 10, 1000])  # a recovery reaches back so far
        self.keeps = self.dice.choice([3, 20, 10**6, 10**6])
        self.goes_on = self.dice.random() < 0.5  # offsets over epochs
        self.loses = self.goes_on and self.dice.random() < 0.5  # the last ones, with the epoch
        order, self.inbox = at(0, self.epoch, self.dice.choice([8, 16, 100]))
        self.order = Trace(order, self.inbox)
        self.online = True
        self.wire: deque[tuple[str, object]] = deque()
        self.asked: Ask | None = None
        self.read_late: tuple[str, object] | None = None
        self.got: list[object] = []
        self.epochs_ended = 0
        self.drops = self.dice.random() < 0.3  # what a slow reader is not sent
        self.dropped = False

    @staticmethod
    def _epochs() -> Iterator[str]:
        return (f"epoch {number}:" for number in range(10**6))

    def publish(self) -> None:
        self.offset += 1
        row = (self.offset, self.epoch)
        self.everything.append(row)
        self.history.kept = [*self.history.kept, row][-self.keeps :]
        if self.online:
            self.wire.append(("push", push(*row)))

    def drop(self) -> None:
        """Publish a few that are not sent to us, as to a slow reader, and say so."""
        first = self.offset + 1
        for _ in range(self.dice.randint(1, 5)):
            self.publish()
            if self.online:
                self.wire.pop()
        if self.online:
            self.wire.append(("gap", Gap(first, self.offset, "slow_consumer")))
            self.dropped = True

    def cut(self) -> None:
        self.online, self.asked, self.read_late = False, None, None
        self.wire.clear()

    def restart(self) -> None:
        self.cut()
        self._begin_epoch()

    def turn(self) -> None:
        """Go on in another epoch beside open connections, as after a failover behind the server.

        It says so; of the end of the one and the beginning of the other it may not have heard itself.
        """
        for _ in range(self.dice.choice([0, 0, 2])):
            self.publish_unheard()
        self._begin_epoch()
        if self.online:
            self.wire.append(("gap", RESTARTED))
        for _ in range(self.dice.choice([0, 0, 3])):
            self.publish_unheard()

    def publish_unheard(self) -> None:
        """Publish what is kept, and sent to nobody."""
        self.publish()
        if self.online:
            self.wire.pop()

    def _begin_epoch(self) -> None:
        self.epoch = next(self.epochs)
        self.epochs_ended += 1
        if not self.goes_on:
            self.offset = 0
            self.history.kept = []
        elif self.loses and self.history.kept:
            del self.history.kept[1 + self.dice.randrange(len(self.history.kept)) :]
            self.offset = self.history.kept[-1][0]

    def join_nowhere(self) -> None:
        """Join at a server whose answer does not say where the room is."""
        self.join(says_where=False)

    def join(self, *, says_where: bool = True) -> None:
        self.cut()
        since = self.order.position
        assert since is not None
        rows = [row for row in self.history.kept if row[1] == self.epoch and row[0] > since.offset]
        behind = self.offset - since.offset
        whole = since.epoch == self.epoch and 0 <= behind <= self.ring and len(rows) == behind
        self.online = True
        here = Position(self.offset, self.epoch)
        self.wire.append(
            (
                "joined",
                (here if says_where else None, whole, [push(*row) for row in rows] if whole else []),
            )
        )

    def arrive(self) -> None:
        if self.wire:
            kind, item = self.wire.popleft()
            if kind == "joined":
                self.order.joined(*item)
            elif kind == "page":
                self.asked = None
                self.order.page(*item)
            elif kind == "gap":
                self.order.gap(item)
            else:
                self.order.push(item)

    async def read(self) -> None:
        self.got += [await self.inbox.get() for _ in range(self.dice.randint(0, len(self.inbox)))]

    def ask(self) -> None:
        """As the client does: one at a time, and only where the reader has left room."""
        ask = self.order.wanted
        joined = all(kind != "joined" for kind, _ in self.wire)
        if self.online and joined and ask is not None and self.asked is None and self.inbox.free >= 0:
            self.asked = ask
            self.order.asks(ask)
            self.read_late = ("page", (ask, self.history.answer(ask)))

    def answer(self) -> None:
        """What was read for an answer may be older than the pushes before it."""
        if self.read_late is not None:
            self.wire.append(self.read_late)
            self.read_late = None

    async def run(self) -> None:
        moves = (
            [self.publish] * 6
            + [self.arrive] * 6
            + [self.ask, self.answer] * 3
            + [self.cut, self.join, self.join]
            + [self.join_nowhere]
        )
        moves.append(self.join_nowhere)
        if self.drops:
            moves.append(self.drop)
        for _ in range(self.dice.randint(0, 300)):
            if self.dice.random() < 0.01:
                self.dice.choice([self.restart, self.turn])()
            self.dice.choice(moves)()
            # A reader that falls behind live pushes gets gaps of its own; here it never does.
            while len(self.inbox) > self.inbox.limit - 3 or self.dice.random() < 0.3:
                await self.read()
        self.join()
        while self.wire or self.order.wanted is not None:
            self.arrive()
            self.ask()
            self.answer()
            self.got += await drained(self.inbox)
        self.got += await drained(self.inbox)

"""The last reader: one who has never been in any room, and pages all of its history, both ways."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.chaos.judge import Books, Place
from tests.chaos.wire import MSGPACK, Joined, Paged, Said, Wire, decoded
from tests.chaos.world import BrokenPromiseError, World

PAGE = 250
ANSWER_S = 60.0


async def read_all(world: World) -> None:
    """Read the whole history of every room and enter it in the judge's books."""
    reader = Reader(world)
    await reader.wire.connect(*world.address, 0)
    try:
        for books in world.judge.rooms():
            await reader.read(books)
    finally:
        reader.wire.cut("close")


class Reader:
    """One connection with one request at a time."""

    def __init__(self, world: World) -> None:
        self.wire = Wire(MSGPACK, "reader", self, world.token("reader"))
        self._judge = world.judge
        self._world = world
        self._ids = 0
        self._answer: asyncio.Future[Said] | None = None

    async def read(self, books: Books) -> None:
        """Page one room forth, then back: both have to find the same, and all of it if it is durable."""
        stay = self._judge.stay("the reader", books.name)
        floor = books.floor()
        joined = await self.ask("join", books.name, {}, Joined)
        at = Place(joined.epoch, joined.offset)
        stay.joined(MSGPACK, at, joined.recovered, joined.messages, floor, self._judge.life)
        self._judge.expect(at == books.end(at.epoch), f"{books.name} is at {at}, everybody at {floor}")
        forth: list[Place] = []
        after, more = 0, at.offset > 0
        while more:
            page = await self.ask("history", books.name, {"after": after, "limit": PAGE}, Paged)
            forth += stay.paged(MSGPACK, after, PAGE, page.messages, page.more, floor)
            if not page.messages:
                break
            after, more = forth[-1].offset, page.more
        books.read_page(forth)
        back: list[Place] = []
        before, more = at.offset + 1, at.offset > 0
        while more:
            asked = {"before": before, "limit": PAGE - 1}
            page = await self.ask("history", books.name, asked, Paged)
            found = [books.seen(MSGPACK, raw, f"the reader, before {before},") for raw in page.messages]
            back = [place for place in found if place is not None] + back
            if not found:
                break
            before, more = back[0].offset, page.more
        said = f"{books.name}: {len(forth)} in its history forth, {len(back)} back"
        self._judge.expect(forth == back, said)

    async def ask(self, type_: str, room: str, content: dict[str, int], answer: Any) -> Any:
        """Return the content of the answer."""
        self._ids += 1
        self._answer = asyncio.get_running_loop().create_future()
        self.wire.send([{"type": type_, "id": self._ids, "room": room, "content": content}])
        async with asyncio.timeout(ANSWER_S):
            said = await self._answer
        self._world.happened("read")
        if said.type == "error":
            raise BrokenPromiseError(f"the reader's {type_} of {room}: {bytes(said.content)!r}")
        return decoded(MSGPACK, said.content, answer)

    def hear(self, said: Said, raw: bytes) -> None:
        """Take the answer; the reader cares for nothing else."""
        if said.id == self._ids and self._answer is not None:
            self._answer.set_result(said)

    def ended(self) -> None:
        """Whoever waits for an answer gets none."""
        self.fail(BrokenPromiseError("the reader's connection ended"))

    def fail(self, error: Exception) -> None:
        """What was heard cannot be read."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

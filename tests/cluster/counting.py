"""Clients who have owners count, and the books of what these have written: never two of them at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from itertools import pairwise
from typing import NamedTuple

from tests.chaos.judge import Place
from tests.chaos.wire import JSON, EndedError, Refused, Said, Wire, decoded
from tests.cluster.judge import ClusterJudge
from tests.cluster.tally import COUNT, COUNTED, Counted
from tests.cluster.world import ClusterWorld, after

PACE_S = 0.02
ANSWER_S = 4.0


class Written(NamedTuple):
    """One write of an owner."""

    number: int
    fence: int
    mark: str


class Tallies:
    """What owners have written, as everybody has received it."""

    def __init__(self, judge: ClusterJudge) -> None:
        self._judge = judge
        self._rooms: dict[str, dict[Place, Written]] = defaultdict(dict)
        self._fences: dict[str, set[int]] = defaultdict(set)

    @property
    def written(self) -> int:
        """How many writes are known."""
        return sum(map(len, self._rooms.values()))

    @property
    def owners(self) -> int:
        """How often a room has had another owner, or the same one under a new ring."""
        return sum(len(fences) - 1 for fences in self._fences.values())

    def heard(self, room: str, place: Place, written: Written) -> None:
        """Somebody received it."""
        known = self._rooms[room].setdefault(place, written)
        self._judge.expect(known == written, f"{room}: {written} at {place}, others received {known}")
        self._fences[room].add(written.fence)

    def close(self) -> None:
        """Check that within each epoch one owner followed the other, each going on where the last one was."""
        for room, writes in self._rooms.items():
            ordered = sorted(writes, key=lambda place: (self._judge.age(place.epoch), place.offset))
            for place, following in pairwise(ordered):
                if place.epoch != following.epoch or following.offset != place.offset + 1:
                    continue  # what is lost with an epoch, owners may have counted
                before, now = writes[place], writes[following]
                said = f"{room}: {now} at {following}, behind {before}"
                self._judge.expect(
                    now.fence >= before.fence, f"{said}: an owner that was no more has written"
                )
                self._judge.expect(now.number == before.number + 1, f"{said}: two owners have counted")


class CountingClient:
    """Has the owners of its rooms count, one command at a time, and hears what everybody has them write."""

    def __init__(self, world: ClusterWorld, tallies: Tallies, name: str, rooms: list[str]) -> None:
        self.name = name
        self._world, self._tallies, self._rooms = world, tallies, rooms
        self._wire: Wire | None = None
        self._answer: asyncio.Future[Said] | None = None
        self._ids = 0

    async def live(self) -> None:
        """Count until the end comes."""
        while not self._world.is_ending:
            await self._world.wait_until_up()
            with contextlib.suppress(EndedError, OSError):
                await self._be_connected()
            if self._wire is not None and self._wire.open:
                self._wire.cut("rst")

    async def _be_connected(self) -> None:
        self._wire = Wire(JSON, self.name, self, self._world.token(self.name))
        async with asyncio.timeout(ANSWER_S):
            await self._wire.connect(*self._world.address, 0)
        for room in self._rooms:
            while (await self._ask({"type": "join", "room": room})).type == "error":
                await after(PACE_S * 5)
        while not self._world.is_ending:
            for room in self._rooms:
                self._ids += 1
                mark = f"{self.name}-{self._ids}"
                said = await self._ask({"type": COUNT, "room": room, "content": {"mark": mark}})
                if said.type == "error":
                    told = decoded(JSON, said.content, Refused)
                    self._world.judge.expect(told.temporary, f"{self.name}: {room} answers {told}")
                else:
                    self._world.counts_of_owners.acked(room, self._world.now)
                self._world.happened("counted" if said.type == "ack" else "not counted")
                await after(PACE_S)

    async def _ask(self, message: dict[str, object]) -> Said:
        self._ids += 1
        self._answer = asyncio.get_running_loop().create_future()
        assert self._wire is not None
        self._wire.send([{**message, "id": self._ids}])
        async with asyncio.timeout(ANSWER_S):
            return await self._answer

    # -- what it hears ------------------------------------------------------------------------------------

    def hear(self, said: Said, raw: bytes) -> None:
        """Take one message of the server."""
        if said.id is not None and said.id == self._ids and self._answer is not None:
            if not self._answer.done():
                self._answer.set_result(said)
        elif said.type == COUNTED and said.room and said.epoch and said.offset:
            told = decoded(JSON, said.content, Counted)
            place = Place(said.epoch, said.offset)
            self._tallies.heard(said.room, place, Written(told.number, told.fence, told.mark))

    def ended(self) -> None:
        """The connection is over."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(EndedError("the connection ended before the answer"))

    def fail(self, error: Exception) -> None:
        """What was heard cannot be read."""
        self._world.fail(error)

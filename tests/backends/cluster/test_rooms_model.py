"""Workers that publish at random while messages get lost, subscriptions fall, masters change: all agree."""

import asyncio
import json
import os
import random

from realtime.backends.cluster.names import RoomNames
from realtime.core.contracts import Position
from realtime.errors import Unavailable
from tests.backends.cluster.stage import LOBBY, Member, Worker, Workers, get, until

STEPS = 400
SEED = os.environ.get("CLUSTER_SEED")


class Play:
    """Three workers in one room; `acked` is what was answered, by (epoch, offset)."""

    def __init__(self, workers: Workers, rng: random.Random) -> None:
        self.workers = workers
        self.rng = rng
        self.names = RoomNames(workers.prefix, LOBBY)
        self.team: list[Worker] = []
        self.members: list[Member] = []
        self.acked: dict[tuple[str, int], int] = {}
        self.unanswered: set[int] = set()
        self.flying: list[asyncio.Task[None]] = []
        self.down: dict[int, Member] = {}

    async def begin(self) -> None:
        for _ in range(3):
            self.team.append(await self.workers.start())
            self.members.append(await self.team[-1].joined())
            self.team[-1].redis.lost = self.lost

    def lost(self, payload: bytes) -> bool:
        return self.rng.random() < 0.1

    async def publish(self, number: int) -> None:
        try:
            offset, epoch, duplicate = await self.rng.choice(self.members).publish(number, key=str(number))
        except Unavailable:
            self.unanswered.add(number)
            return
        assert not duplicate
        assert (epoch.decode(), offset) not in self.acked
        self.acked[epoch.decode(), offset] = number

    async def other_mastership(self) -> None:
        """Let the room's nonce be another: the next to touch it begins an epoch."""
        script = (
            "local room = redis.call('HGET', KEYS[1], 'r') "
            "redis.call('HSET', KEYS[1], 'r', room:sub(1, 48) .. ARGV[1] .. room:sub(81))"
        )
        nonce = self.rng.randbytes(16).hex()
        await self.team[0].broker.ask(self.names.slot, b"EVAL", script, 1, self.names.meta, nonce)

    def cut(self, at: int) -> None:
        self.down[at] = self.members[at]
        self.members[at].stream.on_unsubscribed()

    def mend(self, at: int) -> None:
        self.down.pop(at).stream.on_subscribed()

    async def step(self, number: int) -> None:
        chance = self.rng.random()
        at = self.rng.randrange(3)
        if chance < 0.7:
            self.flying.append(asyncio.create_task(self.publish(number)))
        elif chance < 0.75:
            await self.other_mastership()
        elif chance < 0.85:
            self.mend(at) if at in self.down else self.cut(at)
        elif chance < 0.9:
            self.team[at].redis.unanswered = Unavailable("planted")
        elif chance < 0.95:
            await asyncio.gather(*self.flying)
        else:
            self.team[at].tick(1.1)
        if self.rng.random() < 0.5:
            await asyncio.sleep(0)

    async def end(self) -> None:
        await asyncio.gather(*self.flying)
        for worker in self.team:
            worker.redis.unanswered = None
            worker.redis.lost = lambda payload: False
        for at in tuple(self.down):
            self.mend(at)
        async with asyncio.timeout(60):
            while not all(member.stream.live for member in self.members):
                for worker in self.team:
                    worker.tick(1.1)
                await asyncio.sleep(0)
        await self.members[0].publish("end")
        await until(lambda: all(member.texts[-1:] == ["end"] for member in self.members))


def placed(member: Member) -> dict[tuple[str, int], object]:
    found = [json.loads(push) for push in member.pushes]
    by_place = {(push["epoch"], push["offset"]): push["content"] for push in found}
    assert len(by_place) == len(found), "delivered twice"
    return by_place


async def test_all_members_get_everything_once_in_one_order_whatever_happens(workers):
    seed = random.randrange(2**32) if SEED is None else int(SEED)
    print(f"CLUSTER_SEED={seed}")
    play = Play(workers, random.Random(seed))
    await play.begin()
    for number in range(STEPS):
        await play.step(number)
    await play.end()
    first = play.members[0]
    epochs = {epoch for epoch, _ in placed(first)}
    for member in play.members:
        assert member.offsets == list(range(1, len(member.offsets) + 1))
        assert {gap[2] for gap in member.gaps} <= {"epoch_changed"}
        assert len(member.gaps) >= len(epochs) - 1
        assert member.pushes == first.pushes
        assert play.acked.items() <= placed(member).items()
        extra = set(placed(member).values()) - set(play.acked.values()) - {"end"}
        assert extra <= play.unanswered
    late = await (await workers.start()).joined()
    newest = json.loads(first.pushes[-1])
    page = await get(late.stream.history(None, None, 1000))
    assert list(page.messages) == first.pushes
    since = next(json.loads(push) for push in first.pushes if json.loads(push)["epoch"] == newest["epoch"])
    recovery = await late.recover(Position(since["offset"], since["epoch"].encode()))
    assert list(recovery.messages) == first.pushes[since["offset"] :]

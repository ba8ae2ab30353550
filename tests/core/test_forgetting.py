"""A durable room's memory is forgotten by all workers, and again where one of them was away."""

import asyncio

import pytest

from realtime.backends.broker_memory import MemoryBroker
from realtime.core.again import AGAIN_S
from realtime.core.forgetting import FORGET
from realtime.errors import BadMessage, Unavailable
from realtime.ids import RoomId, RoomName, TenantId
from tests.core.ring import Ring
from tests.oracles.hub import FakeClock, FakeHub

LOBBY = RoomId(TenantId("acme"), RoomName("chat:lobby"))


class NotingBroker(MemoryBroker):
    """Notes what it is to forget; Redis is `away` where it is to be."""

    def __init__(self) -> None:
        clock = FakeClock()
        super().__init__(clock, FakeHub(clock))
        self.noted: list[object] = []
        self.away = False

    async def expunge(self, room, kind, upto):
        if self.away:
            raise Unavailable("Redis is away")
        self.noted.append((room, upto))

    def drop_history(self, room):
        self.noted.append(room)


@pytest.fixture
def ring():
    return Ring()


@pytest.fixture
def workers(ring):
    return [ring.world(name, broker=NotingBroker()) for name in ("a", "b")]


def test_what_is_shared_goes_first_and_then_each_workers_own(workers):
    asyncio.run(workers[0].core.forget_history(LOBBY, 7))
    assert [each.broker.noted for each in workers] == [[(LOBBY, 7), LOBBY], [LOBBY]]


def test_a_worker_that_gives_no_answer_is_asked_until_it_does(ring, workers):
    here, there = workers
    ring.deaf.add("b")
    with pytest.raises(Unavailable):
        asyncio.run(here.core.forget_history(LOBBY, 7))
    with pytest.raises(Unavailable):
        asyncio.run(here.core.forget_history(LOBBY, 3))
    for _ in range(2):
        here.pass_time(AGAIN_S)
        here.run_waiting()
    assert there.broker.noted == []
    ring.deaf.clear()
    here.broker.noted.clear()
    here.pass_time(AGAIN_S)
    here.run_waiting()
    assert here.broker.noted == [(LOBBY, 7), LOBBY, (LOBBY, 3), LOBBY]
    assert there.broker.noted == [LOBBY, LOBBY]
    here.pass_time(AGAIN_S)
    assert here.waiting == []


def test_while_redis_is_away_nobody_forgets_what_it_would_bring_back(workers):
    here, there = workers
    here.broker.away = True
    with pytest.raises(Unavailable):
        asyncio.run(here.core.forget_history(LOBBY, 7))
    assert here.broker.noted == there.broker.noted == []
    here.broker.away = False
    here.pass_time(AGAIN_S)
    here.run_waiting()
    assert there.broker.noted == [LOBBY]


def test_rooms_that_are_in_memory_alone_keep_it(workers):
    asyncio.run(workers[0].core.forget_history(LOBBY._replace(room=RoomName("events:news")), 7))
    assert workers[0].broker.noted == []


def test_what_is_no_order_is_refused(workers):
    with pytest.raises(BadMessage, match="forget"):
        asyncio.run(workers[0].core.cluster.ask("a", FORGET, b"\xc1"))

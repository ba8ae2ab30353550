"""Durable rooms of several workers: one Redis that forgets, one PostgreSQL that does not."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from realtime.backends.cluster.durable import KeepingBroker, deepen
from realtime.backends.cluster.names import RoomNames
from realtime.backends.cluster.opener import Opener
from realtime.backends.redis_nodes import RedisNode
from realtime.backends.store_postgres import PostgresStore, open_postgres
from realtime.core.clock import SystemClock
from realtime.core.contracts import Page, Position
from realtime.core.kinds import RoomKind
from realtime.errors import RealtimeError, Unavailable
from realtime.ids import DEFAULT_TENANT, RoomId, RoomName
from tests.backends.cluster.stage import LOBBY, Member, Worker, Workers, get, until
from tests.oracles.hub import FakeClock

CHAT = RoomKind(name="chat", durable=True)
WINDOW_S = 300.0


class Stamp:
    """Says when something is published, by the clock that keys' ages are told by."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock

    @property
    def timestamp(self) -> bytes:
        now = datetime.fromtimestamp(self._clock.time(), UTC)
        return now.isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()


class Stage:
    """Two workers on one Redis and one database."""

    def __init__(self, node: RedisNode, url: str) -> None:
        self.node = node
        self.url = url
        self.workers = Workers(node.url, "rt")
        self.clock = self.workers.clock
        self.stores: list[PostgresStore] = []

    async def start(self, **options: Any) -> Worker:
        """One more worker."""
        store = await open_postgres(self.url, synchronous="normal", clock=SystemClock(), exclusive=False)
        self.stores.append(store)
        worker = await self.workers.start(deepen=deepen(store, self.clock), **options)
        worker.broker.stamp = Stamp(self.clock)
        worker.broker.opening = Opener(
            worker.redis, store, self.clock, prefix="rt", recovery_window_s=WINDOW_S
        )
        worker.broker = KeepingBroker(worker.broker, store, self.clock)
        return worker

    async def close(self) -> None:
        for worker in self.workers.all:
            await worker.broker.close()
            worker.broker = worker.broker.ordering
        await self.workers.close()
        for store in self.stores:
            await store.close()

    # -- what happens to Redis and the store ----------------------------------------------------------------

    async def lose_redis(self) -> None:
        """Redis dies and comes back with nothing."""
        await self.fail_over(b"")

    def saved(self) -> bytes:
        """What a replica has now."""
        self.node.ask("SAVE")
        return (self.node.directory / "dump.rdb").read_bytes()

    async def fail_over(self, had: bytes) -> None:
        """The master dies, and a replica that `had` this takes over."""
        await asyncio.to_thread(self.node.kill)
        dump = self.node.directory / "dump.rdb"
        dump.unlink(missing_ok=True)
        if had:
            dump.write_bytes(had)
        await asyncio.to_thread(self.node.start)
        await self.up()

    async def up(self) -> None:
        """Return when all workers are connected to Redis again, and have caught up."""
        await until(lambda: all(worker.redis.ok for worker in self.workers.all))
        self.waited_since = time.monotonic()
        await until(self.live)

    def live(self) -> bool:
        """Let as much time pass as does; whether all streams have caught up."""
        now = time.monotonic()
        self.clock.advance(now - self.waited_since)  # a step each look would soon pass the keys' window
        self.waited_since = now
        streams = []
        for worker in self.workers.all:
            worker.tick()
            streams += worker.broker.ordering._streams.values()
        return all(stream.live for stream in streams)

    async def rows(self, room: RoomId = LOBBY) -> list[tuple[int, str]]:
        """(offset, content) of what the store has."""
        found = await self.stores[0].read(room, 0, 10_000)
        return [(at.offset, json.loads(push)["content"]) for at, push in found]

    async def execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url, server_settings={"search_path": "realtime"})
        await connection.execute(statement)
        await connection.close()


@pytest.fixture(scope="module")
def node(tmp_path_factory) -> Any:
    started = RedisNode(tmp_path_factory.mktemp("redis"))
    started.start()
    yield started
    started.kill()


@pytest_asyncio.fixture
async def stage(node, postgres) -> AsyncIterator[Stage]:
    node.ask("FLUSHALL")
    made = Stage(node, await postgres.new_database())
    async with AsyncExitStack() as stack:
        stack.push_async_callback(made.close)
        yield made


async def two(stage: Stage) -> tuple[Worker, Member, Member]:
    one, other = await stage.start(), await stage.start()
    return one, await one.joined(kind=CHAT), await other.joined(kind=CHAT)


def contents(found: Page) -> list[Any]:
    return [json.loads(push)["content"] for push in found.messages]


async def history(member: Member, before=None, after=None, limit=100) -> list[Any]:
    return contents(await get(member.stream.history(before, after, limit)))


class Broken:
    """Lets a worker's store take rows and say that nobody knows, or hold them back."""

    def __init__(self, store: PostgresStore) -> None:
        self._store, self._append = store, store.append
        self.held: list[tuple[Any, Any]] = []

    def fail(self) -> None:
        self._store.append = self._refuse  # type: ignore[method-assign]

    def hold(self) -> None:
        self._store.append = lambda row, kept: self.held.append((row, kept))  # type: ignore[method-assign]

    def mend(self) -> None:
        self._store.append = self._append  # type: ignore[method-assign]
        for row, kept in self.held:
            self._append(row, kept)
        self.held.clear()

    def _refuse(self, row: Any, kept: Any) -> None:
        asyncio.get_running_loop().call_soon(kept, row, Unavailable("the store cannot be written"))


# ---------------------------------------------------------------- keeping


async def test_what_is_acked_is_in_the_store_and_delivered_in_one_order(stage):
    _, al, bo = await two(stage)
    receipts = await asyncio.gather(
        *(member.later(f"{name}{number}") for number in range(50) for name, member in (("a", al), ("b", bo)))
    )
    await until(lambda: len(al.got) == len(bo.got) == 100)
    assert al.texts == bo.texts
    assert [content for _, content in await stage.rows()] == al.texts
    assert sorted(receipt[0] for receipt in receipts) == list(range(1, 101))
    assert await history(al) == al.texts


async def test_a_room_that_nobody_is_in_is_kept_too(stage):
    one = await stage.start()
    await one.publish("x", kind=CHAT)
    assert await stage.rows() == [(1, "x")]


async def test_with_the_store_away_nothing_is_ordered_and_recovery_goes_on(stage, own_postgres):
    away = Stage(stage.node, await own_postgres.new_database())
    one = await away.start()
    al = await one.joined(kind=CHAT)
    await al.publish("x")
    place = await al.recover()
    await asyncio.to_thread(own_postgres.stop)
    await until(lambda: not away.stores[0].ok)
    with pytest.raises(Unavailable):
        al.later("y")
    recovery = await al.recover(Position(0, place.epoch))
    assert (recovery.recovered, recovery.offset) == (True, 1)
    await asyncio.to_thread(own_postgres.start)
    await until(lambda: away.stores[0].ok)
    assert (await al.publish("z"))[0] == 2
    await away.close()


async def test_a_row_whose_fate_is_unknown_is_refused_and_written_again(stage):
    one, al, bo = await two(stage)
    broken = Broken(stage.stores[0])
    broken.fail()
    for name in ("x", "y"):
        with pytest.raises(Unavailable, match="repeat with the same key"):
            await al.publish(name)
    assert bo.texts == ["x", "y"], "delivered, and not acked"
    assert await stage.rows() == []
    one.tick(1.0)
    await until(lambda: len(one.broker._mender) == 1)
    broken.mend()
    one.tick(1.0)
    await until(lambda: one.broker.stats()["broker_mended_total"] == 2)
    assert await stage.rows() == [(1, "x"), (2, "y")]
    assert len(one.broker._mender) == 0


# ---------------------------------------------------------------- repeats


async def test_a_repeat_is_acked_once_what_it_repeats_is_in_the_store(stage):
    _, al, bo = await two(stage)
    broken = Broken(stage.stores[0])
    broken.fail()
    with pytest.raises(Unavailable):
        await al.publish("x", key="k")
    assert await stage.rows() == []
    offset, _, duplicate = await bo.publish("x", key="k")
    assert (offset, duplicate) == (1, True)
    assert await stage.rows() == [(1, "x")]
    assert (await bo.publish("x", key="k"))[2] is True


async def test_a_repeat_that_cannot_be_kept_is_not_acked(stage):
    _, al, bo = await two(stage)
    for store in stage.stores:
        Broken(store).fail()
    for member in (al, bo):
        with pytest.raises(Unavailable):
            await member.publish("x", key="k")
    stage.node.ask("DEL", RoomNames("rt", LOBBY).stream)
    with pytest.raises(Unavailable, match="not to be found"):
        await bo.publish("x", key="k")


# ---------------------------------------------------------------- epochs


async def test_redis_that_has_lost_all_goes_on_above_the_store_and_says_so(stage):
    _, al, bo = await two(stage)
    for number in range(5):
        await al.publish(number)
    before = await al.recover()
    await stage.lose_redis()
    receipt = await bo.publish("after")
    await until(lambda: al.got == bo.got and len(al.got) == 7)
    assert al.got == [1, 2, 3, 4, 5, (None, None, "epoch_changed"), 6]
    assert (receipt[0], receipt[1] != before.epoch) == (6, True)
    recovery = await al.recover(Position(5, before.epoch))
    assert (recovery.recovered, recovery.offset, recovery.epoch) == (False, 6, receipt[1])
    assert await history(bo) == [0, 1, 2, 3, 4, "after"]


async def test_what_was_acked_of_a_lost_tail_is_in_history_and_its_keys_are_known(stage):
    _, al, bo = await two(stage)
    for number in range(3):
        await al.publish(number)
    had = stage.saved()
    first = await al.publish("tail", key="k")
    await stage.fail_over(had)
    again = await bo.publish("tail", key="k")
    assert again == (first[0], first[1], True), "it was acked: it is not published twice"
    assert (await bo.publish("next"))[0] == 5
    assert await history(al) == [0, 1, 2, "tail", "next"]
    assert al.gaps == [(None, None, "epoch_changed")]


async def test_what_was_delivered_and_not_acked_of_a_lost_tail_never_gets_a_place_again(stage):
    _, al, bo = await two(stage)
    await al.publish("kept")
    had = stage.saved()
    broken = Broken(stage.stores[0])
    broken.hold()
    late = al.later("late", key="k")
    await until(lambda: bo.texts == ["kept", "late"])
    await stage.fail_over(had)
    assert (await bo.publish("instead"))[0] == 2
    broken.mend()
    with pytest.raises(Unavailable):
        await late
    assert await stage.rows() == [(1, "kept"), (2, "instead")]
    assert (await al.publish("late", key="k"))[::2] == (3, False)
    assert await stage.rows() == [(1, "kept"), (2, "instead"), (3, "late")]


async def test_what_was_in_flight_and_is_not_lost_is_kept_in_its_place(stage):
    """A planned failover: Redis has all of it, the store not yet."""
    _, al, bo = await two(stage)
    await al.publish("kept")
    broken = Broken(stage.stores[0])
    broken.hold()
    late = al.later("late", key="k")
    await until(lambda: bo.texts == ["kept", "late"])
    await stage.fail_over(stage.saved())
    assert (await bo.publish("next"))[0] == 3
    broken.mend()
    assert (await late)[::2] == (2, False)
    assert [content for _, content in await stage.rows()] == ["kept", "late", "next"]
    assert (await bo.publish("late", key="k"))[::2] == (2, True)


async def test_workers_that_follow_a_failover_at_once_open_one_epoch(stage):
    workers = [await stage.start() for _ in range(4)]
    rooms = [RoomId(DEFAULT_TENANT, RoomName(f"chat:{number}")) for number in range(20)]
    members = [[await worker.joined(room, CHAT) for room in rooms] for worker in workers]
    await asyncio.gather(*(member.publish("x") for member in members[0]))
    await stage.lose_redis()
    for places in zip(*(await asyncio.gather(*(each(row) for row in members))), strict=True):
        assert len(set(places)) == 1
    assert {tuple(member.gaps) for row in members for member in row} == {((None, None, "epoch_changed"),)}


async def each(row: list[Member]) -> list[tuple[int, bytes]]:
    found = await asyncio.gather(*(member.recover() for member in row))
    return [(recovery.offset, recovery.epoch) for recovery in found]


async def test_a_quiet_room_stays_in_its_epoch_for_long(stage):
    """Who comes back the next day has missed nothing, and is not told otherwise."""
    one = await stage.start(recovery_window_s=0.05)
    al = await one.joined(kind=CHAT)
    receipt = await al.publish("x")
    al.stream.close()
    names = RoomNames("rt", LOBBY)
    await until(lambda: not stage.node.ask("EXISTS", names.stream))
    assert stage.node.ask("PTTL", names.meta) > 6 * 24 * 3600 * 1000
    again = await one.joined(kind=CHAT)
    recovery = await again.recover(Position(1, receipt[1]))
    assert (recovery.recovered, recovery.offset) == (True, 1)
    assert list((await again.recover(Position(0, receipt[1]))).messages) == al.pushes, "from the store"
    await again.publish("y")
    assert 0 < stage.node.ask("PTTL", names.stream) <= 60


async def test_a_redis_that_the_store_has_left_behind_follows(stage):
    """As where the clock of a master is set back: its epoch is older than one that the store has seen."""
    one, al, bo = await two(stage)
    await al.publish("x")
    await stage.execute('UPDATE epochs SET epoch = epoch + 1000000000, "first" = 2')
    with pytest.raises(Unavailable):
        await al.publish("y")
    one.tick(5.0)
    await until(lambda: one.broker._pacer.running == 0 and not len(one.broker._pacer))
    offset, _, _ = await al.publish("z")
    assert offset == 3
    await until(lambda: bo.gaps == [(None, None, "epoch_changed")])
    assert await stage.rows() == [(1, "x"), (3, "z")]


# ---------------------------------------------------------------- holes


async def cut(stage: Stage, *offsets: int) -> None:
    """Let rows be missing in the store."""
    for offset in offsets:
        await stage.execute(f'DELETE FROM publications WHERE "offset" = {offset}')


async def test_holes_in_the_store_are_read_from_redis_and_mended(stage):
    one = await stage.start(history_messages=0)  # nothing in memory: all of it is read
    al = await one.joined(kind=CHAT)
    for number in range(1, 21):
        await al.publish(number)
    stage.clock.advance(10)  # what is younger may still be on its way
    await cut(stage, 1, 5, 6, 7, 13, 20)
    assert await history(al, after=0) == list(range(1, 21))
    await until_rows(stage, 20)
    await cut(stage, 1, 2, 12, 13, 20)
    assert await history(al, limit=10) == list(range(11, 21))
    assert await history(al, before=11, limit=10) == list(range(1, 11))
    assert await history(al, before=14, limit=2) == [12, 13]
    await until_rows(stage, 20)


async def until_rows(stage: Stage, count: int) -> None:
    async with asyncio.timeout(60):
        while len(await stage.rows()) < count:  # noqa: ASYNC110 - another process' table
            await asyncio.sleep(0)


async def test_a_hole_that_nobody_can_fill_is_no_message_and_no_recovery_goes_over_it(stage):
    one = await stage.start(history_messages=0)
    al = await one.joined(kind=CHAT)
    for number in range(1, 11):
        _, epoch, _ = await al.publish(number)
    await cut(stage, 4, 5)
    stage.node.ask("DEL", RoomNames("rt", LOBBY).stream)
    assert await history(al, after=0) == [1, 2, 3, 6, 7, 8, 9, 10]
    assert await history(al, before=7, limit=2) == [3, 6]
    assert (await al.recover(Position(3, epoch))).recovered is False
    whole = await al.recover(Position(5, epoch))
    assert contents(Page(whole.messages, more=False)) == [6, 7, 8, 9, 10]


async def test_pages_walk_over_any_holes_and_see_all_there_is(stage):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    one = await stage.start(history_messages=0)
    for turn in range(12):
        room = RoomId(DEFAULT_TENANT, RoomName(f"chat:{turn}"))
        al = await one.joined(room, CHAT)
        total = dice.randint(1, 30)
        for number in range(1, total + 1):
            await al.publish(number)
        gone = {number for number in range(1, total + 1) if dice.random() < 0.4}
        for number in gone:
            await stage.execute(
                f'DELETE FROM publications WHERE "offset" = {number} AND room = '
                f"(SELECT id FROM rooms WHERE name = 'chat:{turn}')"
            )
        kept = list(range(1, total + 1))
        if dice.random() < 0.5:
            stage.node.ask("DEL", RoomNames("rt", room).stream)
            kept = [number for number in kept if number not in gone]
        for way in ("after", "before"):
            assert await walked(al, way, dice) == kept, f"seed {seed}, {way}"


async def walked(member: Member, way: str, dice: random.Random) -> list[int]:
    seen: list[int] = []
    at: dict[str, int | None] = {"after": 0} if way == "after" else {"before": None}
    while True:
        limit = dice.randint(1, 5)
        page = await get(member.stream.history(at.get("before"), at.get("after"), limit))
        found = contents(page)
        assert len(found) <= limit
        seen = seen + found if way == "after" else found + seen
        if not page.more:
            return seen
        at = {way: found[-1] if way == "after" else found[0]}


async def test_members_who_missed_more_than_redis_keeps_get_it_from_the_store(stage):
    one, other = await stage.start(history_messages=0), await stage.start(history_messages=0)
    al, bo = await one.joined(kind=CHAT), await other.joined(kind=CHAT)
    one.redis.lost = lambda payload: True
    for start in range(0, 400, 40):
        await asyncio.gather(*(bo.publish(start + number) for number in range(40)))
    one.redis.lost = lambda payload: False
    await bo.publish("after")
    await until(lambda: len(al.got) == 401)
    assert al.got == list(range(1, 402)), "without a gap"
    assert al.texts == bo.texts


# ---------------------------------------------------------------- anything


async def test_whatever_dies_what_was_acked_is_found_once_and_no_offset_has_two_contents(stage):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    _, al, bo = await two(stage)
    broken = [Broken(store) for store in stage.stores]
    acked: dict[str, tuple[int, bytes]] = {}
    tried: set[str] = set()

    async def say(text: str) -> None:
        tried.add(text)
        try:
            offset, epoch, _ = await dice.choice([al, bo]).publish(text, key=text)
        except RealtimeError:
            return
        assert acked.setdefault(text, (offset, epoch)) == (offset, epoch), f"seed {seed}: two places"

    had = stage.saved()
    for turn in range(40):
        await asyncio.gather(*(say(f"{turn}.{number}") for number in range(dice.randint(1, 8))))
        lost = sorted(tried - set(acked))
        await asyncio.gather(*(say(text) for text in lost if dice.random() < 0.5))
        move = dice.random()
        if move < 0.1:
            await stage.fail_over(had)
        elif move < 0.3:
            had = stage.saved()
        elif move < 0.4:
            dice.choice(broken).fail()
        elif move < 0.5:
            await stage.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'realtime'"
                " AND datname = current_database()"
            )
        else:
            for each_one in broken:
                each_one.mend()
        for worker in stage.workers.all:
            worker.tick(0.5)
    for each_one in broken:
        each_one.mend()
    await until(lambda: all(store.ok for store in stage.stores))
    for text in sorted(tried - set(acked)):
        async with asyncio.timeout(60):
            while text not in acked:
                await say(text)
    found = await stage.stores[0].read(LOBBY, 0, 10_000)
    offsets = [at.offset for at, _ in found]
    assert len(set(offsets)) == len(offsets), f"seed {seed}: an offset has two contents"
    texts = [json.loads(push)["content"] for _, push in found]
    assert sorted(texts) == sorted(tried), f"seed {seed}: each is there, and once"
    assert {text: at for text, (at, _) in zip(texts, found, strict=True)} == {
        text: Position(*place) for text, place in acked.items()
    }, f"seed {seed}: where it was acked"

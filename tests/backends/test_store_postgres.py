"""What is PostgreSQL's alone: connections that are lost, sessions that outlive them, timelines, bad URLs."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from realtime.backends import postgres_lane
from realtime.backends.postgres_database import applied
from realtime.backends.store_postgres import PostgresStore, open_postgres
from realtime.core.clock import SystemClock
from realtime.errors import StartupError, Unavailable
from realtime.ids import DEFAULT_TENANT, RoomId, RoomName
from tests.contract.stores import LOBBY, Owner, a_row, offsets

ROOMS = [RoomId(DEFAULT_TENANT, RoomName(f"chat:{number}")) for number in range(20)]


async def opened(url: str, **options: Any) -> PostgresStore:
    return await open_postgres(url, **{"synchronous": "normal", "clock": SystemClock()} | options)


@pytest_asyncio.fixture
async def store(postgres) -> AsyncIterator[PostgresStore]:
    opened_store = await opened(await postgres.new_database())
    yield opened_store
    await opened_store.close()


async def until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    """Let others run until `condition` holds."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event to set
            await asyncio.sleep(0)


async def ask(url: str, question: str) -> Any:
    connection = await asyncpg.connect(url, server_settings={"search_path": "realtime"})
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


class Publisher:
    """Owns rooms as a broker does: goes on after what was kept, and looks what is there after a failure."""

    def __init__(self, store: PostgresStore) -> None:
        self.store = store
        self.acked = dict.fromkeys(ROOMS, 0)
        self.failures = 0
        self.stopping = False

    async def publish(self, room: RoomId) -> None:
        """Append to one room, ten rows at a time, until `stopping`."""
        while not self.stopping:
            try:
                last = (await self.store.remembered(room, 0)).offset
                assert last >= self.acked[room], "what was acked is gone"
                while not self.stopping and await self._append(room, last):
                    last += 10
            except Unavailable:
                self.failures += 1
            await asyncio.sleep(0)

    async def _append(self, room: RoomId, last: int) -> bool:
        owner = Owner(self.store)
        try:
            for offset in range(last + 1, last + 11):
                owner.append(a_row(self.store, offset, room))
        finally:
            await owner.all_told()
            self.acked[room] = max([self.acked[room], *owner.kept(room)])
        kept, failed = owner.kept(room), owner.failed(room)
        assert kept + failed == list(range(last + 1, last + 11)), "a group is kept in part"
        self.failures += len(failed)
        return not failed


@pytest.mark.parametrize("victim", ["server", "backend"])
async def test_what_was_acked_is_there_after_kill_9_of_the_server_and_writing_goes_on(own_postgres, victim):
    url = await own_postgres.new_database()
    store = await opened(url)
    epoch = store.epoch
    publisher = Publisher(store)
    tasks = [asyncio.create_task(publisher.publish(room)) for room in ROOMS]
    for _ in range(2):
        before = sum(publisher.acked.values())
        await until(lambda before=before: sum(publisher.acked.values()) > before + 500)
        failures = publisher.failures
        if victim == "server":
            await asyncio.to_thread(own_postgres.kill)
            await until(lambda failures=failures: publisher.failures > failures)
            await asyncio.to_thread(own_postgres.start)
        else:
            await until(lambda: store.ok)
            os.kill(store._lanes[0]._connection.get_server_pid(), signal.SIGKILL)
            await until(lambda failures=failures: publisher.failures > failures)
    before = dict(publisher.acked)
    await until(lambda: all(publisher.acked[room] > before[room] for room in ROOMS))
    publisher.stopping = True
    await asyncio.gather(*tasks)
    assert store.ok
    assert store.epoch == epoch
    assert store.stats()["store_reconnects_total"] >= 2
    for room in ROOMS:
        there = await offsets(store, room)
        assert there == list(range(1, len(there) + 1))
        assert len(there) >= publisher.acked[room]
    assert store.stats()["store_queued_rows"] == 0
    await store.close()


async def test_a_store_without_its_server_says_so_at_once_and_comes_back(own_postgres, caplog):
    store = await opened(await own_postgres.new_database())
    await Owner(store).keep([a_row(store, 1)])
    await asyncio.to_thread(own_postgres.kill)
    await until(lambda: not store.ok)
    await until(lambda: not any(lane.up for lane in store._lanes))
    assert store.stats()["store_ok"] == 0
    with pytest.raises(Unavailable) as refused:
        store.append(a_row(store, 2), lambda row, error: None)
    assert refused.value.retry_after_s > 0
    for question in (store.remembered(LOBBY, 0), store.read(LOBBY, 0, 1), store.page(LOBBY, None, None, 1)):
        with pytest.raises(Unavailable):
            await question
    await asyncio.to_thread(own_postgres.start)
    await until(lambda: store.ok)
    await Owner(store).keep([a_row(store, 2)])
    assert await offsets(store) == [1, 2]
    said = [line for line in caplog.messages if "cannot be written" in line]
    assert len(said) == len(store._lanes)  # one a connection, however long it took
    await store.close()


async def test_an_idle_connection_that_is_lost_is_made_again(store):
    await Owner(store).keep([a_row(store, 1)])
    sessions = store.stats()["store_reconnects_total"]
    await ask(
        store._url,
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    await until(lambda: store.stats()["store_reconnects_total"] == sessions + 2 and store.ok)
    await Owner(store).keep([a_row(store, 2)])
    assert await offsets(store) == [1, 2]


async def test_nothing_is_told_or_written_while_a_lost_session_may_still_commit(store, monkeypatch):
    """A server that froze in the middle of a group: we give the group up, and it may be committed yet."""
    owner = Owner(store)
    await owner.keep([a_row(store, 1)])
    monkeypatch.setattr(postgres_lane, "ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(store, "_lock_wait_s", 0.05)
    lane = store._lane_of(LOBBY)
    attempts = watched_attempts(lane, monkeypatch)
    backend = lane._connection.get_server_pid()
    os.kill(backend, signal.SIGSTOP)
    try:
        owner.append(a_row(store, 2, push=b"given up"))
        owner.append(a_row(store, 3))
        await owner.all_told()
        assert owner.failed() == [2, 3]
        await until(lambda: len(attempts) >= 2)
        assert not lane.up
        with pytest.raises(Unavailable):
            await store.remembered(LOBBY, 0)
        with pytest.raises(Unavailable):
            store.append(a_row(store, 2), lambda row, error: None)
    finally:
        os.kill(backend, signal.SIGCONT)
    await until(lambda: lane.up)
    last = (await store.remembered(LOBBY, 0)).offset
    assert last in (1, 3)  # all of the group or nothing
    await owner.keep([a_row(store, last + 1, push=b"after")])
    found = await store.read(LOBBY, 0, 10)
    assert [position.offset for position, _ in found] == list(range(1, last + 2))
    assert found[-1][1] == b"after"


def watched_attempts(lane: Any, monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """Collects what the lane's attempts to connect again failed with."""
    failed: list[Exception] = []
    connect = lane._connect

    async def watched() -> Any:
        try:
            return await connect()
        except Exception as error:
            failed.append(error)
            raise

    monkeypatch.setattr(lane, "_connect", watched)
    return failed


async def test_a_connection_that_was_lost_while_closing_keeps_nobody(own_postgres):
    store = await opened(await own_postgres.new_database())
    owner = Owner(store)
    for offset in range(1, 20_001):
        owner.append(a_row(store, offset))
    closing = asyncio.create_task(store.close())
    await asyncio.to_thread(own_postgres.kill)
    await closing
    assert len(owner.told) == 20_000
    own_postgres.start()


# ---------------------------------------------------------------- the epoch


async def test_another_timeline_is_another_epoch(postgres):
    url = await postgres.new_database()
    store = await opened(url)
    await Owner(store).keep([a_row(store, 1)])
    await store.close()
    await ask(url, "UPDATE store SET value = '0000002A' WHERE name = 'timeline'")
    again = await opened(url)
    assert again.epoch != store.epoch
    assert (await again.remembered(LOBBY, 0)).offset == 1
    await again.close()


async def test_a_timeline_that_changed_while_we_were_away_is_noticed(store):
    epoch = store.epoch
    await ask(store._url, "UPDATE store SET value = '0000002A' WHERE name = 'timeline'")
    await ask(
        store._url,
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    await until(lambda: store.epoch != epoch and store.ok)
    first = store.epoch
    await Owner(store).keep([a_row(store, 1)])
    assert store.epoch == first  # the second connection found what the first one wrote


# ---------------------------------------------------------------- who may use it


async def test_servers_that_share_a_database_may_say_so(postgres):
    url = await postgres.new_database()
    shared = [await opened(url, exclusive=False) for _ in range(3)]
    for number, store in enumerate(shared):
        await Owner(store).keep([a_row(store, 1, ROOMS[number])])
    assert len({store.epoch for store in shared}) == 1
    for store in shared:
        await store.close()


async def test_servers_that_make_the_same_rooms_at_once_share_them(postgres):
    url = await postgres.new_database()
    stores = [await opened(url, exclusive=False) for _ in range(3)]
    owners = [Owner(store) for store in stores]
    for number, owner in enumerate(owners, start=1):
        for room in ROOMS:
            owner.append(a_row(owner.store, number, room))
    for owner in owners:
        await owner.all_told()
        assert not [error for _, error in owner.told if error]
    assert await ask(url, "SELECT count(*) FROM rooms") == len(ROOMS)
    for store in stores:
        assert [await offsets(store, room) for room in ROOMS] == [[1, 2, 3]] * len(ROOMS)
        await store.close()


async def test_the_database_may_be_an_applications_too(postgres):
    url = await postgres.new_database()
    await ask(url, "CREATE TABLE public.rooms (theirs text)")
    await ask(url, "CREATE TABLE public.migrations (theirs text)")
    store = await opened(url)
    await Owner(store).keep([a_row(store, 1)])
    await store.close()
    assert await ask(url, "SELECT count(*) FROM public.rooms") == 0
    assert [row.name for row in await applied(url)] == ["001_publications.sql", "002_epochs.sql"]


async def test_listing_migrations_changes_nothing(postgres):
    url = await postgres.new_database()
    assert await applied(url) == []
    assert await ask(url, "SELECT to_regnamespace('realtime')") is None


@pytest.mark.parametrize(("synchronous", "commit"), [("normal", "local"), ("full", "on")])
async def test_a_commit_waits_for_the_disk_with_either_setting(postgres, synchronous, commit):
    store = await opened(await postgres.new_database(), synchronous=synchronous)
    for lane in store._lanes:
        assert await lane._connection.fetchval("SHOW synchronous_commit") == commit
    await store.close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda url: url.replace("127.0.0.1", "nowhere.invalid"), "correct POSTGRES_URL"),
        (lambda url: url.rpartition("/")[0] + "/nowhere", 'database "nowhere" does not exist'),
        (lambda url: url.replace("postgres@", "stranger:s3cret@"), 'role "stranger" does not exist'),
        (
            lambda url: url.replace("postgres@", "a:s3cret@").replace("127.0.0.1", "127.0.0.1:x"),
            "127.0.0.1:x",
        ),
        (lambda url: "http://127.0.0.1/", "correct POSTGRES_URL"),
    ],
)
async def test_a_url_that_will_not_do_is_refused_without_its_password(postgres, change, says):
    with pytest.raises(StartupError) as refused:
        await opened(change(postgres.url("postgres")))
    assert says in refused.value.message
    assert "s3cret" not in refused.value.message


async def test_a_user_who_may_not_make_tables_is_told_what_to_grant(postgres):
    url = await postgres.new_database()
    await ask(url, "CREATE ROLE guest LOGIN")
    with pytest.raises(StartupError, match="GRANT CREATE ON DATABASE"):
        await opened(url.replace("postgres@", "guest@"))

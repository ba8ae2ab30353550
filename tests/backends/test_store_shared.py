"""One database, many writers: what the workers of a cluster keep, and what their epochs fence off."""

import asyncio
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from realtime.backends.groups import Superseded
from realtime.backends.postgres_rows import Claim, Wish
from realtime.backends.store_postgres import PostgresStore, open_postgres
from realtime.core.clock import SystemClock
from realtime.core.contracts import Position, Row
from realtime.errors import StartupError
from realtime.ids import DEFAULT_TENANT, RoomId, RoomName
from tests.contract.stores import LOBBY, OTHER, Owner

ROOMS = [RoomId(DEFAULT_TENANT, RoomName(f"chat:{number}")) for number in range(100)]
OLD, NEW = 1_000_000_000, 2_000_000_000
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def epoch_text(number: int) -> bytes:
    """Base 36, as a cluster names its epochs."""
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = DIGITS[digit] + text
    return text.encode()


async def opened(url: str, **options) -> PostgresStore:
    return await open_postgres(url, synchronous="normal", clock=SystemClock(), exclusive=False, **options)


@pytest_asyncio.fixture
async def stores(postgres) -> AsyncIterator[list[PostgresStore]]:
    """Three workers' stores on one database."""
    url = await postgres.new_database()
    async with AsyncExitStack() as stack:
        made = [await opened(url) for _ in range(3)]
        for store in made:
            stack.push_async_callback(store.close)
        yield made


def row(offset: int, number: int = OLD, room: RoomId = LOBBY, **given) -> Row:
    epoch = epoch_text(number)
    fields = {"push": b'{"offset":%d,"epoch":"%b"}' % (offset, epoch), "sender": b'"alice"', "key": None}
    return Row(room, Position(offset, epoch), **fields | {"at_ms": 1_000 + offset} | given)


async def kept(store: PostgresStore, room: RoomId = LOBBY) -> list[tuple[int, int]]:
    """(offset, epoch's number) of all rows of a room."""
    return [(at.offset, int(at.epoch, 36)) for at, _ in await store.read(room, 0, 100_000)]


async def test_rows_of_several_writers_are_one_history(stores):
    owners = [Owner(store) for store in stores]
    for offset in range(1, 301):
        owners[offset % 3].append(row(offset))
    for owner in owners:
        await owner.all_told()
        assert owner.failed() == []
    assert await kept(stores[0]) == [(offset, OLD) for offset in range(1, 301)]
    assert (await stores[1].remembered(LOBBY, 0)).offset == 300
    page = await stores[2].page(LOBBY, None, None, 2)
    assert (list(page.messages), page.more) == ([row(299).push, row(300).push], True)


async def test_a_hole_is_visible_in_what_is_read_either_way(stores):
    await Owner(stores[0]).keep([row(1), row(2), row(5)])
    assert [at.offset for at, _ in await stores[1].read(LOBBY, 0, 10)] == [1, 2, 5]
    assert [at.offset for at, _ in await stores[1].read_back(LOBBY, 6, 2)] == [2, 5]
    assert [at.offset for at, _ in await stores[1].read_back(LOBBY, 5, 10)] == [1, 2]
    await Owner(stores[2]).keep([row(4), row(3)])
    assert [at.offset for at, _ in await stores[1].read(LOBBY, 0, 10)] == [1, 2, 3, 4, 5]


async def test_a_new_epoch_goes_on_after_what_is_kept_or_what_redis_knows(stores):
    await Owner(stores[0]).keep([row(offset) for offset in range(1, 6)])
    assert await stores[1].claim(Wish(LOBBY, NEW, 3, "a")) == Claim(5, NEW)
    assert await stores[1].claim(Wish(OTHER, NEW, 7, "a")) == Claim(7, NEW)


async def test_what_is_in_flight_of_the_old_epoch_is_kept_below_the_new_one_and_refused_above(stores):
    owner = Owner(stores[0])
    await owner.keep([row(1), row(2)])
    assert await stores[1].claim(Wish(LOBBY, NEW, 4, "a")) == Claim(4, NEW)
    await Owner(stores[1]).keep([row(5, NEW)])
    for offset in (3, 4, 5, 6):
        owner.append(row(offset))
    owner.append(row(1, room=OTHER))
    await owner.all_told()
    assert (owner.kept(), owner.failed(), owner.kept(OTHER)) == ([1, 2, 3, 4], [5, 6], [1])
    assert {type(error) for _, error in owner.told if error} == {Superseded}
    assert await kept(stores[2]) == [(1, OLD), (2, OLD), (3, OLD), (4, OLD), (5, NEW)]
    assert stores[0].ok
    assert stores[0].stats()["store_refused_rows_total"] == 2


async def test_what_redis_has_lost_is_not_added_and_what_is_kept_of_it_stays(stores):
    """Its keys are lost with it: were it added later, its repeat would be there too."""
    owner = Owner(stores[0])
    await owner.keep([row(1), row(4)])
    assert await stores[1].claim(Wish(LOBBY, NEW, 2, "a")) == Claim(4, NEW)
    for offset in (2, 3, 4):
        owner.append(row(offset))
    await owner.all_told()
    assert (owner.kept(), owner.failed()) == ([1, 4, 2, 4], [3])
    assert await kept(stores[2]) == [(1, OLD), (2, OLD), (4, OLD)]


async def test_who_opens_at_the_same_master_at_once_is_given_the_same_epoch(stores):
    claims = await asyncio.gather(
        *(store.claim(Wish(LOBBY, NEW + number, 4, "a")) for number, store in enumerate(stores))
    )
    assert len(set(claims)) == 1
    assert await stores[0].claim(Wish(LOBBY, NEW, 4, "b")) == Claim(4, claims[0].number + 1), "another master"
    later = claims[0].number + 60_000_000
    assert await stores[0].claim(Wish(LOBBY, later, 4, "b")) == Claim(4, later), "long after"


async def test_epochs_rise_also_where_a_clock_goes_back(stores):
    await stores[0].claim(Wish(LOBBY, NEW, 0, "a"))
    assert await stores[1].claim(Wish(LOBBY, OLD, 0, "b")) == Claim(0, NEW + 1)


async def test_an_earlier_fence_holds_after_a_later_one(stores):
    await stores[0].claim(Wish(LOBBY, NEW, 4, "a"))
    await Owner(stores[0]).keep([row(5, NEW), row(6, NEW)])
    await stores[1].claim(Wish(LOBBY, NEW + 100_000_000, 6, "b"))
    owner = Owner(stores[2])
    owner.append(row(5))  # of before both
    owner.append(row(4))
    await owner.all_told()
    assert (owner.kept(), owner.failed()) == ([4], [5])


async def test_epochs_in_which_nothing_was_kept_leave_no_row(stores):
    for number in range(20):
        await stores[0].claim(Wish(LOBBY, NEW + 100_000_000 * number, 4, f"{number}"))
    session = await stores[0]._readers.acquire()
    assert await session.fetchval("SELECT count(*) FROM epochs") == 1
    await stores[0]._readers.release(session)


async def test_a_claim_waits_for_the_rows_that_are_being_inserted(stores):
    """Whatever is interleaved: above the last offset of a claim nothing of an earlier epoch is ever kept."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for turn in range(15):
        room, number = ROOMS[turn], NEW + 100_000_000 * turn
        owner = Owner(stores[0])
        for offset in range(1, 40):
            owner.append(row(offset, OLD, room))
        for _ in range(dice.randrange(6)):
            await asyncio.sleep(0)
        claim = await stores[1].claim(Wish(room, number, 0, f"{turn}"))
        await Owner(stores[1]).keep([row(claim.last + 1, number, room)])
        await owner.all_told()
        assert owner.kept(room) == list(range(1, claim.last + 1)), "kept and counted"
        assert await kept(stores[2], room) == [
            *((offset, OLD) for offset in range(1, claim.last + 1)),
            (claim.last + 1, number),
        ]


async def test_thousands_of_epochs_are_opened_in_groups(stores, monkeypatch):
    rooms = [RoomId(DEFAULT_TENANT, RoomName(f"chat:many{number}")) for number in range(3000)]
    claims = await asyncio.gather(*(stores[0].claim(Wish(room, NEW, 1, "a")) for room in rooms))
    assert claims == [Claim(1, NEW)] * 3000
    await Owner(stores[1]).keep(row(2, NEW, room) for room in rooms)


async def test_keys_are_told_with_their_places(stores):
    await Owner(stores[0]).keep([row(1, key="a"), row(2, key="b"), row(3, key="c"), row(4)])
    found = await stores[1].keys_above(LOBBY, 1, 1_003, 10)
    assert [(used.sender, used.key, used.position) for used in found] == [
        (b'"alice"', "c", Position(3, epoch_text(OLD)))
    ]
    assert [used.key for used in await stores[1].keys_above(LOBBY, 0, 0, 2)] == ["c", "b"]


async def test_it_is_told_whether_a_publication_is_kept(stores):
    await Owner(stores[0]).keep([row(1)])
    assert await stores[1].has(LOBBY, Position(1, epoch_text(OLD)))
    assert not await stores[1].has(LOBBY, Position(1, epoch_text(NEW)))
    assert not await stores[1].has(OTHER, Position(1, epoch_text(OLD)))


async def test_a_server_alone_and_a_cluster_keep_each_other_out(postgres):
    url = await postgres.new_database()
    shared = await opened(url)
    with pytest.raises(StartupError, match="is in use by another server"):
        await open_postgres(url, synchronous="normal", clock=SystemClock(), lock_wait_s=0.05)
    await shared.close()
    alone = await open_postgres(url, synchronous="normal", clock=SystemClock())
    with pytest.raises(StartupError, match="is in use by another server"):
        await opened(url, lock_wait_s=0.05)
    await alone.close()


OPEN = """
import asyncio, sys
from realtime.backends.store_postgres import open_postgres
from realtime.core.clock import SystemClock
from tests.backends.test_store_shared import opened, row
from tests.contract.stores import Owner

async def main():
    store = await opened(sys.argv[1])
    start, step = int(sys.argv[2]), int(sys.argv[3])
    await Owner(store).keep([row(offset) for offset in range(start, 1001, step)])
    print(store.epoch.decode())
    await store.close()

asyncio.run(main())
"""


async def test_processes_that_start_at_once_on_an_empty_database_share_it(postgres):
    url = await postgres.new_database()
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", OPEN, url, str(number), "4", stdout=subprocess.PIPE
        )
        for number in range(1, 5)
    ]
    said = [await process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert len({out for out, _ in said}) == 1, "one epoch"
    store = await opened(url)
    assert await kept(store) == [(offset, OLD) for offset in range(1, 1001)]
    await store.close()

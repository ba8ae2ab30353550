"""How many bytes stores keep of each tenant: counted with the rows, whoever writes or removes them."""

import asyncio

import pytest

from realtime.backends.storage_usage import FEATURE, FOLDER, StorageMeter, size_of
from realtime.core.quotas import Quota, QuotaBook
from realtime.errors import QuotaExceeded, Unavailable
from realtime.ids import TenantId
from realtime.policy import Quotas
from tests.contract.stores import FOREIGN, LOBBY, OTHER, Owner, a_row
from tests.oracles.hub import FakeClock

DEFAULT, ACME = LOBBY.tenant, FOREIGN.tenant


# Where nothing adds to the rows, their sizes are known.
plainly = pytest.mark.parametrize("place", ["sqlite", "postgres"], indirect=True)
sealed = pytest.mark.parametrize("place", ["sealed sqlite", "sealed postgres"], indirect=True)


async def kept(store, *rows):
    owner = Owner(store)
    for row in rows:
        owner.append(row)
    await owner.all_told()
    return sum(map(size_of, rows))


@plainly
async def test_what_was_there_before_is_counted_when_counting_begins(store):
    sizes = {
        DEFAULT: await kept(store, a_row(store, 1, key="k\u00e4y"), a_row(store, 1, OTHER, sender=None)),
        ACME: await kept(store, a_row(store, 1, FOREIGN)),
    }
    await store.migrate(FEATURE, FOLDER)
    assert await store.usage(None) == sizes
    assert await store.usage([ACME]) == {ACME: sizes[ACME]}
    assert await store.usage([TenantId("nobody")]) in ({}, {"nobody": 0})


@plainly
async def test_what_is_kept_is_counted_with_it_once_and_what_is_removed_is_not_any_more(place, store):
    await store.migrate(FEATURE, FOLDER)
    first, second = a_row(store, 1, key="k"), a_row(store, 2)
    size = await kept(store, first, second)
    await kept(store, first, second)  # they are there already
    assert await store.usage(None) == {DEFAULT: size}
    await place.execute('DELETE FROM publications WHERE "offset" = 2')
    assert await store.usage(None) == {DEFAULT: size_of(first)}
    await place.execute("UPDATE publications SET sender = NULL")
    assert await store.usage(None) == {DEFAULT: size_of(first) - len(first.sender)}


@sealed
async def test_sealed_rows_count_with_what_sealing_adds_to_them(place, store):
    await store.migrate(FEATURE, FOLDER)
    size = await kept(store, a_row(store, 1, key="k"))
    assert size < (await store.usage(None))[DEFAULT] < size + 200
    await place.execute("DELETE FROM publications")
    assert (await store.usage(None)).get(DEFAULT, 0) == 0


async def test_a_group_that_failed_is_not_counted(place, store):
    await store.migrate(FEATURE, FOLDER)
    await place.refuse(FOREIGN)
    await kept(store, a_row(store, 1, FOREIGN))
    await place.accept()
    assert (await store.usage(None)).get(ACME, 0) == 0


@plainly
async def test_many_tenants_in_one_group_are_each_counted(store):
    await store.migrate(FEATURE, FOLDER)
    rows = [
        a_row(store, n, LOBBY._replace(tenant=TenantId(f"t{n % 7}")), push=b"x" * (n + 1))
        for n in range(1, 300)
    ]
    await kept(store, *rows)
    expected = {}
    for row in rows:
        expected[row.room.tenant] = expected.get(row.room.tenant, 0) + size_of(row)
    assert await store.usage(None) == expected


# -- the meter ----------------------------------------------------------------------------------------------


class CountedStore:
    """Says what it is told to; `asked` are whose usage was asked for."""

    def __init__(self, used):
        self.used = used
        self.asked = []
        self.failure = None
        self.was_asked = asyncio.Event()
        self.answer = asyncio.Event()
        self.answer.set()

    async def migrate(self, feature, folder):
        return []

    async def usage(self, tenants):
        self.asked.append(tenants)
        self.was_asked.set()
        found = dict(self.used)
        await self.answer.wait()
        if self.failure:
            raise self.failure
        return found if tenants is None else {each: found[each] for each in tenants if each in found}


async def a_meter(used, allowed=100, *, shared=False):
    clock, store = FakeClock(), CountedStore(used)
    meter = StorageMeter(store, QuotaBook(Quota(storage_bytes=allowed)), clock, shared=shared)
    return meter, store, clock


async def looked(meter):
    if meter._task is not None:
        await meter._task


def a_row_of(size, tenant=ACME):
    return a_row(
        type("S", (), {"epoch": b"e"}), 1, LOBBY._replace(tenant=tenant), push=b"x" * size, sender=None
    )


async def test_nothing_is_taken_before_it_is_known_what_there_is():
    meter, _, _ = await a_meter({ACME: 90})
    with pytest.raises(Unavailable, match="counted"):
        meter.check(ACME, 1)
    await looked(meter)
    meter.check(ACME, 10)
    with pytest.raises(QuotaExceeded) as caught:
        meter.check(ACME, 11)
    assert (caught.value.limit, caught.value.allowed) == ("storage_bytes_per_tenant", 100)
    meter.check(TenantId("other"), 100)


async def test_what_is_on_its_way_counts_and_what_was_given_up_does_not():
    meter, _, _ = await a_meter({})
    await looked(meter)
    one, two = a_row_of(60), a_row_of(30)
    meter.sent(one), meter.sent(two)
    with pytest.raises(QuotaExceeded):
        meter.check(ACME, 11)
    meter.done(one, kept=False)
    meter.done(two, kept=True)
    meter.check(ACME, 70)
    with pytest.raises(QuotaExceeded):
        meter.check(ACME, 71)


async def test_what_others_write_and_erase_is_found_by_the_next_look():
    meter, store, clock = await a_meter({ACME: 0}, shared=True)
    await looked(meter)
    meter.check(ACME, 1)
    store.used = {ACME: 100}
    clock.advance(1.0)
    meter.tick()
    await looked(meter)
    assert store.asked == [None, [ACME]]
    with pytest.raises(QuotaExceeded):
        meter.check(ACME, 1)
    store.used = {}
    clock.advance(1.0)
    meter.tick()
    await looked(meter)
    meter.check(ACME, 100)


async def test_what_is_committed_during_a_look_is_not_forgotten():
    meter, store, clock = await a_meter({ACME: 50})
    await looked(meter)
    store.answer.clear()
    store.was_asked.clear()
    clock.advance(60.0)
    meter.tick()
    await store.was_asked.wait()
    row = a_row_of(40)
    meter.sent(row)
    meter.done(row, kept=True)
    store.answer.set()
    await looked(meter)
    with pytest.raises(QuotaExceeded):
        meter.check(ACME, 11)


async def test_a_store_that_cannot_count_lets_nothing_through_and_is_asked_again():
    meter, store, clock = await a_meter({})
    store.failure = Unavailable("away")
    await looked(meter)
    with pytest.raises(Unavailable):
        meter.check(ACME, 1)
    store.failure = None
    clock.advance(5.0)
    meter.tick()
    await looked(meter)
    meter.check(ACME, 1)
    await meter.close()


async def test_who_has_no_quota_is_not_asked_about():
    clock, store = FakeClock(), CountedStore({})
    book = QuotaBook(tables={"acme": Quotas(storage_bytes=1)})
    meter = StorageMeter(store, book, clock, shared=False)
    meter.check(DEFAULT, 10**9)
    await meter.close()

"""Data keys at hand: one a tenant for all processes, counted, looked for again when they are lost."""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from realtime.backends.redis_client.client import RedisClient
from realtime.backends.sealing import keyring as keyring_module
from realtime.backends.sealing.box import DataKey, Tampered, is_sealed, key_id
from realtime.backends.sealing.keyring import LOST_S, REFRESH_S, Keyring
from realtime.backends.sealing.masters import Masters
from realtime.backends.sealing.table import FEATURE, FOLDER, KeyTable, WrappedKey
from realtime.backends.sealing.tables import PostgresKeys, RedisKeys, SqliteKeys
from realtime.backends.store_postgres import open_postgres
from realtime.backends.store_sqlite import open_sqlite
from realtime.core.audit import Action, Event, Outcome
from realtime.core.clock import SystemClock
from realtime.errors import Unavailable, Unreadable
from realtime.ids import TenantId
from tests.oracles.hub import FakeClock
from tests.sealing.stage import MemoryTable, masters

ACME, OTHER = TenantId("acme"), TenantId("other")
PLACE = b"somewhere"


class Log:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, event: Event) -> None:
        self.events.append(event)


class Stage:
    """Processes that share a table; each is a keyring."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.table = MemoryTable()
        self.log = Log()
        self.all: list[Keyring] = []

    def process(self, given: Masters | None = None, **options) -> Keyring:
        made = Keyring(
            masters() if given is None else given, self.table, self.clock, audit=self.log, **options
        )
        self.all.append(made)
        return made


@pytest_asyncio.fixture
async def stage() -> AsyncIterator[Stage]:
    made = Stage()
    yield made
    for each in made.all:
        await each.close()


# ---------------------------------------------------------------- boxes


def test_a_box_opens_where_it_was_sealed_and_nowhere_else():
    key = DataKey(ACME, 1, os.urandom(8), os.urandom(32))
    box = key.seal(b"plain", PLACE)
    assert is_sealed(box)
    assert key_id(box) == key.id
    assert b"plain" not in box
    assert key.open(box, PLACE) == b"plain"
    another = DataKey(ACME, 1, key.id, os.urandom(32))
    for opener, where in ((key, b"elsewhere"), (another, PLACE)):
        with pytest.raises(Tampered):
            opener.open(box, where)


def test_a_change_of_any_bit_is_found():
    key = DataKey(ACME, 1, os.urandom(8), os.urandom(32))
    box = key.seal(b"plain", PLACE)
    for at in range(9, len(box)):  # before that are the mark and the key's id, which choose the key
        for bit in (1, 128):
            changed = bytearray(box)
            changed[at] ^= bit
            with pytest.raises(Tampered):
                key.open(bytes(changed), PLACE)
    for cut in range(len(box)):
        with pytest.raises((Tampered, ValueError)):
            key.open(box[:cut], PLACE)


def test_two_boxes_of_the_same_are_never_the_same():
    key = DataKey(ACME, 1, os.urandom(8), os.urandom(32))
    assert len({key.seal(b"plain", PLACE) for _ in range(1000)}) == 1000


def test_a_repr_has_no_key():
    secret = os.urandom(32)
    assert repr(DataKey(ACME, 1, b"8 bytes!", secret)) == "DataKey(acme, 3820627974657321)"


# ---------------------------------------------------------------- at hand


async def test_the_first_use_makes_a_key_and_it_is_on_record(stage):
    ring = stage.process()
    with pytest.raises(Unavailable, match="the data key of tenant acme is being fetched"):
        ring.active(ACME)
    await ring.ensure(ACME)
    key = ring.active(ACME)
    assert ring.look(ACME, key.id) is key
    assert [(each.action, each.outcome, each.target) for each in stage.log.events] == [
        (Action.KEY, Outcome.ALLOWED, key.name)
    ]


async def test_processes_that_begin_at_once_use_one_key(stage):
    rings = [stage.process() for _ in range(8)]
    await asyncio.gather(*(ring.ensure(ACME) for ring in rings))
    assert len({ring.active(ACME).id for ring in rings}) == 1
    assert len(stage.table.keys) == 1


async def test_tenants_have_keys_of_their_own(stage):
    ring = stage.process()
    await ring.ensure(ACME)
    await ring.ensure(OTHER)
    box = ring.active(ACME).seal(b"plain", PLACE)
    assert ring.look(OTHER, key_id(box)) is None
    with pytest.raises(Unreadable, match=r"of tenant other is not there: it was lost, or this is of another"):
        await ring.key(OTHER, key_id(box))


async def test_a_thousand_questions_at_once_look_once(stage):
    ring = stage.process()
    await asyncio.gather(*(ring.ensure(ACME) for _ in range(1000)))
    assert stage.table.asked < 10


async def test_another_process_follows_a_new_key(stage):
    one, two = stage.process(), stage.process()
    await one.ensure(ACME)
    await two.ensure(ACME)
    old = two.active(ACME)
    made = await one.rotate(ACME)
    assert one.active(ACME).id == made.id
    box = one.active(ACME).seal(b"plain", PLACE)
    assert (await two.key(ACME, key_id(box))).open(box, PLACE) == b"plain", "what comes first is fetched"
    assert two.active(ACME) is old
    stage.clock.advance(REFRESH_S)
    assert two.active(ACME) is old, "nobody waits for the look"
    await two.ensure(ACME)
    assert two.active(ACME).id == made.id


async def test_a_key_is_followed_by_another_before_it_is_used_too_often(stage):
    ring = stage.process(uses_block=8, uses_max=32)
    ids = []
    for _ in range(100):
        await ring.ensure(ACME)
        ids.append(ring.active(ACME).id)
    used = [ids.count(id) for id in dict.fromkeys(ids)]
    assert max(used) <= 32
    assert len(used) >= 4


async def test_uses_of_processes_that_ended_count(stage):
    for _ in range(6):
        ring = stage.process(uses_block=8, uses_max=32)
        await ring.ensure(ACME)
        ring.active(ACME)
    assert len(stage.table.keys) == 2, "four blocks were all that the first key had"


async def test_without_uses_left_nothing_is_sealed(stage):
    ring = stage.process(uses_block=8, uses_max=1000)
    await ring.ensure(ACME)
    stage.table.away = True
    for _ in range(8):
        ring.active(ACME)
    with pytest.raises(Unavailable):
        ring.active(ACME)


# ---------------------------------------------------------------- not to be had


async def test_a_table_that_is_away_is_told_and_asked_again(stage):
    ring = stage.process()
    stage.table.away = True
    with pytest.raises(Unavailable, match="tenant acme has no key to seal with: the table is away") as caught:
        await ring.ensure(ACME)
    assert caught.value.retry_after_s == 1.0
    asked = stage.table.asked
    for _ in range(100):
        with pytest.raises(Unavailable, match="the table is away"):
            ring.active(ACME)
    assert stage.table.asked == asked, "not for every message"
    assert ring.stats()["sealing_tenants_without_key"] == 1
    stage.table.away = False
    stage.clock.advance(1.0)
    with pytest.raises(Unavailable):
        ring.active(ACME)  # and fetches it
    await ring.ensure(ACME)
    assert ring.active(ACME)
    assert ring.stats()["sealing_tenants_without_key"] == 0


async def test_a_key_in_use_stays_in_use_while_the_table_is_away(stage):
    ring = stage.process()
    await ring.ensure(ACME)
    stage.table.away = True
    stage.clock.advance(REFRESH_S)
    await ring.ensure(ACME)
    assert ring.active(ACME)


async def test_a_master_key_that_is_gone_is_named_and_no_other_key_is_made_in_silence(stage, caplog):
    await stage.process(masters("old")).ensure(ACME)
    ring = stage.process(masters("new"))
    with pytest.raises(Unavailable, match=r"needs master key old, which is not configured"):
        await ring.ensure(ACME)
    assert len(stage.table.keys) == 1
    assert (await ring.missing())["master key old"] == (1, 1)
    assert "tenant acme has no key to seal with" in caplog.text
    assert stage.log.events[-1].outcome is Outcome.FAILED
    made = await ring.rotate(ACME)
    assert ring.active(ACME).id == made.id, "by order, a new one is made"
    assert (await ring.missing())["master key old"] == (1, 0)


async def test_without_master_keys_the_error_says_what_to_set(stage):
    ring = stage.process(Masters({}))
    with pytest.raises(Unavailable, match="set encryption_keys, encryption_key_file or vault_url"):
        await ring.ensure(ACME)


async def test_a_lost_key_is_named_each_time_and_looked_for_now_and_then(stage):
    ring = stage.process()
    lost = os.urandom(8)
    for _ in range(100):
        with pytest.raises(Unreadable, match=f"data key {lost.hex()} of tenant acme is not there"):
            await ring.key(ACME, lost)
    assert stage.table.asked == 1
    stage.clock.advance(LOST_S)
    with pytest.raises(Unreadable):
        await ring.key(ACME, lost)
    assert stage.table.asked == 2


async def test_a_key_that_was_lost_and_is_back_opens(stage):
    first = stage.process()
    await first.ensure(ACME)
    id = first.active(ACME).id
    (kept,) = stage.table.keys.values()
    ring = stage.process()
    stage.table.keys.clear()
    with pytest.raises(Unreadable):
        await ring.key(ACME, id)
    stage.table.keys[ACME, 1] = kept
    stage.clock.advance(LOST_S)
    assert isinstance(await ring.key(ACME, id), DataKey)


async def test_a_key_that_its_table_has_lost_is_put_back_by_who_uses_it(stage):
    ring = stage.process()
    await ring.ensure(ACME)
    (kept,) = stage.table.keys.values()
    await ring.rotate(ACME)
    newest = ring.active(ACME)
    for lost in ([(ACME, 2)], [(ACME, 1), (ACME, 2)]):
        for at in lost:
            stage.table.keys.pop(at, None)
        stage.clock.advance(REFRESH_S)
        await ring.ensure(ACME)
        assert ring.active(ACME) is newest
        assert stage.table.keys[ACME, 2].id == newest.id
    stage.table.keys = {(ACME, 2): kept._replace(number=2)}  # another took its place meanwhile
    stage.clock.advance(REFRESH_S)
    await ring.ensure(ACME)
    assert ring.active(ACME).id == kept.id


async def test_nobody_knows_is_not_lost(stage):
    ring = stage.process()
    stage.table.away = True
    with pytest.raises(Unavailable) as caught:
        await ring.key(ACME, os.urandom(8))
    assert not isinstance(caught.value, Unreadable)


async def test_what_strangers_name_is_bounded(stage, monkeypatch):
    monkeypatch.setattr(keyring_module, "TENANTS_MAX", 20)
    ring = stage.process()
    for number in range(200):
        await ring.ensure(TenantId(f"tenant-{number}"))
        with pytest.raises(Unreadable):
            await ring.key(ACME, number.to_bytes(8, "big"))
    assert ring.stats()["sealing_tenants"] == 20
    assert len(ring._tenants[ACME].lost) <= keyring_module.KEYS_MAX
    assert len(ring._told) <= 20


# ---------------------------------------------------------------- where keys lie


@pytest_asyncio.fixture(params=["sqlite", "postgres", "redis"])
async def table(request, tmp_path) -> AsyncIterator[KeyTable]:
    if request.param == "redis":
        client = RedisClient(request.getfixturevalue("redis_cluster").url)
        await client.start()
        yield RedisKeys(client, f"keys-{os.urandom(4).hex()}")
        await client.close()
        return
    if request.param == "sqlite":
        store = await open_sqlite(tmp_path / "keys.sqlite", synchronous="normal", clock=SystemClock())
    else:
        url = await request.getfixturevalue("postgres").new_database()
        store = await open_postgres(url, synchronous="normal", clock=SystemClock())
    await store.migrate(FEATURE, FOLDER)
    yield SqliteKeys(store) if request.param == "sqlite" else PostgresKeys(store)
    await store.close()


async def test_a_table_keeps_what_came_first(table):
    key = WrappedKey(ACME, 1, os.urandom(8), "local:m1:AAAA", 1_000)
    assert await table.keys_of(ACME) == []
    assert await table.add(key)
    assert not await table.add(key._replace(id=os.urandom(8)))
    assert list(await table.keys_of(ACME)) == [key]


async def test_keys_come_by_tenant_and_number(table):
    keys = [WrappedKey(each, at, os.urandom(8), "w", at) for each in (ACME, OTHER) for at in range(1, 12)]
    for key in reversed(keys):
        assert await table.add(key)
    assert list(await table.keys_of(OTHER)) == keys[11:]
    assert list(await table.all_keys()) == keys


async def test_a_key_is_wrapped_otherwise_only_while_it_is_what_was_read(table):
    key = WrappedKey(ACME, 1, os.urandom(8), "before", 1)
    await table.add(key)
    assert await table.replace(key, "after")
    assert not await table.replace(key, "later")
    assert list(await table.keys_of(ACME)) == [key._replace(wrapped="after")]


async def test_uses_are_counted_together(table):
    key = WrappedKey(ACME, 1, os.urandom(8), "w", 1)
    await table.add(key)
    counted = await asyncio.gather(*(table.use(key, 10) for _ in range(20)))
    assert sorted(counted) == list(range(10, 210, 10))
    assert len(await table.keys_of(ACME)) == 1


async def test_processes_on_a_real_table_use_one_key(table):
    rings = [Keyring(masters(), table, SystemClock()) for _ in range(8)]
    await asyncio.gather(*(ring.ensure(ACME) for ring in rings))
    assert len({ring.active(ACME).id for ring in rings}) == 1
    for ring in rings:
        await ring.close()

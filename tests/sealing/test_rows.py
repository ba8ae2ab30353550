"""Sealed rows in real stores: what is moved, changed or of a lost key is found, and harms no other."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from realtime.backends.broker_durable import DurableBroker
from realtime.backends.broker_memory import MemoryBroker
from realtime.backends.sealing.store import SealedStore
from realtime.core.contracts import Position
from realtime.core.kinds import RoomKind
from realtime.core.room_rules import RoomRules
from realtime.errors import Unavailable, Unreadable
from realtime.policy import RoomRule
from tests.backends.cluster.stage import get
from tests.contract.stores import FOREIGN, LOBBY, OTHER, Owner, PostgresPlace, SqlitePlace, a_row
from tests.oracles.hub import FakeClock, FakeHub
from tests.sealing.stage import sealing

CHAT = RoomKind(name="chat", durable=True)


class Stage:
    """A place, the plain store on it, and a sealed one around that; `rules` say which rooms are encrypted."""

    def __init__(self, place, plain) -> None:
        self.place = place
        self.plain = plain
        self.clock = FakeClock()
        self.rules = RoomRules([RoomRule(rooms=("*",), encrypted=True)])

    async def sealed(self) -> SealedStore:
        return await sealing(self.plain, self.clock, self.rules)

    async def execute(self, statement: str) -> None:
        await self.place.execute(statement)


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def stage(request, tmp_path) -> AsyncIterator[Stage]:
    if request.param == "sqlite":
        place = SqlitePlace(tmp_path)
    else:
        place = PostgresPlace(await request.getfixturevalue("postgres").new_database())
    plain = await place.open()
    yield Stage(place, plain)
    await plain.close()


ROOM = "(SELECT id FROM rooms WHERE tenant = '{0.tenant}' AND name = '{0.room}')"


def room(id) -> str:
    return ROOM.format(id)


async def filled(stage: Stage) -> SealedStore:
    store = await stage.sealed()
    rows = [a_row(store, offset, each) for each in (LOBBY, OTHER, FOREIGN) for offset in (1, 2, 3)]
    await Owner(store).keep(rows)
    return store


async def test_what_is_kept_is_not_what_was_said(stage):
    store = await filled(stage)
    await Owner(store).keep([a_row(store, 4, push=b'{"text":"MARKER"}', key="KEYMARK")])
    raw = await stage.place.execute("SELECT push, key FROM publications WHERE key IS NOT NULL")
    assert b"MARKER" not in raw[0][0]
    assert b"KEYMARK" not in raw[0][1]
    assert (await store.read(LOBBY, 3, 1))[0][1] == b'{"text":"MARKER"}'
    assert [key for _, key, _, _ in (await store.remembered(LOBBY, 0)).keys] == ["KEYMARK"]


@pytest.mark.parametrize(
    "moved",
    [
        f"UPDATE publications SET push = (SELECT push FROM publications WHERE room = {room(LOBBY)} AND "
        f'"offset" = 1) WHERE room = {room(LOBBY)} AND "offset" = 2',
        f"UPDATE publications SET push = (SELECT push FROM publications WHERE room = {room(OTHER)} AND "
        f'"offset" = 2) WHERE room = {room(LOBBY)} AND "offset" = 2',
        f"UPDATE publications SET epoch = 'another' WHERE room = {room(LOBBY)} AND \"offset\" = 2",
    ],
    ids=["offset", "room", "epoch"],
)
async def test_a_row_that_was_moved_is_tampered_with_and_others_are_not(stage, moved, caplog):
    store = await filled(stage)
    await stage.execute(moved)
    with pytest.raises(Unreadable, match="default/chat:lobby: offset 2 was tampered with"):
        await store.read(LOBBY, 0, 10)
    with pytest.raises(Unreadable, match="offset 2 was tampered with"):
        await store.page(LOBBY, None, None, 2)
    assert "offset 2 was tampered with" in caplog.text
    assert [position.offset for position, _ in await store.read(LOBBY, 2, 10)] == [3]
    assert len(await store.read(OTHER, 0, 10)) == 3


async def test_a_row_of_another_tenant_opens_for_nobody(stage):
    store = await filled(stage)
    await stage.execute(f"DELETE FROM publications WHERE room = {room(LOBBY)}")
    await stage.execute(f"UPDATE publications SET room = {room(LOBBY)} WHERE room = {room(FOREIGN)}")
    with pytest.raises(
        Unreadable, match=r"default/chat:lobby: offset 1 cannot be read: data key .* of tenant"
    ):
        await store.read(LOBBY, 0, 10)


async def test_an_idempotency_key_that_was_tampered_with_stops_nobody(stage, caplog):
    store = await filled(stage)
    await Owner(store).keep([a_row(store, 4, key="one"), a_row(store, 5, key="two")])
    await stage.execute(
        f"UPDATE publications SET key = (SELECT key FROM publications WHERE room = {room(LOBBY)} AND "
        f'"offset" = 5) WHERE room = {room(LOBBY)} AND "offset" = 4'
    )
    found = await store.remembered(LOBBY, 0)
    assert found.offset == 5
    assert [(key, offset) for _, key, offset, _ in found.keys] == [("two", 5)]
    assert "offset 4 was tampered with" in caplog.text


async def test_a_lost_key_is_named_and_rows_of_other_keys_are_read(stage):
    store = await filled(stage)
    await store.rows.keyring.rotate(LOBBY.tenant)
    await Owner(store).keep([a_row(store, 4)])
    await stage.execute("DELETE FROM data_keys WHERE number = 1")
    again = await stage.sealed()
    with pytest.raises(Unreadable, match=r"offset 1 cannot be read: data key [0-9a-f]{16} of tenant default"):
        await again.read(LOBBY, 0, 10)
    assert [position.offset for position, _ in await again.read(LOBBY, 3, 10)] == [4]


async def test_what_was_plain_before_the_room_was_encrypted_is_read(stage):
    store = await stage.sealed()
    stage.rules.replace([])
    await Owner(store).keep([a_row(store, 1, key="plain")])
    stage.rules.replace([RoomRule(rooms=("*",), encrypted=True)])
    await Owner(store).keep([a_row(store, 2, key="sealed")])
    stage.rules.replace([])
    assert [push for _, push in await store.read(LOBBY, 0, 10)] == [b'{"offset":1}', b'{"offset":2}']
    assert [key for _, key, _, _ in (await store.remembered(LOBBY, 0)).keys] == ["plain", "sealed"]
    raw = await stage.place.execute('SELECT push FROM publications ORDER BY "offset"')
    assert [bytes(push)[:1] for (push,) in raw] == [b"{", b"\xf9"]


# ---------------------------------------------------------------- under a broker


async def broker_on(stage: Stage, store: SealedStore) -> DurableBroker:
    hub = FakeHub(stage.clock)
    # Nothing in memory: every answer is read of the store.
    memory = MemoryBroker(stage.clock, hub, history_messages=1)
    return DurableBroker(memory, store, stage.clock, hub)


async def talked(stage: Stage) -> DurableBroker:
    broker = await broker_on(stage, await stage.sealed())
    for text in (b'"one"', b'"two"', b'"three"'):
        await broker.publish(LOBBY, CHAT, "chat_message", b'"al"', text)
    await stage.execute(
        f"UPDATE publications SET epoch = 'gone' WHERE room = {room(LOBBY)} AND \"offset\" = 2"
    )
    return broker


async def test_a_recovery_over_an_unreadable_row_is_refused_and_the_join_is_not(stage):
    broker = await talked(stage)
    stream = broker.open(LOBBY, CHAT, lambda push, offset: None)
    where = await get(stream.recover(None))
    assert where.offset == 3
    found = await get(stream.recover(Position(0, where.epoch)))
    assert not found.recovered
    assert found.messages == ()


async def test_a_page_over_an_unreadable_row_says_which_and_others_are_given(stage):
    broker = await talked(stage)
    stream = broker.open(LOBBY, CHAT, lambda push, offset: None)
    with pytest.raises(Unreadable, match="default/chat:lobby: offset 2 was tampered with"):
        await get(stream.history(None, None, 10))
    page = await get(stream.history(None, 2, 10))
    assert len(page.messages) == 1
    page = await get(stream.history(2, None, 10))
    assert len(page.messages) == 1


async def test_without_its_key_a_room_is_joined_and_read_and_nobody_publishes(stage):
    await (await broker_on(stage, await stage.sealed())).publish(LOBBY, CHAT, "chat_message", None, b"1")
    store = await stage.sealed()
    await stage.execute("UPDATE data_keys SET wrapped = 'local:lost:AAAA'")
    await store.rows.keyring.close()
    broker = await broker_on(stage, store)
    stream = broker.open(LOBBY, CHAT, lambda push, offset: None)
    assert (await get(stream.recover(None))).offset == 1
    with pytest.raises(
        Unavailable, match=r"tenant default has no key to seal with: .* needs master key lost"
    ):
        await stream.publish("chat_message", None, b"2")
    assert (await get(stream.recover(None))).offset == 1, "its offset is free"

"""Encrypted rooms of several workers over real Redis: what is tampered with or of a lost key is a gap."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from realtime.backends.cluster.names import RoomNames
from realtime.backends.sealing.keyring import Keyring
from realtime.backends.sealing.rooms import RoomSeals
from realtime.core.audit import Event, Outcome
from realtime.core.contracts import Position
from realtime.core.kinds import RoomKind
from realtime.core.room_rules import RoomRules
from realtime.errors import Unavailable, Unreadable
from realtime.ids import DEFAULT_TENANT, RoomId, RoomName
from realtime.native.blob import encode_record
from realtime.policy import RoomRule
from tests.backends.cluster.stage import ALICE, LOBBY, Member, Worker, Workers, get, until
from tests.sealing.stage import MemoryTable, masters

ENCRYPTED = [RoomRule(rooms=("*",), encrypted=True)]
OTHER = RoomId(DEFAULT_TENANT, RoomName("chat:other"))
CHAT = RoomKind(name="chat", history_messages=100)
_NUMBERS = itertools.count(1)


class Log:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, event: Event) -> None:
        self.events.append(event)


class Stage:
    """Workers on one Redis whose data keys lie in one table; each has rules of its own."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.table = MemoryTable()
        self.log = Log()
        self.rules: list[RoomRules] = []
        self.rings: list[Keyring] = []

    async def start(self, *, seals: bool = True) -> Worker:
        rules, clock = RoomRules(ENCRYPTED), self.workers.clock
        ring = Keyring(masters(), self.table, clock, audit=self.log)
        self.rules.append(rules)
        self.rings.append(ring)
        return await self.workers.start(seals=RoomSeals(ring, rules) if seals else None)

    async def stream(self, room: RoomId = LOBBY) -> list[tuple[bytes, bytes]]:
        """What Redis keeps of a room: (id, blob)."""
        names = RoomNames(self.workers.prefix, room)
        found = await self.client.ask(names.slot, b"XRANGE", names.stream, b"-", b"+")
        return [(id, fields[-1]) for id, fields in found]

    async def speak(self, payload: bytes, room: RoomId = LOBBY) -> None:
        """Say something on a room's channel, as who can write to Redis may."""
        names = RoomNames(self.workers.prefix, room)
        await self.client.ask(names.slot, b"SPUBLISH", names.channel, payload)

    async def swap(self, id: bytes, blob: bytes, room: RoomId = LOBBY) -> None:
        """Put another blob into the last entry of a room's stream."""
        names = RoomNames(self.workers.prefix, room)
        await self.client.ask(names.slot, b"XDEL", names.stream, id)
        await self.client.ask(names.slot, b"EVAL", _PUT, 1, names.stream, id, b"\0" * 8, blob)

    @property
    def client(self):
        return self.workers.all[0].redis.client


# XADD refuses an id that is not above the last one, so the stream is made anew.
_PUT = (
    b"local had = redis.call('XRANGE', KEYS[1], '-', '+') redis.call('DEL', KEYS[1]) "
    b"for _, e in ipairs(had) do redis.call('XADD', KEYS[1], e[1], unpack(e[2])) end "
    b"redis.call('XADD', KEYS[1], ARGV[1], 'b', ARGV[2], 'd', ARGV[3])"
)


@pytest_asyncio.fixture
async def stage(redis_cluster) -> AsyncIterator[Stage]:
    made = Stage(Workers(redis_cluster.url, f"sealed-{os.getpid()}-{next(_NUMBERS)}"))
    yield made
    for ring in made.rings:
        await ring.close()
    await made.workers.close()


async def joined(worker: Worker, room: RoomId = LOBBY, kind: RoomKind = CHAT) -> Member:
    return await worker.joined(room, kind)


# ---------------------------------------------------------------- what Redis has


async def test_redis_has_nothing_that_was_said_and_every_worker_has(stage):
    one, two = await stage.start(), await stage.start()
    al, bo = await joined(one), await joined(two)
    await al.publish("MARKER one", key="KEYMARK")
    await bo.publish("MARKER two")
    await until(lambda: len(al.texts) == len(bo.texts) == 2)
    assert al.texts == bo.texts == ["MARKER one", "MARKER two"]
    kept = b"".join(blob for _, blob in await stage.stream())
    assert len(kept) > 200
    for word in (b"MARKER", b"KEYMARK", b"alice", b"chat_message"):
        assert word not in kept
    sent = b"".join(
        each if isinstance(each, bytes) else str(each).encode()
        for worker in (one, two)
        for command in worker.redis.sent
        for each in command
    )
    assert b"rt1_publish" in sent
    assert b"MARKER" not in sent


async def test_a_room_that_is_not_encrypted_is_seen_to_be_plain(stage):
    one = await stage.start()
    stage.rules[0].replace([])
    await (await joined(one)).publish("MARKER")
    assert b"MARKER" in b"".join(blob for _, blob in await stage.stream())


async def test_a_signal_is_sealed_and_heard(stage):
    one, two = await stage.start(), await stage.start()
    al, bo = await joined(one), await joined(two)
    await al.publish("first")  # with it both have the key
    await until(lambda: bo.texts == ["first"])
    al.stream.signal(b'{"type":"chat_typing","content":"MARKER"}')
    await until(lambda: bo.signals and al.signals)
    assert bo.signals == al.signals == [b'{"type":"chat_typing","content":"MARKER"}']
    assert b"MARKER" not in b"".join(each for each in one.redis.sent[-1] if isinstance(each, bytes))


async def test_a_signal_that_comes_before_its_key_has_it_fetched(stage):
    one, two = await stage.start(), await stage.start()
    al = await joined(one)
    await al.publish("first")
    stage.rules[1].replace([])
    bo = await joined(two, OTHER)
    stage.rules[1].replace(ENCRYPTED)
    elsewhere = await joined(one, OTHER)
    async with asyncio.timeout(60):
        while not bo.signals:
            elsewhere.stream.signal(b'{"again":1}')
            await asyncio.sleep(0)


async def test_all_of_it_is_recovered_and_paged_by_who_comes_later(stage):
    one, two = await stage.start(), await stage.start()
    al = await joined(one)
    places = [await al.publish(number) for number in range(20)]
    bo = await joined(two)
    found = await bo.recover(Position(5, places[0][1]))
    assert found.recovered
    assert len(found.messages) == 15
    page = await get(bo.stream.history(None, 3, 10))
    assert len(page.messages) == 10
    page = await get(bo.stream.history(None, None, 10))
    assert b'"content":19' in page.messages[-1]


async def test_a_room_nobody_here_is_in_is_sealed_too(stage):
    one, two = await stage.start(), await stage.start()
    bo = await joined(two)
    await one.publish("MARKER")
    await until(lambda: bo.texts == ["MARKER"])
    assert b"MARKER" not in b"".join(blob for _, blob in await stage.stream())


# ---------------------------------------------------------------- keys that change


async def test_rules_that_change_on_one_worker_first_lose_nothing(stage):
    one, two = await stage.start(), await stage.start()
    for rules in stage.rules:
        rules.replace([])
    al, bo = await joined(one), await joined(two)
    await al.publish("plain")
    stage.rules[0].replace(ENCRYPTED)
    await al.publish("sealed")
    await bo.publish("plain again")
    stage.rules[1].replace(ENCRYPTED)
    await bo.publish("sealed again")
    await until(lambda: len(al.texts) == len(bo.texts) == 4)
    assert bo.texts == ["plain", "sealed", "plain again", "sealed again"]
    assert bo.gaps == []


async def test_a_new_data_key_is_fetched_by_who_has_not_heard_of_it(stage):
    one, two = await stage.start(), await stage.start()
    al, bo = await joined(one), await joined(two)
    await al.publish("old key")
    await stage.rings[0].rotate(DEFAULT_TENANT)
    await asyncio.gather(*(al.later(f"new key {number}") for number in range(5)))
    await until(lambda: len(bo.texts) == 6)
    assert bo.texts == ["old key", *(f"new key {number}" for number in range(5))]
    assert bo.gaps == []


async def test_without_a_key_publications_are_refused_and_not_sent(stage):
    one = await stage.start()
    stage.table.away = True
    al = await joined(one)
    sent = len(one.redis.sent)
    with pytest.raises(Unavailable, match="tenant default has no key to seal with: the table is away"):
        await al.publish("MARKER")
    assert all(b"rt1_publish" not in command for command in one.redis.sent[sent:])
    stage.table.away = False
    stage.workers.clock.advance(1)
    assert (await al.publish("later"))[0] == 1


# ---------------------------------------------------------------- what cannot be read


async def test_what_is_of_a_lost_key_is_a_gap_and_what_follows_is_read(stage, caplog):
    one, two = await stage.start(), await stage.start()
    al = await joined(one)
    await al.publish("lost")
    stage.table.keys.clear()
    bo = await joined(two)
    await stage.rings[0].rotate(DEFAULT_TENANT)
    await al.publish("found")
    await until(lambda: bo.texts == ["found"])
    with pytest.raises(
        Unreadable, match=r"chat:lobby: what Redis keeps of it cannot be read: data key .* lost"
    ):
        await get(bo.stream.history(None, None, 10))
    assert not (await bo.recover(Position(0, (await al.recover()).epoch))).recovered
    assert "is not there: it was lost" in caplog.text
    assert stage.log.events[-1].outcome is Outcome.FAILED


async def test_a_run_of_a_lost_key_that_comes_live_is_told_as_a_gap(stage):
    one, two = await stage.start(), await stage.start()
    al, bo = await joined(one), await joined(two)
    await al.publish("one")
    await until(lambda: bo.texts == ["one"])
    made = await stage.rings[0].rotate(DEFAULT_TENANT)
    del stage.table.keys[DEFAULT_TENANT, made.number]
    await al.publish("two")
    await stage.rings[0].rotate(DEFAULT_TENANT)
    await al.publish("three")
    await until(lambda: bo.texts == ["one", "three"])
    assert bo.gaps == [(2, 2, "unrecoverable")]


async def test_a_worker_without_master_keys_tells_gaps_and_goes_on(stage):
    one, two = await stage.start(), await stage.start(seals=False)
    al, bo = await joined(one), await joined(two)
    await al.publish("sealed")
    await bo.publish("plain")
    await until(lambda: bo.texts == ["plain"])
    assert bo.gaps == [(1, 1, "unrecoverable")]
    with pytest.raises(Unreadable, match="no encryption keys are configured"):
        await get(bo.stream.history(None, None, 10))


async def test_a_record_of_another_room_is_a_gap_there(stage, caplog):
    one, two = await stage.start(), await stage.start()
    al, other = await joined(one), await joined(one, OTHER)
    await al.publish("mine")
    await other.publish("theirs")
    ((_, theirs),) = await stage.stream(OTHER)
    ((id, _),) = await stage.stream()
    await stage.swap(id, theirs)
    bo = await joined(two)
    with pytest.raises(
        Unreadable, match="chat:lobby: what Redis keeps of it cannot be read: it was tampered"
    ):
        await get(bo.stream.history(None, None, 10))
    assert "default/chat:lobby: what came over Redis was tampered with" in caplog.text
    assert (await get((await joined(two, OTHER)).stream.history(None, None, 10))).messages


@pytest.mark.parametrize(
    "signal",
    [
        b"\x02\xf9",
        b"\x02\xf9" + b"k" * 7,
        b"\x02\xf9" + b"k" * 60,
        b"\x01" + b"\0" * 16 + (70).to_bytes(4, "little") + b"\xff\xff\xf9" + b"k" * 67,
        b"\x01" + b"\0" * 16 + (2).to_bytes(4, "little") + b"\xff\xff",
        b"\x01" + b"\0" * 16 + (20).to_bytes(4, "little") + b"\xff\xff" + b"x" * 18,
    ],
)
async def test_nonsense_on_a_channel_is_no_crash(stage, signal):
    one = await stage.start()
    al = await joined(one)
    await stage.speak(signal)
    await al.publish("still here")
    await until(lambda: al.texts == ["still here"])
    assert al.signals == []


async def test_a_blob_may_have_plain_records_beside_sealed_ones(stage):
    await stage.start()
    await stage.rings[0].ensure(DEFAULT_TENANT)
    seal = RoomSeals(stage.rings[0], stage.rules[0]).of(LOBBY)
    record = encode_record("chat_message", ALICE, None, b"2025-07-15T10:30:00.123Z", b'"said"')
    assert seal.open(seal.seal([record, record]) + record) == [record] * 3
    elsewhere = RoomSeals(stage.rings[0], stage.rules[0]).of(OTHER)
    assert elsewhere.open(seal.seal([record]) + record) == [None, record]

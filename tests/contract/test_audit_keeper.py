"""What a worker's auditor promises: it never waits or raises, nothing is kept twice, and a loss shows."""

import asyncio
import logging
import random
import subprocess
import sys

import msgspec
import pytest

from realtime.backends import audit_keeper
from realtime.backends.audit_keeper import AuditKeeper
from realtime.core.audit import NO_TENANT, Action, Outcome
from realtime.core.audit_store import AuditStore
from realtime.core.clock import SystemClock
from realtime.errors import Unavailable
from realtime.ids import TenantId
from tests.contract.audit_places import (
    ACME,
    AuditPlace,
    PostgresAuditPlace,
    an_event,
    entries,
    notes,
    opened,
    reading,
    verdict,
)
from tests.tree import ROOT


def a_keeper(store: AuditStore, **options) -> AuditKeeper:
    defaults = {"window_s": 0.0, "notes_per_second": 1e9}
    return AuditKeeper(store, SystemClock(), **(defaults | options))


class Moody:
    """A store that fails as often as it is told, before or after it has kept a group."""

    def __init__(self, store: AuditStore, failures: int = 0) -> None:
        self.store = store
        self.failures = failures
        self.tries = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.tried = asyncio.Event()

    async def append(self, group) -> None:
        self.tries += 1
        self.tried.set()
        await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise Unavailable("refused by the test")
        await self.store.append(group)

    async def retain(self, before_us: int) -> int:
        return await self.store.retain(before_us)

    async def close(self) -> None:
        await self.store.close()


async def test_what_is_recorded_is_kept_in_order(audit_place):
    keeper = a_keeper(await audit_place.open())
    for number in range(2000):
        keeper.record(an_event(target=f"{number}"))
    await keeper.flush()
    assert [entry.target for entry in await entries(audit_place)] == [f"{number}" for number in range(2000)]
    await keeper.close()
    assert (await verdict(audit_place)).whole


async def test_closing_keeps_what_is_queued_and_what_is_counted(audit_place):
    keeper = a_keeper(await audit_place.open(), window_s=10.0)
    for _ in range(7):
        keeper.record(an_event())
    await keeper.close()
    assert [entry.count for entry in await entries(audit_place)] == [1, 6]


async def test_a_group_that_fails_is_tried_again_and_kept_once(audit_place):
    moody = Moody(await audit_place.open(), failures=3)
    keeper = a_keeper(moody)
    keeper.record(an_event("alice"))
    keeper.record(an_event("bob"))
    await keeper.flush()
    assert keeper.ok
    assert moody.tries == 4
    assert [entry.actor for entry in await entries(audit_place)] == ["alice", "bob"]
    await keeper.close()


async def test_what_there_is_no_room_for_is_counted_and_becomes_an_entry(
    audit_place: AuditPlace, caplog: pytest.LogCaptureFixture
):
    moody = Moody(await audit_place.open())
    moody.gate.clear()  # it hangs with the first group, whatever is recorded meanwhile
    keeper = a_keeper(moody, queue_notes=10)
    keeper.record(an_event("first"))
    await moody.tried.wait()
    with caplog.at_level(logging.ERROR):
        for number in range(30):
            keeper.record(an_event(f"user{number}"))
        keeper.record(an_event("zoe", TenantId("other")))
    assert keeper.stats()["audit_lost_total"] == 21
    assert [record for record in caplog.records if "LOST" in record.message], "it is said at once, and loudly"
    moody.gate.set()
    await keeper.flush()
    chain = await entries(audit_place)
    assert [entry.actor for entry in chain] == ["first", *(f"user{n}" for n in range(10)), "server"]
    assert (chain[-1].action, chain[-1].outcome, chain[-1].count) == ("audit.lost", "failed", 20)
    assert [(entry.action, entry.count) for entry in await entries(audit_place, TenantId("other"))] == [
        ("audit.lost", 1)
    ]
    keeper.record(an_event("after"))
    await keeper.close()
    assert (await entries(audit_place))[-1].actor == "after"
    assert (await verdict(audit_place)).whole


async def test_recording_neither_waits_nor_raises(audit_place):
    keeper = a_keeper(await audit_place.open())
    keeper.record(msgspec.structs.replace(an_event(), actor=None))
    keeper.record("no event at all")
    keeper.record(an_event("alice"))
    await keeper.flush()
    assert [entry.actor for entry in await entries(audit_place)] == ["alice"]
    assert [entry.count for entry in await entries(audit_place, NO_TENANT)] == [1], "a loss shows"
    await keeper.close()


async def test_admissions_may_be_left_out(audit_place):
    keeper = a_keeper(await audit_place.open(), admissions=False)
    for outcome in Outcome:
        keeper.record(an_event(action=Action.CONNECT, outcome=outcome))
    await keeper.close()
    assert [entry.outcome for entry in await entries(audit_place)] == ["denied", "failed"]


async def test_old_entries_go_by_themselves(audit_place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(audit_keeper, "RETAIN_FIRST_S", 0.0)
    async with opened(audit_place) as store:
        await store.append(notes(*(an_event() for _ in range(5))))  # of 2023
    keeper = a_keeper(await audit_place.open(), retention_days=30)
    keeper.tick()
    await keeper.retained()
    assert keeper.stats()["audit_dropped_total"] == 5
    await keeper.close()
    assert {entry.action for entry in await entries(audit_place)} == {"audit.retention"}
    assert (await verdict(audit_place)).whole


# ---------------------------------------------------------------- several writers, and their end


async def test_writers_of_one_log_take_turns(audit_place):
    keepers = [a_keeper(await audit_place.open()) for _ in range(4)]
    for number in range(300):
        for name, keeper in enumerate(keepers):
            keeper.record(an_event(f"w{name}", TenantId(f"t{number % 5}"), target=f"{number}"))
        if not number % 50:
            await asyncio.sleep(0)
    for keeper in keepers:
        await keeper.close()
    for tenant in (TenantId(f"t{number}") for number in range(5)):
        chain = await entries(audit_place, tenant)
        assert len(chain) == 240
        assert len({(entry.actor, entry.target) for entry in chain}) == 240
        assert (await verdict(audit_place, tenant)).whole


async def test_kill_9_under_load_leaves_chains_that_verify_and_nothing_twice(audit_place):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for round_ in range(3):
        names = [f"r{round_}w{writer}" for writer in range(2)]
        acked = write_and_kill(audit_place.arguments, names, rng.randrange(1, 20))
        found: dict[str, list[int]] = {name: [] for name in names}
        async with reading(audit_place) as reader:
            chains = await reader.tenants()
        for tenant in chains:
            assert (await verdict(audit_place, tenant)).whole
            for entry in await entries(audit_place, tenant):
                if entry.actor in found:
                    found[entry.actor].append(int(entry.target))
        for name, last in acked.items():
            assert len(found[name]) == len(set(found[name])), "an event is on record twice"
            assert set(range(1, last + 1)) <= set(found[name]), "what was kept is not there"


def write_and_kill(arguments: list[str], names: list[str], acks: int) -> dict[str, int]:
    """Let processes record until each has said `acks` times what is kept, kill them, return what was said."""
    writing = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.contract.audit_writer", *arguments, name],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    last = dict.fromkeys(names, 0)
    for name, process in zip(names, writing, strict=True):
        for _ in range(acks):
            last[name] = int(process.stdout.readline())
    for name, process in zip(names, writing, strict=True):
        process.kill()
        last[name] = max([last[name], *map(int, process.stdout.read().split())])
        process.wait()
    return last


async def test_a_group_whose_commit_got_lost_on_the_way_is_not_kept_twice(postgres):
    """The connection breaks after the commit was sent: the group is in, and nobody was told."""
    place = PostgresAuditPlace(await postgres.new_database())
    store = await place.open()
    await store.append(notes(an_event("before")))
    broken = BreaksAtCommit(store._connection)
    store._connection = broken
    group = notes(an_event("alice"), an_event("bob"))
    with pytest.raises(Unavailable):
        await store.append(group)
    assert broken.committed
    await store.append(group)
    await store.append(notes(an_event("after")))
    await store.close()
    assert [entry.actor for entry in await entries(place)] == ["before", "alice", "bob", "after"]
    assert (await verdict(place, ACME)).whole


class BreaksAtCommit:
    """A connection whose next transaction is committed, and then it is lost before it says so."""

    def __init__(self, connection) -> None:
        self._connection = connection
        self.committed = False

    def __getattr__(self, name: str):
        return getattr(self._connection, name)

    def transaction(self, **options):
        return _Breaking(self, self._connection.transaction(**options))


class _Breaking:
    def __init__(self, broken: BreaksAtCommit, transaction) -> None:
        self._broken = broken
        self._transaction = transaction

    async def __aenter__(self):
        return await self._transaction.__aenter__()

    async def __aexit__(self, *error):
        await self._transaction.__aexit__(*error)
        self._broken.committed = error[0] is None
        raise ConnectionResetError("lost by the test")

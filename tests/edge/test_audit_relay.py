"""What a process outside of the ring does is told to a worker once, however often that takes."""

import asyncio
import logging

import pytest

from realtime.core.audit import OPERATOR, Action, Event, Outcome
from realtime.core.audit_inbox import EVENTS_MAX, TELL, AuditInbox, Batch, encode_batch
from realtime.core.cluster import WorkerId
from realtime.edge.audit_relay import RelayedAudit
from realtime.errors import BadMessage, Unavailable
from realtime.ids import TenantId
from tests.oracles.hub import FakeClock

ACME = TenantId("acme")
W1 = WorkerId("w1")


class Worker:
    """A worker's inbox and what it has taken; `failing` answers get lost, after or before it has."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.failing: list[str] = []
        self.answers = {}
        AuditInbox(self, self)

    def answer(self, verb, handler) -> None:
        self.answers[verb] = handler

    def record(self, event: Event) -> None:
        self.events.append(event)

    async def ask(self, worker: WorkerId, verb: str, body: bytes) -> bytes:
        how = self.failing.pop(0) if self.failing else ""
        if how == "before":
            raise Unavailable("not asked")
        answer = self.answers[verb](WorkerId("outside"), body)
        if how == "after":
            raise Unavailable("the answer got lost")
        return answer

    async def workers(self) -> list[WorkerId]:
        return [W1]


def published(room: str = "chat:lobby") -> Event:
    return Event(
        tenant=ACME, action=Action.ADMIN_PUBLISH, outcome=Outcome.ALLOWED, actor=OPERATOR, target=room
    )


async def test_it_is_told_with_who_gave_it():
    worker = Worker()
    relay = RelayedAudit(worker.ask, worker.workers, FakeClock(), "root@host")
    relay.record(published())
    await relay.close()
    (event,) = worker.events
    assert (event.action, event.target) == (Action.ADMIN_PUBLISH, "chat:lobby")
    assert event.detail == {"by": "root@host"}


async def test_what_repeats_is_told_with_its_count():
    worker = Worker()
    relay = RelayedAudit(worker.ask, worker.workers, FakeClock(), "me")
    for _ in range(1000):
        relay.record(published())
    await relay.close()
    assert [event.count for event in worker.events] == [1, 999]


@pytest.mark.parametrize("how", ["before", "after"])
async def test_what_is_told_again_is_on_record_once(how: str):
    worker, clock = Worker(), FakeClock()
    worker.failing = [how]
    relay = RelayedAudit(worker.ask, worker.workers, clock, "me")
    relay.record(published())
    relay.tick()
    while relay._telling is not None:
        await relay._telling
    await relay.close()
    assert [event.target for event in worker.events] == ["chat:lobby"]


async def test_what_no_worker_takes_is_said_to_be_lost(caplog: pytest.LogCaptureFixture):
    worker = Worker()
    worker.failing = ["before"] * 10
    relay = RelayedAudit(worker.ask, worker.workers, FakeClock(), "me")
    relay.record(published())
    relay.record(published("chat:other"))
    with caplog.at_level(logging.ERROR):
        await relay.close()
    assert "2 acts are not on record: no worker took them" in caplog.text
    assert worker.events == []


async def test_a_worker_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("realtime.edge.audit_relay.FLUSH_TIMEOUT_S", 0.01)

    async def never(*_: object) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    relay = RelayedAudit(never, Worker().workers, FakeClock(), "me")
    relay.record(published())
    await asyncio.wait_for(relay.close(), 60)


@pytest.mark.parametrize("body", [b"", b"nonsense", encode_batch(Batch(1, [published()] * (EVENTS_MAX + 1)))])
def test_an_inbox_takes_nothing_else(body: bytes):
    worker = Worker()
    with pytest.raises(BadMessage):
        worker.answers[TELL](W1, body)
    assert worker.events == []

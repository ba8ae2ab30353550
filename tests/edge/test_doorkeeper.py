"""The doorkeeper: its judges in their order, and what is told of those it refuses."""

import pytest

from realtime.core.audit import Action, Event, Outcome
from realtime.edge.doorkeeper import Doorkeeper
from realtime.edge.turned_away import SPAN_S, TOLD_MAX
from realtime.native.address import pack
from tests.oracles.hub import FakeClock

ALICE, MALLORY = pack("192.0.2.1"), pack("2001:db8::bad")


class Log:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, event: Event) -> None:
        self.events.append(event)


class Guarded:
    """A hub that remembers whom it asks."""

    def guard(self, on_arrival, on_departure):
        self.on_arrival, self.on_departure = on_arrival, on_departure


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def keeper(clock, log) -> Doorkeeper:
    return Doorkeeper(clock, log)


@pytest.fixture
def hub(keeper) -> Guarded:
    guarded = Guarded()
    keeper.serve(guarded)
    return guarded


def refuse_mallory(address: bytes) -> str | None:
    return "denied" if address == MALLORY else None


def test_without_judges_the_hub_asks_nobody(keeper, hub):
    assert (hub.on_arrival, hub.on_departure) == (None, None)
    keeper.rule(refuse_mallory)
    assert (hub.on_arrival, hub.on_departure) == (keeper.arrive, None)
    keeper.rule(None)
    assert (hub.on_arrival, hub.on_departure) == (None, None)


def test_departures_are_asked_for_where_somebody_counts(keeper, hub):
    keeper.add(lambda address: None, lambda address: None)
    assert (hub.on_arrival, hub.on_departure) == (keeper.arrive, keeper.depart)


def test_the_first_that_refuses_decides(keeper):
    asked: list[str] = []
    keeper.add(lambda address: asked.append("first"))
    keeper.add(lambda address: asked.append("second") or "penalty")
    keeper.add(lambda address: asked.append("third"))
    assert not keeper.arrive(ALICE)
    assert asked == ["first", "second"]
    assert keeper.turned_away.counts == {"penalty": 1}


def test_the_rules_come_first_whenever_they_came(keeper):
    keeper.add(lambda address: "penalty")
    keeper.rule(refuse_mallory)
    keeper.arrive(MALLORY)
    keeper.arrive(ALICE)
    assert keeper.turned_away.counts == {"denied": 1, "penalty": 1}


def test_who_counted_one_that_a_later_judge_refuses_is_told(keeper):
    here: list[bytes] = []
    keeper.add(lambda address: here.append(address), here.remove)
    keeper.add(refuse_mallory)
    assert keeper.arrive(ALICE)
    assert not keeper.arrive(MALLORY)
    assert here == [ALICE]
    keeper.depart(ALICE)
    assert here == []


def test_one_address_is_told_of_once_a_minute(keeper, clock, log):
    keeper.rule(refuse_mallory)
    for _ in range(3):
        keeper.arrive(MALLORY)
    assert [(e.action, e.outcome, e.source, dict(e.detail)) for e in log.events] == [
        (Action.ADDRESS, Outcome.DENIED, "2001:db8::bad", {"reason": "denied"})
    ]
    clock.advance(SPAN_S)
    keeper.turned_away.tick()
    assert dict(log.events[1].detail) == {"over_s": 60, "denied": 3}
    keeper.arrive(MALLORY)
    assert len(log.events) == 3


def test_a_minute_that_was_told_of_one_by_one_is_not_summed_up(keeper, clock, log):
    keeper.rule(refuse_mallory)
    keeper.arrive(MALLORY)
    clock.advance(SPAN_S)
    keeper.turned_away.tick()
    assert len(log.events) == 1


def test_a_flood_from_everywhere_is_bounded_in_events_and_memory(keeper, clock, log):
    keeper.rule(lambda address: "denied")
    for number in range(10 * TOLD_MAX):
        keeper.arrive(number.to_bytes(4, "big"))
    assert len(log.events) == TOLD_MAX
    clock.advance(SPAN_S)
    keeper.turned_away.tick()
    assert dict(log.events[-1].detail) == {"over_s": 60, "denied": 10 * TOLD_MAX}
    assert keeper.turned_away.counts["denied"] == 10 * TOLD_MAX

"""Repeats become counts: nothing is lost by it, no flood fills the log, no operator's act is summed up."""

import random

import pytest

from realtime.core import audit_notes
from realtime.core.audit import Action, Event, Outcome
from realtime.core.audit_notes import Coalescer, Note
from realtime.ids import TenantId

ACME, OTHER = TenantId("acme"), TenantId("other")
ACTIONS = list(Action)


class Ticking:
    """A clock that stands until it is moved; its wall time begins at 1000 s."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1000.0 + self.now


def denied(actor: str = "mallory", tenant: TenantId = ACME, action: Action = Action.JOIN, **more) -> Event:
    return Event(tenant=tenant, action=action, outcome=Outcome.DENIED, actor=actor, **more)


class Scene:
    """A coalescer and what it has noted."""

    def __init__(self, window_s: float = 10.0, rate: float = 1.0) -> None:
        self.clock = Ticking()
        self.notes: list[Note] = []
        self.coalescer = Coalescer(self.clock, self.notes.append, window_s=window_s, notes_per_second=rate)

    def at(self, now: float, *events: Event) -> None:
        self.clock.now = now
        self.coalescer.tick()
        for event in events:
            self.coalescer.add(event)


def test_the_first_is_noted_at_once_and_its_repeats_when_the_window_ends():
    scene = Scene()
    scene.at(0.0, denied())
    scene.at(1.0, denied())
    scene.at(2.5, denied())
    assert [(note.events, note.at_us) for note in scene.notes] == [(1, 1_000_000_000)]
    scene.at(10.0)
    first, repeats = scene.notes
    assert repeats == Note(first.event, 2, 1_001_000_000, 1_002_500_000)
    scene.at(11.0, denied())
    assert [note.events for note in scene.notes] == [1, 2, 1]


@pytest.mark.parametrize(
    "other",
    [
        denied("alice"),
        denied(tenant=OTHER),
        denied(action=Action.PUBLISH),
        denied(source="192.0.2.1"),
        denied(target="chat:lobby"),
    ],
)
def test_what_differs_is_another_event(other: Event):
    scene = Scene()
    scene.at(0.0, denied(), other)
    assert [note.event for note in scene.notes] == [denied(), other]


def test_acts_on_a_room_are_told_apart_by_what_was_done():
    def act(**detail: str) -> Event:
        done = {"action": Action.MANAGE, "outcome": Outcome.ALLOWED, "detail": detail}
        return Event(tenant=ACME, actor="mona", target="chat:lobby", **done)

    scene = Scene()
    acts = [act(act="hide", message="1"), act(act="hide", message="2"), act(act="ban", user="1")]
    scene.at(0.0, *acts, acts[0])
    assert [note.event for note in scene.notes] == acts
    scene.at(10.0)
    assert [(note.event, note.events) for note in scene.notes[3:]] == [(acts[0], 1)]


def test_a_window_of_none_notes_each_event():
    scene = Scene(window_s=0.0)
    scene.at(0.0, *[denied()] * 5)
    assert [note.events for note in scene.notes] == [1] * 5


def test_a_flood_of_strangers_is_named_up_to_the_budget_and_counted_beyond(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(audit_notes, "BURST", 100)
    scene = Scene(rate=10.0)
    scene.at(0.0, *(denied(f"user{number}") for number in range(1000)))
    assert len(scene.notes) == 100
    scene.at(10.0)
    *_, summary = scene.notes
    assert (summary.event.actor, summary.events) == ("", 900)
    assert summary.event.detail == {"over": "audit_entries_per_second"}
    scene.at(10.0, *(denied(f"new{number}") for number in range(200)))
    assert sum(note.event.actor.startswith("new") for note in scene.notes) == 100, "10 s at 10 a second"


def test_a_tenant_that_floods_spends_its_own_budget(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(audit_notes, "BURST", 10)
    scene = Scene()
    scene.at(0.0, *(denied(f"user{number}") for number in range(100)), denied("bob", OTHER))
    assert scene.notes[-1].event == denied("bob", OTHER)


@pytest.mark.parametrize("action", sorted(set(Action) - audit_notes.STRANGERS))
def test_what_only_an_operator_can_cause_is_never_summed_up(action: Action, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(audit_notes, "BURST", 1)
    scene = Scene()
    scene.at(0.0, *(denied(f"user{number}", action=action) for number in range(50)))
    assert len({note.event.actor for note in scene.notes}) == 50


@pytest.mark.parametrize("seed", range(20))
def test_the_counts_are_the_events_and_memory_is_bounded(seed: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(audit_notes, "BURST", 20)
    monkeypatch.setattr(audit_notes, "WINDOWS_MAX", 8)
    monkeypatch.setattr(audit_notes, "TENANTS_MAX", 3)
    chance = random.Random(seed)
    scene = Scene()
    told = 0
    for _ in range(300):
        events = [
            denied(
                f"u{chance.randrange(40)}", TenantId(f"t{chance.randrange(6)}"), chance.choice(list(Action))
            )
            for _ in range(chance.randrange(5))
        ]
        told += len(events)
        scene.at(scene.clock.now + chance.random() * 3, *events)
        assert len(scene.coalescer._windows) <= 8
        assert len(scene.coalescer._budgets) <= 3
    scene.coalescer.flush()
    assert sum(note.events for note in scene.notes) == told
    assert all(note.at_us <= note.until_us for note in scene.notes)

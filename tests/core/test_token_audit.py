"""What stands on record of tokens: who came, who was refused and why, what was renewed, revoked and ended."""

import pytest

from realtime.core.audit import NO_TENANT, Action, Event, Outcome
from realtime.core.auth import Identity
from tests.core.world import World


class Log:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, event: Event) -> None:
        self.events.append(event)

    def short(self) -> list[tuple[str, str, str, str, str]]:
        return [
            (each.tenant, each.action.name, each.outcome.value, each.actor, each.target)
            for each in self.events
        ]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def world(log: Log) -> World:
    return World(audit=log)


def give(world: World, token: str, **more: object) -> str:
    now = world.clock.time()
    settings = {"tenant": "acme", "expires_at": now + 60, "issued_at": now - 1, "token_id": "j1", **more}
    world.tokens[token] = Identity("alice", **settings)
    return token


def test_who_comes_in_and_who_does_not(world: World, log: Log):
    give(world, "secret-token")
    alice, mallory = world.stranger(), world.stranger()
    alice.send("connect", content={"token": "secret-token"})
    mallory.send("connect", content={"token": "planted-marker"})
    assert log.short() == [
        ("acme", "CONNECT", "allowed", "alice", ""),
        (NO_TENANT, "CONNECT", "denied", "unknown", ""),
    ]
    assert log.events[0].detail == {"carrier": "message", "jti": "j1"}
    assert log.events[1].detail == {"carrier": "message", "reason": "unauthorized", "close_code": 4500}
    assert {each.source for each in log.events} == {"192.0.2.1"}
    assert not any(secret in repr(log.events) for secret in ("secret-token", "planted-marker"))


def test_renewals_taken_and_refused(world: World, log: Log):
    give(world, "old")
    give(world, "new", expires_at=world.clock.time() + 600)
    alice = world.stranger()
    alice.send("connect", content={"token": "old"})
    alice.ask("refresh", content={"token": "new"})
    alice.ask("refresh", content={"token": "wrong"})
    assert [each[1:4] for each in log.short()[1:]] == [
        ("REFRESH", "allowed", "alice"),
        ("REFRESH", "denied", "alice"),
    ]


async def test_revocations_and_what_they_close(world: World, log: Log):
    give(world, "t")
    alice = world.stranger()
    alice.send("connect", content={"token": "t"})
    control = world.core.control
    await control.revoke(tenant="acme", token_id="j1")
    world.pass_time(1)
    await control.revoke(tenant="acme", user="alice")
    await control.revoke(tenant="acme", everybody=True)
    assert log.short()[1:] == [
        ("acme", "REVOKE", "allowed", "operator", "jti:j1"),
        ("acme", "CLOSE", "allowed", "server", "alice"),
        ("acme", "REVOKE", "allowed", "operator", "alice"),
        ("acme", "REVOKE", "allowed", "operator", "everybody"),
    ]
    assert log.events[2].detail == {"reason": "revoked"}


def test_an_end_that_the_server_made(world: World, log: Log):
    give(world, "t")
    alice = world.stranger()
    alice.send("connect", content={"token": "t"})
    world.pass_time(62)
    assert alice.connection.closed == (4003, b'{"r":"token_expired"}')
    (closed,) = [each for each in log.events if each.action is Action.CLOSE]
    assert (closed.outcome, closed.detail) == (Outcome.ALLOWED, {"reason": "token_expired"})

"""Tokens of connections that have said nothing: warned once, closed in time, and counted exactly."""

import random

import pytest

from realtime.core.audit import Action, Event
from realtime.core.auth import Identity
from realtime.core.token_audit import TokenAudit
from realtime.edge.expiry import SilentTokens
from tests.oracles.hub import FakeClock, FakeConnection


class Log:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, event: Event) -> None:
        self.events.append(event)


class Silence:
    """Silent connections, as the worker has them."""

    def __init__(self, warning_s: float = 10.0) -> None:
        self.clock = FakeClock()
        self.clock.now = 1000.25
        self.log = Log()
        self.tokens = SilentTokens(self.clock, TokenAudit(self.log), warning_s)
        self.there: list[FakeConnection] = []
        self.walks = 0

    def connect(self, ttl_s: float | None, *, age_s: float = 0.0) -> FakeConnection:
        now = self.clock.time()
        ends = None if ttl_s is None else now + ttl_s
        connection = FakeConnection()
        connection.state = Identity("alice", expires_at=ends, issued_at=now - age_s)
        self.tokens.add(connection.state)
        self.there.append(connection)
        return connection

    def forget(self, connection: FakeConnection) -> bool:
        self.there.remove(connection)
        return self.tokens.remove(connection.state, connection.id)

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.tokens.tick(self._connections)

    def _connections(self) -> list[FakeConnection]:
        self.walks += 1
        return self.there


@pytest.fixture
def silence() -> Silence:
    return Silence()


def test_it_is_warned_once_and_then_closed_within_a_second(silence: Silence):
    ws = silence.connect(60)
    silence.pass_time(49.5)
    assert ws.sent == []
    silence.pass_time(1.4)
    (warning,) = ws.messages()
    assert warning["type"] == "token_expiring"
    assert warning["content"]["expires_in_s"] == 9
    for _ in range(8):
        silence.pass_time(1)
    assert ws.messages() == []
    assert ws.open
    silence.pass_time(1)
    silence.pass_time(1)
    assert ws.closed == (4003, b'{"r":"token_expired"}')
    assert [each.action for each in silence.log.events] == [Action.CLOSE]


def test_a_short_lived_token_is_warned_of_in_the_middle_of_its_life(silence: Silence):
    ws = silence.connect(12)
    silence.pass_time(5)
    assert ws.sent == []
    silence.pass_time(2)
    assert ws.messages()[0]["content"]["expires_in_s"] == 5


def test_who_comes_when_the_warning_was_due_is_warned_too(silence: Silence):
    silence.pass_time(1)
    ws = silence.connect(5, age_s=600)
    silence.pass_time(1)
    assert [each["type"] for each in ws.messages()] == ["token_expiring"]


def test_whoever_speaks_is_the_sessions_to_warn_and_it_is_said_whether_it_knows(silence: Silence):
    told, untold = silence.connect(60), silence.connect(600)
    silence.pass_time(52)
    assert told.messages()
    assert silence.forget(told)
    assert not silence.forget(untold)
    assert silence.tokens._due == {}
    assert silence.tokens._told == set()


def test_nobody_is_looked_for_while_nothing_is_due(silence: Silence):
    silence.connect(None)
    silence.connect(1e6)
    for _ in range(100):
        silence.pass_time(1)
    assert silence.walks == 0


def test_without_warnings_none_is_sent():
    silence = Silence(warning_s=0)
    ws = silence.connect(5)
    silence.pass_time(4.9)
    assert ws.sent == []
    silence.pass_time(1.2)
    assert ws.closed


def test_a_walk_that_takes_long_is_followed_by_a_rest(silence: Silence):
    for ttl_s in range(12, 40):
        silence.connect(ttl_s)
    slow = silence._connections

    def walk() -> list[FakeConnection]:
        silence.clock.advance(0.05)
        return slow()

    for _ in range(60):
        silence.clock.advance(1)
        silence.tokens.tick(walk)
    assert silence.walks <= 60 / 5 + 1  # 50 ms each: a hundredth of the time is one in five seconds
    assert not any(each.open for each in silence.there)


@pytest.mark.parametrize("seed", range(10))
def test_nobody_is_forgotten_and_nothing_is_left_behind(seed: int):
    choose = random.Random(seed)
    silence = Silence()
    for _ in range(300):
        for _ in range(choose.randrange(3)):
            silence.connect(choose.uniform(1, 40), age_s=choose.choice([0, 0, 500]))
        if silence.there and choose.random() < 0.4:
            silence.forget(choose.choice(silence.there))
        silence.pass_time(choose.uniform(0.1, 2))
        now = silence.clock.time()
        for each in silence.there:
            assert each.open or each.state.expires_at <= now
            assert not each.open or each.state.expires_at > now - 2.1
        for each in [each for each in silence.there if not each.open]:
            silence.forget(each)
    silence.pass_time(100)
    for each in list(silence.there):
        assert not each.open
        silence.forget(each)
    assert silence.tokens._due == {}
    assert silence.tokens._told == set()

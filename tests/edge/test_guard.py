"""The guard without sockets: what counts against an address, what is told of it, and whom it spares."""

import pytest

from realtime.core.audit import Action, Event, Outcome
from realtime.edge.guard import BOXED, Guard
from realtime.edge.offences import ALL, BY_CODE, offence_of
from realtime.edge.penalties import Boxing
from realtime.errors import CloseCode, SettingsError
from realtime.native.address import pack
from realtime.settings import Settings
from tests.oracles.hub import FakeClock

MALLORY, ALICE = pack("192.0.2.1"), pack("192.0.2.2")
BROKEN = int(CloseCode.PROTOCOL_ERROR)


class Log:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def guard(log, clock):
    return Guard(Settings(connections_per_second_per_address=0), clock, log)


def offend(guard: Guard, address: bytes, times: int = 10) -> None:
    for _ in range(times):
        guard.offend(address, BROKEN, True)


def test_an_offender_does_not_arrive_and_all_others_do(guard):
    assert guard.arrive(MALLORY) is None
    offend(guard, MALLORY)
    assert guard.arrive(MALLORY) == BOXED
    assert guard.arrive(ALICE) is None
    assert guard.stats()["penalized_addresses"] == 1


def test_what_is_not_let_in_is_not_counted_as_connected(guard):
    offend(guard, MALLORY)
    assert [guard.arrive(MALLORY) for _ in range(5)] == [BOXED] * 5
    assert guard.stats()["connected_addresses"] == 0


def test_a_boxing_is_on_record_with_its_reason_and_without_a_secret(guard, log):
    offend(guard, MALLORY)
    (event,) = log.events
    assert (event.action, event.outcome, event.actor) == (Action.PENALTY, Outcome.DENIED, "server")
    assert (event.source, event.target) == ("192.0.2.1", "192.0.2.1")
    assert event.detail == {"offence": "bad_frame", "seconds": 10, "times": 1}


def test_a_pardon_is_on_record(guard, log):
    offend(guard, MALLORY)
    assert guard.free(MALLORY)
    assert not guard.free(ALICE)
    assert [(event.outcome, event.actor) for event in log.events] == [
        (Outcome.DENIED, "server"),
        (Outcome.ALLOWED, "operator"),
    ]
    assert guard.arrive(MALLORY) is None


def test_all_addresses_of_a_64_are_boxed_together_however_they_rotate(guard, log):
    for number in range(10):
        guard.offend(pack(f"2001:db8:1:2::{number:x}"), BROKEN, True)
    assert guard.arrive(pack("2001:db8:1:2:ffff::1")) == BOXED
    assert guard.arrive(pack("2001:db8:1:3::1")) is None
    assert log.events[0].target == "2001:db8:1:2::/64"


def test_trusted_proxies_and_the_exempt_are_never_boxed(guard):
    proxy = pack("10.0.0.1")
    guard.trust(lambda address: address == proxy)
    for address in (proxy, pack("127.0.0.1"), pack("::1")):
        offend(guard, address, 100)
        assert guard.arrive(address) is None
    assert guard.offences["bad_frame"] == 0


def test_a_peer_without_an_address_is_nobodys_offence(guard):
    offend(guard, b"", 100)
    assert len(guard.box) == 0


def test_who_follows_is_told_of_what_is_earned_here(guard):
    told: list[Boxing] = []
    guard.follow(told.append)
    offend(guard, MALLORY, 30)
    assert told == [Boxing(MALLORY, 10.0, 1)]


def test_connections_over_a_rate_are_offences_and_over_a_number_are_none(clock, log):
    settings = Settings(connections_per_second_per_address=1, max_connections_per_address=1, rate_burst_s=1)
    guard = Guard(settings, clock, log)
    assert guard.arrive(ALICE) is None
    assert guard.arrive(ALICE) == "max_connections_per_address"
    assert guard.offences["arrivals"] == 0
    assert guard.arrive(MALLORY) is None
    guard.depart(MALLORY)
    refusals = [guard.arrive(MALLORY) for _ in range(250)]
    assert refusals[0] == "connections_per_second_per_address"
    assert refusals[-1] == BOXED
    assert guard.offences["arrivals"] == 200


def test_the_guard_goes_on_where_the_penalties_are_off(clock, log):
    guard = Guard(Settings(penalty_threshold=0), clock, log)
    offend(guard, MALLORY, 100)
    assert guard.arrive(MALLORY) is None
    assert guard.offences["bad_frame"] == 100
    assert log.events == []


def test_settings_that_name_no_network_stop_the_start(clock):
    with pytest.raises(SettingsError, match="exempt_addresses: 'nobody'"):
        Guard(Settings(exempt_addresses=("nobody",)), clock)


@pytest.mark.parametrize(
    "code",
    [
        *(CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.ABNORMAL, CloseCode.SERVICE_RESTART),
        *(CloseCode.SLOW_CONSUMER, CloseCode.NO_HEARTBEAT, CloseCode.TOKEN_EXPIRED, CloseCode.STATE_LOST),
        *(CloseCode.REBALANCE, CloseCode.DISCONNECTED_BY_SERVER, CloseCode.CONNECTION_LIMIT),
        *(CloseCode.REPLACED, CloseCode.FORBIDDEN, CloseCode.INTERNAL, CloseCode.OVERLOADED),
        *(403, 404, 414, 426, 429, 431, 500, 503),
    ],
)
def test_what_bad_luck_a_stranger_or_the_server_itself_can_cause_is_no_offence(code: int):
    assert offence_of(int(code), False) is None
    assert offence_of(int(code), True) is None


def test_a_bad_token_is_an_offence_of_strangers_alone():
    assert offence_of(CloseCode.BAD_TOKEN, False) is not None
    assert offence_of(CloseCode.BAD_TOKEN, True) is None


def test_every_offence_has_a_code_and_takes_more_than_two_to_be_kept_out_for():
    named = {offence.name for offence in BY_CODE.values()} | {"arrivals"}
    assert named == {offence.name for offence in ALL}
    assert all(0 < offence.points <= Settings().penalty_threshold / 5 for offence in ALL)

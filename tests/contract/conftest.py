"""The brokers that the contract is held against. A new one is one more entry here."""

from collections.abc import Callable

import pytest

from realtime.backends.broker_memory import MemoryBroker
from realtime.core.contracts import Broker
from tests.oracles.hub import FakeClock, FakeHub


def memory(clock: FakeClock, **options) -> Broker:
    return MemoryBroker(clock, FakeHub(clock), **options)


BROKERS: dict[str, Callable[..., Broker]] = {"memory": memory}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=BROKERS)
def make_broker(request, clock) -> Callable[..., Broker]:
    """Make brokers of one kind, with options: history_messages, history_bytes, recovery_window_s …"""
    return lambda **options: BROKERS[request.param](clock, **options)


@pytest.fixture
def broker(make_broker) -> Broker:
    return make_broker()

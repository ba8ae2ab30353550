"""The brokers that the contract is held against. A new one is one more entry here."""

from collections.abc import Callable

import pytest

from realtime.backends.broker_durable import DurableBroker
from realtime.backends.broker_memory import MemoryBroker
from realtime.core.contracts import Broker
from tests.oracles.hub import FakeClock, FakeHub
from tests.oracles.store import FakeStore


def memory(clock: FakeClock, **options) -> Broker:
    return MemoryBroker(clock, FakeHub(clock), **options)


def durable(clock: FakeClock, **options) -> Broker:
    windows = {name: value for name, value in options.items() if name in ("recovery_window_s", "idle_rooms")}
    store = FakeStore(commits_itself=True)
    return DurableBroker(memory(clock, **options), store, clock, FakeHub(clock), **windows)


BROKERS: dict[str, Callable[..., Broker]] = {"memory": memory, "durable": durable}
# What these forget they find again in their store.
LASTING = {"durable"}


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


@pytest.fixture(params=BROKERS.keys() - LASTING)
def make_forgetful_broker(request, clock) -> Callable[..., Broker]:
    """Make brokers that have nothing but their memory."""
    return lambda **options: BROKERS[request.param](clock, **options)


@pytest.fixture(params=LASTING)
def make_lasting_broker(request, clock) -> Callable[..., Broker]:
    """Make brokers that forget nothing."""
    return lambda **options: BROKERS[request.param](clock, **options)

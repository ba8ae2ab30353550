"""The server under attack, and what has to hold behind every attack."""

from collections.abc import Iterator

import pytest

from tests.attacks.wire import Bystander, Peer
from tests.conftest import Server

MESSAGE_BYTES_MAX = 256 * 1024


@pytest.fixture(scope="session")
def fortress() -> Iterator[Server]:
    """One server for all attacks that need no settings of their own. No traceback may stand in its log."""
    running = Server(
        {
            "echo_path": "/echo",
            "compression": "true",
            "max_message_bytes": MESSAGE_BYTES_MAX,
            "room_lag_limit_bytes": 1024 * 1024,
            "close_timeout_s": 1,
        }
    )
    yield running
    running.finish()


@pytest.fixture
def target(fortress: Server) -> Iterator[Server]:
    """The server; behind the test it is alive, and serves who was there before and who comes now."""
    with Bystander(fortress) as before:
        yield fortress
        before.is_served()
        with Bystander(fortress) as after:
            after.is_served()
    assert fortress.process.poll() is None


@pytest.fixture
def peer(target: Server) -> Iterator[Peer]:
    """A connection that has said nothing yet."""
    with Peer(target) as connected:
        yield connected


@pytest.fixture
def bystander(target: Server) -> Iterator[Bystander]:
    """Another client, to be asked while an attack goes on."""
    with Bystander(target) as other:
        yield other

"""The server under attack, and what has to hold behind every attack."""

import ssl
from collections.abc import Iterator

import pytest

from tests.attacks.wire import Bystander, Peer
from tests.certificates import Authority
from tests.conftest import Server
from tests.ports import free_port

MESSAGE_BYTES_MAX = 256 * 1024


class OverTls:
    """A server by its TLS port, as the attacks see it."""

    def __init__(self, server: Server, tls: ssl.SSLContext) -> None:
        self.host, self.port, self.tls = server.host, int(server.settings["tls_port"]), tls
        self.pid, self.process = server.pid, server.process


@pytest.fixture(scope="session", params=["plain", "tls"])
def fortress(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server | OverTls]:
    """One server for all attacks that need no settings of their own. No traceback may stand in its log."""
    authority = Authority(tmp_path_factory.mktemp("tls"))
    running = Server(
        {
            "tls_port": free_port(),
            **authority.sign().settings(),
            "echo_path": "/echo",
            "compression": "true",
            "max_message_bytes": MESSAGE_BYTES_MAX,
            "room_lag_limit_bytes": 1024 * 1024,
            "close_timeout_s": 1,
            "heartbeat_interval_s": 600,  # who looks on answers no pings while an attack goes on
        }
    )
    yield running if request.param == "plain" else OverTls(running, authority.trusting())
    running.finish()


@pytest.fixture
def target(fortress: Server | OverTls) -> Iterator[Server | OverTls]:
    """The server; behind the test it is alive, and serves who was there before and who comes now."""
    with Bystander(fortress) as before:
        yield fortress
        before.is_served()
        with Bystander(fortress) as after:
            after.is_served()
    assert fortress.process.poll() is None


@pytest.fixture
def peer(target: Server | OverTls) -> Iterator[Peer]:
    """A connection that has said nothing yet."""
    with Peer(target) as connected:
        yield connected


@pytest.fixture
def bystander(target: Server | OverTls) -> Iterator[Bystander]:
    """Another client, to be asked while an attack goes on."""
    with Bystander(target) as other:
        yield other

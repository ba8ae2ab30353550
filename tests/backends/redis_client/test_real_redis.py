"""The client and a real Redis: credentials, certificates, and a cluster whose nodes die, freeze and move."""

import asyncio
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from realtime.backends.redis_client.contract import RedisError, slot_of
from realtime.backends.redis_nodes import RedisCluster, RedisNode, wait_for
from realtime.errors import StartupError, Unavailable
from tests.backends.redis_client.listener import Listener
from tests.ports import free_port

pytestmark = [pytest.mark.alone, pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy")]

ROOM = b"rt:{default/chat:lobby}"
SLOT = slot_of(ROOM)
FUNCTIONS = b"""#!lua name=client_test
redis.register_function('ct_next', function(keys) return redis.call('INCR', keys[1]) end)
"""


# ---------------------------------------------------------------- one node


async def test_one_redis_takes_commands_subscriptions_and_functions(clients, redis_node: RedisNode):
    client = clients(redis_node.url, name="tester", on_missing_function=lambda: FUNCTIONS)
    await client.start()
    redis_node.ask("FUNCTION", "FLUSH")
    key = "rt:{default/one}:n"
    asks = [client.ask(slot_of(key.encode()), "FCALL", "ct_next", 1, key) for _ in range(20)]
    assert sorted(await asyncio.gather(*asks)) == list(range(1, 21))
    assert client.stats()["redis_function_loads_total"] == 1
    listener = Listener()
    client.subscribe(ROOM, listener)
    await listener.until_said("up")
    await client.ask(SLOT, "SPUBLISH", ROOM, "hello")
    await listener.until_said("up", b"hello")
    assert await client.ask(SLOT, "CLIENT", "GETNAME") == b"tester"
    with pytest.raises(RedisError, match="WRONGTYPE"):
        await client.ask(0, "LPUSH", key, "x")
    redis_node.ask("DEL", key)


async def test_a_redis_that_restarts_is_found_again(clients, own_redis_node: RedisNode):
    client = clients(own_redis_node.url)
    await client.start()
    listener = Listener()
    client.subscribe(ROOM, listener)
    await listener.until_said("up")
    await asyncio.to_thread(own_redis_node.kill)
    await listener.until_said("up", "down")
    await asyncio.to_thread(own_redis_node.start)
    await listener.until_said("up", "down", "up")
    assert await client.ask(SLOT, "SET", ROOM, "1") == b"OK"
    assert client.ok


def blocked(node: RedisNode) -> bool:
    """Whether a client is in a command that waits."""
    return bool(node.ask("INFO", "clients")["blocked_clients"])


class Dawdler(Listener):
    """Lets what is awaited come, but holds up the event loop until it should have been there."""

    def __init__(self, node: RedisNode, key: str, hold_up_s: float) -> None:
        super().__init__()
        self._node, self._key, self._hold_up_s = node, key, hold_up_s

    def on_message(self, payload: bytes) -> None:
        until = time.monotonic() + self._hold_up_s
        self._node.ask("LPUSH", self._key, payload)
        while time.monotonic() < until:
            pass
        super().on_message(payload)


async def test_an_answer_that_came_while_the_loop_stood_still_is_in_time(clients, redis_node: RedisNode):
    client = clients(redis_node.url, timeout_s=1.0, ping_interval_s=0.4)
    await client.start()
    key = "{default/chat:lobby}:awaited"
    dawdler = Dawdler(redis_node, key, hold_up_s=1.1)
    client.subscribe(ROOM, dawdler)
    await dawdler.until_said("up")
    asked = asyncio.create_task(client.ask(SLOT, "BLPOP", key, 0))
    await asyncio.to_thread(wait_for, lambda: blocked(redis_node), "nobody waits at Redis")
    await asyncio.to_thread(redis_node.ask, "SPUBLISH", ROOM, "x")
    assert await asked == [key.encode(), b"x"]
    await dawdler.until_said("up", b"x")
    assert client.stats()["redis_connects_total"] == 2


async def test_a_user_of_the_acl_is_let_in_and_held_to_its_rights(
    clients, own_redis_node: RedisNode, caplog: pytest.LogCaptureFixture
):
    own_redis_node.ask("ACL", "SETUSER", "edge", "on", ">s3cret/@", "~rt:*", "&rt:*", "+@all", "-@dangerous")
    own_redis_node.ask("ACL", "SETUSER", "default", "resetpass", ">other")
    at = f"127.0.0.1:{own_redis_node.port}"
    client = clients(f"redis://edge:s3cret%2F%40@{at}")
    await client.start()
    assert await client.ask(SLOT, "SET", "rt:x", "1") == b"OK"
    with pytest.raises(RedisError, match="NOPERM"):
        await client.ask(SLOT, "SET", "other:x", "1")
    # A channel that is not allowed does not keep the others from theirs.
    listener, refused = Listener(), Listener()
    client.subscribe(b"other:{x}", refused)
    client.subscribe(ROOM, listener)
    await listener.until_said("up")
    for number in range(20):
        await client.ask(SLOT, "SPUBLISH", ROOM, number)
        await listener.until(lambda said, number=number: said[-1] == b"%d" % number)
        client.unsubscribe(b"other:{x}")
        client.subscribe(b"other:{x}", refused)
    assert refused.said == []
    assert caplog.text.count("NOPERM") == 1
    with pytest.raises(StartupError, match="WRONGPASS"):
        await clients(f"redis://edge:wrong@{at}").start()
    with pytest.raises(StartupError, match="NOAUTH"):
        await clients(f"redis://{at}").start()


# ---------------------------------------------------------------- TLS


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, and for server and client each NAME.pem and NAME.key signed by it; the server is 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    openssl(folder, "req", "-x509", *curve, "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem")
    for name, where in (("server", "IP:127.0.0.1"), ("client", "DNS:client")):
        files = ("-keyout", f"{name}.key", "-out", f"{name}.pem")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", f"subjectAltName={where}")
        # Without this a certificate of `req -x509` is an authority itself.
        leaf = ("-addext", "basicConstraints=critical,CA:FALSE")
        openssl(folder, "req", "-x509", *curve, "-subj", f"/CN={name}", *files, *signed, *leaf)
    return folder


@pytest.fixture
def tls_port(certificates: Path, own_redis_node: RedisNode) -> int:
    """The port of a node that wants certificates of its clients too."""
    for name, file in (("cert", "server.pem"), ("key", "server.key"), ("ca-cert", "ca.pem")):
        own_redis_node.ask("CONFIG", "SET", f"tls-{name}-file", str(certificates / file))
    port = free_port()
    own_redis_node.ask("CONFIG", "SET", "tls-port", port)
    return port


async def test_over_tls_with_a_certificate_of_ones_own(clients, certificates: Path, tls_port: int):
    query = "&".join(
        f"ssl_{name}={certificates / file}"
        for name, file in (("ca_certs", "ca.pem"), ("certfile", "client.pem"), ("keyfile", "client.key"))
    )
    client = clients(f"rediss://127.0.0.1:{tls_port}?{query}")
    await client.start()
    listener = Listener()
    client.subscribe(ROOM, listener)
    await listener.until_said("up")
    await client.ask(SLOT, "SPUBLISH", ROOM, b"x" * 100_000)
    await listener.until_said("up", b"x" * 100_000)


async def test_tls_that_does_not_hold_is_refused(clients, certificates: Path, tls_port: int):
    ca = f"ssl_ca_certs={certificates / 'ca.pem'}"
    ours = f"ssl_certfile={certificates / 'client.pem'}&ssl_keyfile={certificates / 'client.key'}"
    for url in (
        f"rediss://127.0.0.1:{tls_port}?{ours}",  # its authority is unknown
        f"rediss://localhost:{tls_port}?{ca}&{ours}",  # it is for 127.0.0.1
        f"rediss://127.0.0.1:{tls_port}?{ca}",  # it wants one of us
        f"redis://127.0.0.1:{tls_port}",  # it wants TLS
    ):
        with pytest.raises(StartupError):
            await clients(url, timeout_s=0.5).start()
    unchecked = clients(f"rediss://localhost:{tls_port}?{ca}&{ours}&ssl_check_hostname=false")
    await unchecked.start()


# ---------------------------------------------------------------- a cluster


class Traffic:
    """Counts a number of each of many rooms up, and publishes it; each number is published once."""

    def __init__(self, client, rooms: int) -> None:
        self.client = client
        self.channels = [b"rt:{default/r%d}" % number for number in range(rooms)]
        self.listeners = {channel: Listener() for channel in self.channels}
        self.acked: dict[bytes, list[int]] = {channel: [] for channel in self.channels}
        self.unknown = 0  # Unavailable: done or not
        self.errors: list[Exception] = []
        for channel, listener in self.listeners.items():
            client.subscribe(channel, listener)
        self._round = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def standing(self) -> None:
        for listener in self.listeners.values():
            await listener.until(lambda said: standing(said))

    async def served_again(self) -> None:
        """Wait until every room has been counted up from now on."""
        before = {channel: len(acked) for channel, acked in self.acked.items()}
        async with asyncio.timeout(60):
            while any(len(self.acked[channel]) <= count for channel, count in before.items()):
                self._round.clear()
                await self._round.wait()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        assert self.errors == []

    async def _run(self) -> None:
        while True:
            await asyncio.gather(*map(self._next, self.channels))
            self._round.set()

    async def _next(self, channel: bytes) -> None:
        slot = slot_of(channel)
        try:
            number = await self.client.ask(slot, "INCR", channel + b":n")
            self.acked[channel].append(number)
            await self.client.ask(slot, "SPUBLISH", channel, b"%d" % number)
        except Unavailable:
            self.unknown += 1
        except RedisError as error:
            self.errors.append(error)


def standing(said: list[str | bytes]) -> bool:
    return next((each for each in reversed(said) if isinstance(each, str)), "") == "up"


def assert_in_order(traffic: Traffic) -> None:
    """No room's numbers were given twice, and while a subscription stood none came out of order."""
    for channel, acked in traffic.acked.items():
        assert acked == sorted(set(acked))
        heard = [int(each) for each in traffic.listeners[channel].said if isinstance(each, bytes)]
        assert heard == sorted(set(heard))


async def test_a_cluster_is_kept_up_with(clients, own_redis_cluster: RedisCluster):
    """A planned failover, slots that move, a master that dies, and one that freezes and wakes."""
    cluster = own_redis_cluster
    client = clients(cluster.url, ping_interval_s=0.25)
    await client.start()
    traffic = Traffic(client, 60)
    await traffic.standing()

    async def during(name: str, do: Callable[[], object]) -> None:
        print(name)
        await asyncio.to_thread(do)
        await traffic.served_again()
        await traffic.standing()
        assert client.ok

    def migrate() -> None:
        for channel in traffic.channels[:10]:
            here = cluster.master_of(slot_of(channel))
            cluster.migrate_slot(slot_of(channel), next(m for m in cluster.masters() if m is not here))

    await during("failover", lambda: cluster.failover(slot_of(traffic.channels[20])))
    assert traffic.unknown == 0
    await during("migrate", migrate)
    assert traffic.unknown == 0
    assert_in_order(traffic)

    # What was not replicated may be lost from here on; that the broker sees by its nonce.
    victim = await asyncio.to_thread(cluster.master_of, slot_of(traffic.channels[20]))
    await during("kill", victim.kill)
    await asyncio.to_thread(victim.start)
    await asyncio.to_thread(cluster.wait_until_ok)
    sleeper = await asyncio.to_thread(cluster.master_of, slot_of(traffic.channels[30]))
    await during("freeze", sleeper.freeze)
    await during("thaw", sleeper.thaw)
    await asyncio.to_thread(cluster.wait_until_ok)
    await traffic.served_again()
    await traffic.standing()
    await traffic.stop()
    for channel, listener in traffic.listeners.items():
        await client.ask(slot_of(channel), "SPUBLISH", channel, b"the last")
        await listener.until(lambda said: said[-1] == b"the last")
    print(client.stats())

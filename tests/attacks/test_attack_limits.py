"""Attacks on what is shared: many connections of one user, or one tenant, and what others get beside them."""

import contextlib
import json
import select
import time
from collections import Counter
from collections.abc import Callable

import jwt
import pytest

from tests.attacks.wire import SERVED_S, Bystander, Peer, cpu_s, message, resident_mb

KEY = "0123456789abcdef0123456789abcdef"
CONNECTIONS = 5
PUBLICATION = '{"type":"publish","id":%d,"room":"events:%s","content":"x"}'
GROWTH_MB = 32.0


def bearer(user: str, tenant: str) -> str:
    claims = {"sub": user, "tenant": tenant, "exp": time.time() + 600}
    return f"Authorization: Bearer {jwt.encode(claims, KEY, algorithm='HS256')}"


def member(server, user: str, tenant: str, room: str) -> Peer:
    return Peer(server).upgrade("/ws", bearer(user, tenant)).join(f"events:{room}")


class Visitor(Bystander):
    """A bystander with a token of its own."""

    def upgrade(self, path: str | None = None, *headers: str) -> "Visitor":
        super().upgrade("/ws", bearer("visitor", "globex"))
        return self


def flood(peers: list[Peer], room: str, frames: int, beside: Callable[[], None]) -> tuple[int, int, float]:
    """Publish so often from each at once, `beside` in between; return (acks, refusals, seconds taken)."""
    began = time.monotonic()
    by_socket = {peer.socket: peer for peer in peers}
    unsent = dict.fromkeys(peers, frames)
    types: Counter[str] = Counter()
    while types.total() < frames * len(peers):
        for peer in peers:
            batch = min(100, unsent[peer])
            unsent[peer] -= batch
            peer.send(b"".join(message(PUBLICATION % (number, room)) for number in range(batch)))
        beside()
        readable = select.select(list(by_socket), [], [], 0.01)[0]
        for found in readable:
            contents = [
                json.loads(got.payload) for got in by_socket[found].read_frames_here() if got.opcode == 1
            ]
            types.update(content["type"] for content in contents if "id" in content)
            assert not by_socket[found].ended
    return types["ack"], types["error"], time.monotonic() - began


@pytest.mark.alone
def test_a_user_on_five_connections_gets_no_more_than_one_share(serve):
    rate, burst_s = 200, 1.0
    server = serve(
        jwt_secret=KEY, messages_per_second_per_user=rate, rate_burst_s=burst_s, errors_burst=1_000_000
    )
    with Visitor(server) as other:
        before = resident_mb(server.pid)
        peers = [member(server, "mallory", "acme", "flood") for _ in range(CONNECTIONS)]
        acks, refusals, took_s = flood(peers, "flood", 1000, other.is_served)
        assert acks + refusals == CONNECTIONS * 1000
        assert acks <= rate * (took_s + burst_s) + 1
        assert acks >= rate * burst_s - CONNECTIONS
        assert resident_mb(server.pid) < before + GROWTH_MB
        for peer in peers:
            peer.socket.close()


def push_on(peers: list[Peer], frame: bytes, seconds: float, beside: Callable[[], None]) -> Counter[str]:
    """Send as much as the sockets take for so long, `beside` in between; return the types of the answers."""
    until, types = time.monotonic() + seconds, Counter[str]()
    rest = dict.fromkeys(peers, b"")
    for peer in peers:
        peer.socket.setblocking(False)
    while time.monotonic() < until:
        for peer in peers:
            data = rest[peer] or frame * 100
            with contextlib.suppress(BlockingIOError):
                rest[peer] = data[peer.socket.send(data) :]
        beside()
        for found in select.select([peer.socket for peer in peers], [], [], 0.01)[0]:
            peer = next(each for each in peers if each.socket is found)
            got = [json.loads(each.payload) for each in peer.read_frames_here() if each.opcode == 1]
            types.update(each["type"] for each in got if "id" in each)
            assert not peer.ended
    return types


@pytest.mark.parametrize(
    ("limits", "rate"),
    [
        ({"messages_per_second_per_tenant": 200}, 200),
        ({"bytes_per_second_per_tenant": 20_000}, 20_000 / 60),
        ({"deliveries_per_second_per_tenant": 1000}, 1000 / CONNECTIONS),
    ],
    ids=["messages", "bytes", "deliveries"],
)
@pytest.mark.alone
def test_a_tenants_flood_is_slowed_down_and_another_tenant_is_neither_refused_nor_slower(serve, limits, rate):
    server = serve(jwt_secret=KEY, rate_burst_s=1.0, **limits)
    publisher = member(server, "bob", "globex", "flood")
    reader = member(server, "carol", "globex", "flood")
    numbers = iter(range(1_000_000))
    due = time.monotonic()

    def publish_and_read():
        """Twenty times a second: far below the rate, and within the time that any other client has."""
        nonlocal due
        if (began := time.monotonic()) < due:
            return
        due = began + 0.05
        number, before_s = next(numbers), cpu_s(server.pid)
        publisher.send(message(PUBLICATION % (number, "flood")))
        answer = json.loads(publisher.read_until(f'"id":{number},'))
        assert answer["type"] == "ack", answer
        reader.read_until(f'"offset":{answer["content"]["offset"]},')
        assert cpu_s(server.pid) - before_s < SERVED_S

    before = resident_mb(server.pid)
    peers = [member(server, f"mallory{n}", "acme", "flood") for n in range(CONNECTIONS)]
    seconds = 3.0
    types = push_on(peers, message(PUBLICATION % (7, "flood")), seconds, publish_and_read)
    # Told of it, and from then on read at the rate: not closed, not answered each time, not kept in memory.
    assert types["ack"] <= rate * (seconds + 1.0) * 1.1
    assert types["ack"] >= rate * seconds * 0.5
    assert 1 <= types["error"] <= types["ack"]
    assert resident_mb(server.pid) < before + GROWTH_MB
    for peer in [*peers, publisher, reader]:
        peer.socket.close()


def test_a_flood_beyond_its_rate_is_closed_to_come_back_later(serve):
    server = serve(jwt_secret=KEY, messages_per_second_per_user=10, rate_burst_s=1.0)
    peer = member(server, "mallory", "acme", "flood")
    peer.push(message(PUBLICATION % (1, "flood")) * 2000)
    assert peer.read_close() == 4005
    peer.socket.close()

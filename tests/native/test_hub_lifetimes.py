"""What outlives what in the hub: handles, logs, handshakes, descriptors, and connections on their way out."""

from __future__ import annotations

import gc
import os
import socket
import struct
import time

import pytest

from realtime.native.hub import Accept, Handshake
from tests.native.test_hub import UPGRADE, Client, Host

TOO_LARGE = bytes((1 << 30) + 1)  # pages of zeros that nobody touches


class Exit(BaseException):
    """What `except Exception` lets through."""


def test_a_handle_that_nobody_keeps_is_made_anew() -> None:
    host = Host()
    client = host.client(b"/m")
    for _ in range(3):
        (handle,) = host.hub.connections()
        assert (handle.id, handle.open, handle.state) == (1, True, "/m")
        del handle
        taken = [object() for _ in range(100)]  # what may stand in the freed memory
        assert taken
    assert not client.eof


def test_a_hub_is_collected_with_its_rooms_connections_and_handles() -> None:
    """In whatever order the collector takes them: the sockets close, and nothing is touched after its end."""
    host = Host()
    rooms = [host.hub.room() for _ in range(3)]
    clients = [host.member(f"m{i}", *rooms) for i in range(3)]
    for room in rooms:
        room.append(b"never flushed")
    host.cycle = [host, rooms]  # type: ignore[attr-defined]
    host.listener.close()
    sockets = [client.socket for client in clients]
    del host, rooms, room, clients
    gc.collect()
    for peer in sockets:
        peer.settimeout(60)
        assert peer.recv(100) == b""


def test_a_handshake_that_is_over_says_so() -> None:
    host = Host()
    kept: list[Handshake] = []

    def keep(shake: Handshake) -> Accept:
        kept.append(shake)
        return Accept(shake.path)

    host.answer = keep
    client = host.client(b"/m")
    for ask in (
        lambda: kept[0].path,
        lambda: kept[0].query,
        lambda: kept[0].remote,
        lambda: kept[0].connection_id,
        lambda: kept[0].header("host"),
    ):
        with pytest.raises(RuntimeError, match="over"):
            ask()
    assert not client.eof


def test_confirming_a_closing_connection_leaves_the_closing_deadline() -> None:
    host = Host(close_timeout_s=0.1, heartbeat_s=3600.0)
    host.answer = lambda shake: Accept(shake.path, pending=True)
    client = host.member("m")
    host.handles["/m"].close(4000)
    host.handles["/m"].confirm()
    host.until(lambda: host.closed == [("/m", 4000, b"", False)])
    assert not client.eof


@pytest.mark.parametrize("inside", [True, False])
def test_a_message_over_a_gibibyte_ends_its_connection_and_nothing_else(inside: bool) -> None:
    host = Host(unicast_limit_bytes=1 << 40)
    sent: list[bool] = []
    if inside:
        host.on_message = lambda state, payload: sent.append(host.handles[state].send(TOO_LARGE))
    client = host.member("m")
    if not inside:
        sent.append(host.handles["/m"].send(TOO_LARGE))
    host.until(lambda: host.closed == [("/m", 1006, b"", False)])
    assert sent == [False]
    assert client.texts == []
    host.on_message = lambda state, payload: None
    other = host.member("n")
    host.handles["/n"].send(b"still here")
    other.wait(lambda c: c.texts == [b"still here"])
    assert host.hub.stats()["queued_bytes"] == 0


def test_a_room_message_over_a_gibibyte_is_an_error() -> None:
    host = Host()
    log = host.hub.room()
    member = host.member("m", log)
    with pytest.raises(MemoryError):
        log.append(TOO_LARGE)
    log.append(b"small")
    member.wait(lambda c: c.texts == [b"small"])


def test_one_send_over_the_unicast_limit_asks_for_the_loop() -> None:
    host = Host(unicast_limit_bytes=1000)
    client = host.member("m")
    while host.hub.on_ready():
        pass
    host.wakes.clear()
    assert host.handles["/m"].send(b"." * 2000) is False
    assert host.wakes == [0.0]
    host.hub.on_ready()
    client.read()
    assert client.close_code == 4001


def full_host(**limits: float) -> Host:
    """A host whose sockets hold little, and that queues far more than its high water."""
    host = Host(unicast_limit_bytes=1 << 22, **limits)
    host.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    host.on_message = lambda state, payload: payload == b"big" and host.handles[state].send(b"." * (1 << 21))
    return host


def test_closing_a_paused_connection_reads_on() -> None:
    """Its peer has said everything already: no event will come for the Close frame in the socket."""
    host = full_host(close_timeout_s=3600.0)
    client = host.member("m", receive_buffer=4096)
    client.send(b"big")
    host.until(lambda: host.hub.stats()["pauses"] == 1)
    client.send(struct.pack(">H", 1000), first=0x88)
    host.turn(0.01)
    host.handles["/m"].close(4000)
    client.wait(lambda c: c.eof)
    assert (len(client.texts), client.close_code) == (1, 4000)
    assert host.closed == [("/m", 4000, b"", True)]


def test_a_failed_connection_with_much_to_say_is_read_to_its_end() -> None:
    """Or a peer that is not done sending is reset, and never reads why."""
    host = full_host(close_timeout_s=3600.0)
    client = host.member("m", receive_buffer=4096)
    host.handles["/m"].send(b"." * (1 << 21))
    host.turn()
    client.socket.sendall(b"\xff\xff")
    host.until(lambda: host.hub.stats()["protocol_errors"] == 1)
    client.wait(lambda c: c.close_code == 1002)
    received = host.hub.stats()["bytes_in"]
    client.send(b"more")
    host.until(lambda: host.hub.stats()["bytes_in"] > received)


@pytest.mark.alone
def test_a_paused_peer_that_takes_what_it_is_sent_is_alive() -> None:
    """Nobody reads its pongs meanwhile, so they cannot be what it is judged by."""
    host = full_host(heartbeat_s=0.2)
    client = host.member("m", receive_buffer=4096)
    client.send(b"big")
    host.until(lambda: host.hub.stats()["pauses"] == 1)
    for _ in range(10):  # turns of 0.1 s: more than twice as long as silence may last
        until = time.monotonic() + 0.1
        host.until(lambda until=until: time.monotonic() > until)
        client.read(50_000)
    client.wait(lambda c: len(c.texts) == 1)
    assert host.hub.stats()["heartbeat_timeouts"] == 0


@pytest.mark.parametrize("where", ["handshake", "message", "close", "http"])
def test_what_a_callback_raises_never_stops_the_hub(where: str) -> None:
    host = Host()
    raised: list[str] = []

    def fail(at: str) -> None:
        if at == where and not raised:
            raised.append(at)
            raise Exit

    host.answer = lambda shake: (fail("handshake"), Accept(shake.path))[1]
    host.on_message = lambda state, payload: fail("message")
    host.closed = Told(lambda: fail("close"))
    host.handed_over = Told(lambda: fail("http"))
    head = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" if where == "http" else b""
    first = Client(host, b"/a", head=head + UPGRADE % b"/a" if head else UPGRADE % b"/a")
    if where in ("message", "close"):
        host.until(first.read_head)
        first.send(b"hello")
        first.send(b"", first=0x88)
    host.until(lambda: raised == [where] and host.hub.stats()["connections"] <= 1)
    if where != "handshake":
        host.until(lambda: host.hub.stats()["connections"] == 0)
    with pytest.raises(RuntimeError, match="no connection's callback"):
        host.hub.current()
    second = host.member("b")
    assert second.eof is False


class Told(list):  # type: ignore[type-arg]
    """A record whose `append` may raise."""

    def __init__(self, before: object) -> None:
        super().__init__()
        self.before = before

    def append(self, item: object) -> None:
        self.before()  # type: ignore[operator]
        super().append(item)


def test_a_descriptor_handed_over_is_never_closed_by_the_hub() -> None:
    """Not even when `on_http` fails: it may have closed it, and the number may be another socket's by now."""
    host = Host()
    taken: list[int] = []

    class Failing(list):  # type: ignore[type-arg]
        def append(self, told: tuple[int, bytes, str]) -> None:
            os.close(told[0])
            taken.append(os.open("/dev/null", os.O_RDONLY))
            assert taken == [told[0]], "the kernel gives the lowest free number"
            raise ZeroDivisionError("planted")

    host.handed_over = Failing()
    client = Client(host, b"", head=b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    host.until(lambda: bool(taken))
    os.fstat(taken[0])
    os.close(taken[0])
    client.socket.close()


def test_a_state_whose_end_asks_for_its_connection_finds_it_gone() -> None:
    host = Host()
    seen: list[object] = []

    class State:
        def __del__(self) -> None:
            seen.append((self.handle.state, self.handle.open, self.handle.id))  # type: ignore[attr-defined]

    host.answer = lambda shake: Accept(State())
    client = host.client(b"/m")
    (handle,) = host.hub.connections()
    handle.state.handle = handle  # type: ignore[attr-defined]
    host.closed = Forgetful()
    del handle
    client.socket.close()
    host.until(lambda: bool(seen))
    assert seen == [(None, False, 0)]


class Forgetful(list):  # type: ignore[type-arg]
    """Keeps nothing."""

    def append(self, item: object) -> None:
        pass

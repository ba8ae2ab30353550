"""Attacks by mass: the server's memory stays bounded and everybody else is served on within a second."""

import json
import select
import socket
import struct
import time
from collections.abc import Callable

import pytest

from tests.attacks.wire import (
    CLOSE,
    CONTINUATION,
    ON_TCP,
    PING,
    TEXT,
    Bystander,
    Peer,
    frame,
    message,
    new_user,
    resident_mb,
    upgrade_request,
)

GROWTH_MB = 32.0  # what one attacker may cost, the kernel's buffers aside
FLOOD_BYTES = 32_000_000
VANISHING = 10_000
NO_HEARTBEAT = 4002


def repeated(part: bytes) -> bytes:
    return part * (FLOOD_BYTES // len(part))


UNREAD = {
    "pings": ("/echo", frame(PING, b"p" * 125)),
    "pings-of-the-protocol": (None, message('{"type":"ping","id":1}')),
    "echoes": ("/echo", message("e" * 4000)),
    "echoes-of-tiny-messages": ("/echo", message("e")),
    "errors": (None, message("x")),
    "presence-of-a-room": (None, message('{"type":"presence","id":1,"room":"events:flood"}')),
    "history-of-a-room": (
        None,
        message('{"type":"history","id":1,"room":"events:flood","content":{"limit":100}}'),
    ),
    "joins-and-leaves": (
        None,
        message(
            '{"type":"join","id":1,"room":"events:flood"}\n{"type":"leave","id":2,"room":"events:flood"}'
        ),
    ),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_answers_that_nobody_reads_do_not_pile_up(target, bystander: Bystander, kind: str):
    path, part = UNREAD[kind]
    before = resident_mb(target.pid)
    with Peer(target, receive_buffer_bytes=4096).upgrade(path) as peer:
        flood = repeated(part)
        sent = 0
        while sent < len(flood) and not peer.ended:
            step = peer.push(flood[sent : sent + 2_000_000], stalled_s=0.2)
            sent += step
            bystander.is_served()
            if not step:  # the server stopped reading: the attacker's own kernel holds the rest
                break
        assert resident_mb(target.pid) < before + GROWTH_MB


FLOODS = {
    "empty-messages": frame(TEXT, b""),
    "one-byte-messages": message("1"),
    "unknown-types": message('{"type":"nonsense"}'),
    "empty-pongs": frame(10, b""),
    "batches-of-rubbish": message("x\n" * 90),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_of_small_frames_starves_nobody(target, bystander: Bystander, kind: str):
    """The attacker reads what comes, so that nothing but work is in the way."""
    before = resident_mb(target.pid)
    with Peer(target).upgrade() as peer:
        flood = memoryview(FLOODS[kind] * 300_000)[:4_000_000]
        peer.socket.setblocking(False)
        while flood and not peer.ended:
            readable, writable, _ = select.select([peer.socket], [peer.socket], [], 1.0)
            try:
                if readable and not peer.socket.recv(1 << 20):
                    break
                if writable:
                    flood = flood[peer.socket.send(flood[:262_144]) :]
            except ConnectionError:
                break
            bystander.is_served()
        assert resident_mb(target.pid) < before + GROWTH_MB


def test_a_flood_of_tiny_fragments_starves_nobody(target, bystander: Bystander):
    with Peer(target).upgrade("/echo") as peer:
        peer.send(frame(TEXT, b"", fin=False))
        fragment = frame(CONTINUATION, b"a", fin=False) * 10_000
        for _ in range(20):
            if peer.ended or peer.push(fragment) < len(fragment):
                break
            bystander.is_served()


@pytest.mark.parametrize("shared", [True, False], ids=["one-room", "a-room-each"])
def test_readers_that_never_read_stop_costing_memory(serve: Callable[..., object], shared: bool):
    """They are cut or gapped; the reader beside them gets every message, in order."""
    count, rounds, per_round, size = 100, 8, 40, 16_000
    # One message of history a room: what grows here are the logs, which hold what the kernel does not take.
    server = serve(room_lag_limit_bytes=1_000_000, history_bytes=20_000, messages_per_second=1_000_000)
    rooms = ["events:busy"] if shared else [f"events:busy{i}" for i in range(count)]
    with Bystander(server) as other, Peer(server).upgrade() as publisher, Peer(server).upgrade() as reader:
        for room in rooms:
            publisher.join(room)
        reader.join(rooms[0])
        slow = [Peer(server, receive_buffer_bytes=4096).upgrade() for _ in range(count)]
        for i, peer in enumerate(slow):
            peer.join(rooms[i % len(rooms)])
        sizes, number = [], 0
        for _ in range(rounds):
            for _ in range(per_round):
                room = rooms[number % len(rooms)]
                content = json.dumps({"n": number, "pad": "x" * size})
                publisher.send(message(f'{{"type":"publish","room":"{room}","content":{content}}}'))
                publisher.read_until(f'"n": {number},')
                if room == rooms[0]:
                    reader.read_until(f'"n": {number},')
                number += 1
            other.is_served()
            sizes.append(resident_mb(server.pid))
        first, middle, last = sizes[0], sizes[len(sizes) // 2], sizes[-1]
        assert last < middle + 4, f"resident MB over the rounds: {sizes}"
        assert last < first + GROWTH_MB, f"resident MB over the rounds: {sizes}"
        for peer in slow:
            peer.socket.close()


def test_a_room_flooded_past_all_readers_bounds_its_log(serve: Callable[..., object]):
    """A publisher that never reads its own room either: nobody drains, and the log must not grow for ever."""
    server = serve(room_lag_limit_bytes=1_000_000, history_bytes=100_000, messages_per_second=1_000_000)
    with Bystander(server) as other:
        slow = [Peer(server, receive_buffer_bytes=4096).upgrade().join("events:dam") for _ in range(20)]
        content = json.dumps("x" * 8000)
        flood = message(f'{{"type":"publish","room":"events:dam","content":{content}}}') * 250
        before, sizes = resident_mb(server.pid), []
        for publisher in slow:
            publisher.push(flood)
            other.is_served()
            sizes.append(resident_mb(server.pid))
        assert sizes[-1] < before + GROWTH_MB, f"resident MB after each publisher: {sizes}"
        for peer in slow:
            peer.socket.close()


VANISH = {
    "at-once": b"",
    "within-the-request": upgrade_request("/echo")[:40],
    "right-behind-the-request": upgrade_request("/echo"),
    "within-a-frame": upgrade_request("/echo") + frame(TEXT, b"a" * 100)[:-50],
}


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("moment", VANISH)
def test_10000_connections_that_vanish_leave_nothing_behind(
    target, bystander: Bystander, moment: str, how: str
):
    before = resident_mb(target.pid)
    for number in range(VANISHING // (len(VANISH) * 2)):
        peer = Peer(target)
        peer.send(VANISH[moment])
        if how == "reset":
            peer.reset()
        else:
            peer.socket.close()
        if number % 100 == 0:
            bystander.is_served()
    bystander.is_served()
    assert resident_mb(target.pid) < before + GROWTH_MB / 2


@pytest.mark.parametrize("at", [1, 2, 5, 7, 60])
def test_a_reset_in_mid_frame_harms_nobody(target, bystander: Bystander, at: int):
    whole = message('{"type":"publish","room":"events:reset","content":"' + "x" * 200 + '"}')
    bystander.join("events:reset")
    for _ in range(50):
        Peer(target).upgrade().join("events:reset").send(whole[:at]).reset()
    bystander.is_served()
    # Nobody half-heard is in the room any more, and no half message was published.
    bystander.send(message('{"type":"presence","id":"who","room":"events:reset"}'))
    while True:
        text = bystander.read_message()
        assert "xxx" not in text
        if '"who"' in text:
            break


@pytest.mark.alone
def test_half_open_peers_are_cut_by_the_heartbeat(serve: Callable[..., object]):
    """Peers that never answer a ping, each gone silent at another point; the healthy one stays."""
    server = serve(heartbeat_interval_s=0.5, echo_path="/echo", close_timeout_s=0.5)
    deaf = Peer(server, receive_buffer_bytes=4096).upgrade("/echo")
    deaf.push(message("e" * 4000) * 2000)
    silent = [
        Peer(server).upgrade(),
        Peer(server).upgrade().join("events:silent"),
        Peer(server).upgrade("/echo"),
        Peer(server).upgrade().send(frame(TEXT, b"a" * 100)[:-1]),
        Peer(server).upgrade().send(frame(TEXT, b"a", fin=False)),
    ]
    with Bystander(server) as healthy:
        deadline = time.monotonic() + 4.0
        codes: list[int] = []
        waiting = {peer.socket: peer for peer in silent}
        while waiting:
            assert time.monotonic() < deadline, f"{len(waiting)} peers were left standing, {codes} cut"
            for ready in select.select([*waiting, healthy.socket], [], [], 1.0)[0]:
                if ready is healthy.socket:
                    healthy.read_frame()  # which answers pings
                    continue
                peer = waiting[ready]
                codes += [got.code for got in peer.read_frames_here() if got.opcode == CLOSE]
                if peer.ended:
                    waiting.pop(ready).socket.close()
        assert codes == [NO_HEARTBEAT] * len(silent)
        deaf.read_to_end()  # it has been cut as well: this fails where the stream stays open
        healthy.is_served()


@pytest.mark.alone
def test_a_peer_that_answers_pings_is_not_cut(serve: Callable[..., object]):
    server = serve(heartbeat_interval_s=0.2)
    with Peer(server).upgrade() as peer:
        pings = 0
        while pings < 8:  # four times as long as silence would have been allowed
            got = peer.read_frame()
            assert got is not None, "cut although it answered"
            assert got.opcode != CLOSE, got
            if got.opcode == PING:
                peer.send(frame(10, got.payload))
                pings += 1


def test_a_crowd_of_idle_connections_starves_nobody(target, bystander: Bystander):
    peers = [Peer(target).upgrade() for _ in range(300)]
    bystander.is_served()
    for peer in peers:
        peer.reset()
    bystander.is_served()


def test_one_user_holds_no_more_connections_than_allowed(serve: Callable[..., object]):
    server = serve()
    path = f"/ws/{new_user()}"
    peers = [Peer(server).upgrade(path) for _ in range(5)]
    for peer in peers:
        peer.read_until('"connected"')
    with Peer(server) as sixth:
        sixth.send(upgrade_request(path))
        response = sixth.read_response()
        assert response.status == 429 or sixth.read_close() == 4504, response
    for peer in peers:
        peer.send(message('{"type":"ping","id":1}')).read_until('"pong"')
        peer.socket.close()


def test_a_write_shutdown_ends_the_connection(target, bystander: Bystander):
    with Peer(target).upgrade() as peer:
        peer.socket.shutdown(socket.SHUT_WR)
        peer.read_to_end()


@ON_TCP
def test_urgent_data_is_no_second_channel(target, bystander: Bystander):
    with Peer(target).upgrade() as peer:
        peer.socket.send(b"!", socket.MSG_OOB)
        peer.send(message('{"type":"ping","id":5}'))
        while (got := peer.read_frame()) is not None and got.opcode != CLOSE:
            if b'"pong"' in got.payload:
                break
        bystander.is_served()


@ON_TCP
def test_a_tiny_segment_size_and_window_are_served(target, bystander: Bystander):
    with socket.socket() as small:
        small.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 88)
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, struct.calcsize("i") * 256)
        small.settimeout(60)
        small.connect((target.host, target.port))
        small.sendall(upgrade_request("/echo"))
        assert small.recv(12) == b"HTTP/1.1 101"
    bystander.is_served()

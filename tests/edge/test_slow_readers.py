"""A real server and clients that stop reading: bounded memory, others untouched, and every loss told."""

import resource
import selectors
import socket
import time

import msgspec
import pytest

from bench.peer import PATIENCE_S, Peer
from realtime.edge import listener
from realtime.settings import Settings

LIMIT = 128 * 1024
POLICIES = "bench.policies"


class Ledger:
    """What one client was told of a room: pushes and gaps, in order, without a hole."""

    def __init__(self, peer, room, **since):
        self.peer = peer
        joined = peer.ask("join", room=room, content={"since": since} if since else {})["content"]
        self.told, self.epoch = joined["offset"], joined["epoch"]
        self.gaps, self.pushes = [], []

    def read(self):
        for message in self.peer.read(1 << 20):
            self.take(message)

    def wait(self, offset):
        while self.told < offset and self.peer.close_code is None:
            for message in self.peer.wait():
                self.take(message)

    def take(self, message):
        if message["type"] == "gap":
            first, last = message["content"]["from"], message["content"]["to"]
            self.gaps.append((first, last))
        elif "offset" in message:
            first = last = message["offset"]
            self.pushes.append(message)
        else:
            return
        assert first == self.told + 1
        assert last >= first
        self.told = last


def publish(peer, room, count, *, type="say", size=4000):
    for number in range(count):
        answer = peer.ask(type, room=room, content={"n": number, "pad": "x" * size})
        assert answer["type"] == "ack", answer


def metric(server, name):
    """A figure of /metrics."""
    with socket.create_connection((server.host, server.port)) as http:
        http.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        page = b""
        while chunk := http.recv(65536):
            page += chunk
    lines = page.decode().splitlines()
    return next(int(float(line.split()[1])) for line in lines if line.startswith(f"{name} "))


def test_a_stopped_reader_of_a_room_that_drops_is_told_of_every_gap(serve):
    server = serve(POLICIES, room_lag_limit_bytes=LIMIT, send_buffer_bytes=8192)
    publisher, stopped = Peer(server.port, "p"), Peer(server.port, "s", receive_buffer_bytes=4096)
    ledger = Ledger(stopped, "lossy:a")
    Ledger(publisher, "lossy:a")
    publish(publisher, "lossy:a", 200)
    assert metric(server, "realtime_room_log_chunks") <= LIMIT // 65_536 + 2
    ledger.wait(200)
    assert ledger.told == 200
    assert ledger.gaps
    lost = sum(last - first + 1 for first, last in ledger.gaps)
    assert metric(server, "realtime_dropped_messages_total") == lost
    assert metric(server, "realtime_gaps_total") == len(ledger.gaps)
    publish(publisher, "lossy:a", 3)
    ledger.wait(203)
    assert [push["offset"] for push in ledger.pushes[-3:]] == [201, 202, 203]


def test_a_stopped_listener_gets_the_newest_of_each_type_of_its_session(serve):
    server = serve(room_lag_limit_bytes=LIMIT, send_buffer_bytes=8192)
    publisher, stopped = Peer(server.port, "p"), Peer(server.port, "s", receive_buffer_bytes=4096)
    ledger = Ledger(stopped, "session:friday")
    Ledger(publisher, "session:friday")
    publish(publisher, "session:friday", 1, type="music_pause")
    publish(publisher, "session:friday", 200, type="music_seek")
    publish(publisher, "session:friday", 1, type="music_volume_change")
    publish(publisher, "session:friday", 2, type="music_play")
    assert metric(server, "realtime_parked_total") >= 1
    ledger.wait(204)
    newest = {push["type"]: push["offset"] for push in ledger.pushes}
    assert newest == {"music_pause": 1, "music_seek": 201, "music_volume_change": 202, "music_play": 204}
    assert len(ledger.gaps) >= 1
    assert len(ledger.pushes) < 150


def test_a_stopped_reader_of_events_is_cut_with_4001_and_recovers_all(serve):
    server = serve(room_lag_limit_bytes=LIMIT, send_buffer_bytes=8192)
    publisher, stopped = Peer(server.port, "p"), Peer(server.port, "s", receive_buffer_bytes=4096)
    ledger = Ledger(stopped, "events:a")
    Ledger(publisher, "events:a")
    publish(publisher, "events:a", 100, type="publish")
    ledger.wait(100)
    assert stopped.close_code == 4001
    assert ledger.told < 100
    again = Peer(server.port, "s")
    since = {"offset": ledger.told, "epoch": ledger.epoch}
    joined = again.ask("join", room="events:a", content={"since": since})["content"]
    assert joined["recovered"] is True
    assert [push["offset"] for push in joined["messages"]] == list(range(ledger.told + 1, 101))


def test_urgent_messages_reach_a_client_that_is_far_behind_before_its_bulk(serve):
    server = serve(POLICIES, room_lag_limit_bytes=64 * 1024 * 1024, send_buffer_bytes=8192)
    publisher, stopped = Peer(server.port, "p"), Peer(server.port, "s", receive_buffer_bytes=4096)
    ledger = Ledger(stopped, "bulk:b")
    stopped.ask("join", room="urgent:u")
    stopped.ask("listen")
    Ledger(publisher, "bulk:b")
    publish(publisher, "bulk:b", 200)
    publisher.ask("say", room="urgent:u", content="to the room")
    publisher.send("alert", content={"user": "s", "text": "to you alone"})
    publish(publisher, "bulk:b", 1)
    came = []
    while len(came) < 203:
        came.extend(stopped.wait())
    urgent = [i for i, message in enumerate(came) if message["room"] != "bulk:b"]
    assert [came[i]["content"] for i in urgent] == ["to you alone", "to the room"]
    assert urgent[1] == urgent[0] + 1
    assert urgent[0] < 50, "what had left the server by then is all that was before it"
    for message in came:
        if message["room"] == "bulk:b":
            ledger.take(message)
    assert ledger.told == 201
    assert ledger.gaps == []


def test_an_accepted_socket_holds_back_no_more_unsent_bytes_than_set():
    for unsent_bytes in (0, 50_000):
        with listener.listen(Settings(port=0, unsent_bytes=unsent_bytes)) as listening:
            listening.setblocking(True)
            with socket.create_connection(listening.getsockname()) as peer:
                peer.sendall(b"x")  # accepting waits for a request
                accepted, _ = listening.accept()
                with accepted:
                    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == unsent_bytes


# -- a thousand members, and one that stops -----------------------------------------------------------------

MEMBERS = 1000
MESSAGES = 100
SIZE = 8000
GROWTH_MB = 24


def resident_mb(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(next(line.split()[1] for line in status if line.startswith("VmRSS:"))) / 1024


def read_all(members, message_bytes):
    """Read from each member, in whatever order it comes, what all the messages take."""
    left = {member.socket: message_bytes for member in members}
    with selectors.DefaultSelector() as ready:
        for each in left:
            ready.register(each, selectors.EVENT_READ)
        deadline = time.monotonic() + 6 * PATIENCE_S
        while left:
            assert time.monotonic() < deadline, f"{len(left)} members have not got everything"
            for key, _ in ready.select(1.0):
                got = len(key.fileobj.recv(1 << 18))
                assert got, "a member that reads was closed"
                left[key.fileobj] -= got
                if left[key.fileobj] <= 0:
                    assert left.pop(key.fileobj) == 0, "more than was published"
                    ready.unregister(key.fileobj)


@pytest.fixture
def many_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("kind", ["steady", "lossy", "state"])
def test_one_of_1000_members_stops_and_the_others_have_everything(serve, kind):
    server = serve(
        POLICIES,
        room_lag_limit_bytes=LIMIT,
        history_bytes=2_000_000,
        answer_bytes=1_000_000,
        unicast_limit_bytes=2_000_000,
    )
    room = f"{kind}:crowd"
    stopped = Peer(server.port, "stopped", receive_buffer_bytes=4096)
    ledger = Ledger(stopped, room)
    members = [Peer(server.port, f"m{i}") for i in range(MEMBERS)]
    for member in members:
        member.ask("join", room=room)
    before = resident_mb(server.pid)
    publisher = Peer(server.port, "publisher")
    Ledger(publisher, room)
    sizes = []
    for _ in range(MESSAGES // 20):
        size = 0
        for number in range(20):
            content = {"n": number + 10, "pad": "x" * SIZE}
            publisher.send("say", room=room, content=content)
            size += frame_bytes(own_copy(publisher))
        read_all(members, size)
        sizes.append(resident_mb(server.pid))
    assert max(sizes) < before + GROWTH_MB, f"resident MB: {before} before, {sizes} during"
    ledger.wait(MESSAGES)
    if kind == "steady":
        assert stopped.close_code == 4001
        since = {"offset": ledger.told, "epoch": ledger.epoch}
        again = Peer(server.port, "stopped").ask("join", room=room, content={"since": since})["content"]
        assert again["recovered"] is True
        assert [push["offset"] for push in again["messages"]] == list(range(ledger.told + 1, MESSAGES + 1))
    else:
        assert ledger.told == MESSAGES
        assert ledger.gaps


def own_copy(publisher):
    """The one push that a publisher gets of what it has just said."""
    while True:
        for message in publisher.wait():
            if "offset" in message:
                return message


def frame_bytes(push):
    """What a push of this test takes on the wire: its text and a head of four bytes."""
    return 4 + len(msgspec.json.encode(push))

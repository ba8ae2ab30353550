"""Random walks across hand-overs: each peer gets exactly what it would have got from one hub.

The twin is a plain ledger: what was said to whom, in which order. Peers write their frames in pieces, whole,
fragmented or compressed, and read or stop reading at random, so that sockets fill, frames are cut, cursors
lag and rooms drop; then everything goes to the next hub, in this process or in another.
"""

from __future__ import annotations

import random
import socket
import time
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.native.heir import DEFLATE, DEFLATE_BITS, ECHO, Here, There
from tests.native.test_hub import DEADLINE_S, UPGRADE, Client, frame

LIMIT = 1 << 15
ROOMS: dict[str, tuple[int, str, dict[str, int]]] = {
    "strict": (0, "disconnect", {"lag_limit_bytes": 1 << 30}),
    "urgent": (0, "disconnect", {"lag_limit_bytes": 1 << 30, "priority": 3}),
    "lossy": (0, "drop_oldest", {"lag_limit_bytes": LIMIT}),
    "few": (0, "drop_oldest", {"lag_limit_bytes": 1 << 30, "lag_limit_messages": 20}),
    "state": (0, "latest", {"lag_limit_bytes": LIMIT}),
    "packed": (DEFLATE_BITS << 1, "disconnect", {"lag_limit_bytes": 1 << 30}),
    "packed-lossy": (DEFLATE_BITS << 1, "drop_oldest", {"lag_limit_bytes": LIMIT}),
}
KINDS = ["/plain", "/plain", "/slow", "/slow", DEFLATE, DEFLATE, ECHO]
SIZES = [0, 10, 200, 200, 3000, 3000, 9000, 60_000]
ACTS = [
    *["publish"] * 6,
    *["say", "write", "read"] * 3,
    *["unicast", "urgent", "turn", "ping", "join", "knock"],
    "stumble",
    "hand_over",
    "close",
    "bye",
]


@dataclass
class Ledger:
    """What one peer is to get and to have said."""

    pushes: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))  # by room
    unicasts: list[bytes] = field(default_factory=list)
    urgent: list[bytes] = field(default_factory=list)
    said: list[bytes] = field(default_factory=list)
    pings: list[bytes] = field(default_factory=list)
    close_code: int = 0


class Peer(Client):
    """A client that writes what it has to say in pieces."""

    def __init__(self, listener: socket.socket, number: int, path: str, deflate: bool) -> None:
        self.state = f"{path}-{number}"
        self.slow = path == "/slow"
        super().__init__(
            SimpleNamespace(listener=listener),  # type: ignore[arg-type]
            self.state.encode(),
            receive_buffer=4096 if self.slow else 0,
            head=b"",
        )
        self.unwritten = UPGRADE % self.state.encode()
        self.deflate = deflate
        self.ledger = Ledger()
        self.has_said_bye = False

    def write(self, n: int) -> None:
        try:
            sent = self.socket.send(self.unwritten[:n])
        except BlockingIOError:
            return
        self.unwritten = self.unwritten[sent:]

    def take_in(self, limit: int) -> None:
        if b"\r\n\r\n" not in self.head:
            self.read_head()
        else:
            self.read(limit)

    def say(self, payload: bytes, pieces: int) -> None:
        """Whole or in fragments; compressed where that was agreed upon, and with pings in between."""
        self.ledger.said.append(payload)
        bits = 0x01
        if self.deflate and pieces != 2:
            packer = zlib.compressobj(6, zlib.DEFLATED, -15)
            payload = (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]
            bits |= 0x40
        cuts = sorted(len(payload) * i // pieces for i in range(1, pieces))
        for start, end in zip([0, *cuts], [*cuts, len(payload)], strict=True):
            last = 0x80 if end == len(payload) and start == ([0, *cuts])[-1] else 0
            self.unwritten += frame(payload[start:end], bits | last)
            bits = 0
            if not last:
                self.ping(b"between")

    def ping(self, payload: bytes) -> None:
        self.ledger.pings.append(payload)
        self.unwritten += frame(payload, 0x89)

    def messages(self) -> list[bytes]:
        whole = []
        for first, payload in self.frames:
            if first & 0x40:
                payload = zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")
            if first & 0x0F == 1:
                whole.append(payload)
        return whole


class Walk:
    """The peers, the ledger and the hub that has them now."""

    def __init__(self, chain: str) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.door = self.listener.dup()
        self.chain = chain
        self.moves = 0
        self.site: Here | There = Here(self.listener)
        for name, (variant, slow_reader, limits) in ROOMS.items():
            self.site.room(name, variant, slow_reader, **limits)
        self.peers: list[Peer] = []
        self.offsets = dict.fromkeys(ROOMS, 0)
        self.received: dict[object, list[bytes]] = defaultdict(list)
        self.ended: dict[object, tuple[int, bytes, bool]] = {}
        for i, kind in enumerate(KINDS):
            self.enter(i, kind)

    # ------------------------------------------------------------------ turning

    def collect(self) -> None:
        messages, ends = self.site.records()
        for state, payload in messages:
            self.received[state].append(payload)
        for state, *end in ends:
            assert state not in self.ended, "an end is told once"
            self.ended[state] = tuple(end)

    def until(self, done, what: str) -> None:  # type: ignore[no-untyped-def]
        deadline = time.monotonic() + DEADLINE_S
        while not done():
            assert time.monotonic() < deadline, f"did not come: {what}"
            self.site.turn()
            self.collect()

    def enter(self, number: int, kind: str) -> Peer:
        peer = Peer(self.door, number, kind, kind == DEFLATE)
        self.peers.append(peer)
        self.until(lambda: self.has_come_in(peer), f"{peer.state} in")
        for room, (variant, *_) in ROOMS.items():
            if (
                variant == (DEFLATE_BITS << 1 if peer.deflate else 0)
                and kind != ECHO
                and (number + len(room)) % 3
            ):
                self.join(peer, room)
        return peer

    def has_come_in(self, peer: Peer) -> bool:
        if peer.unwritten:
            peer.write(1 << 20)
        if b"\r\n\r\n" not in peer.head:
            peer.read_head()
        return b"\r\n\r\n" in peer.head and self.site.there(peer.state)

    def join(self, peer: Peer, room: str) -> None:
        if room not in peer.ledger.pushes:
            peer.ledger.pushes[room] = []
            self.site.join(peer.state, room)

    def at_ease(self, number: int) -> Peer | None:
        """One of those that are in and do not close, nor echo; None where there is none."""
        some = [
            peer
            for peer in self.peers
            if b"\r\n\r\n" in peer.head and not peer.ledger.close_code and not peer.state.startswith(ECHO)
        ]
        return some[number % len(some)] if some else None

    # ------------------------------------------------------------------ acts

    def publish(self, number: int, size: int) -> None:
        room = [*ROOMS][number % len(ROOMS)]
        for _ in range(1 + number % 5):
            self.offsets[room] += 1
            offset = self.offsets[room]
            pad = random.Random(offset).randbytes(size // 2).hex().encode()
            self.site.append(room, b"push %b %d %b" % (room.encode(), offset, pad), offset)
            for peer in self.peers:
                if room in peer.ledger.pushes and peer.ledger.close_code < 4000:
                    peer.ledger.pushes[room].append(offset)

    def say(self, number: int, size: int) -> None:
        peer = self.peers[number % len(self.peers)]
        if not peer.has_said_bye:
            # Characters of two bytes, so that fragments cut some of them.
            peer.say(b"said %d %b" % (len(peer.ledger.said), "ä".encode() * (size // 2)), 1 + number % 4)

    def ping(self, number: int, size: int) -> None:
        peer = self.peers[number % len(self.peers)]
        if not peer.has_said_bye:
            peer.ping(b"%d" % len(peer.ledger.pings))

    def write(self, number: int, size: int) -> None:
        self.peers[number % len(self.peers)].write(1 + size)

    def read(self, number: int, size: int) -> None:
        self.peers[number % len(self.peers)].take_in(1 + size)

    def unicast(self, number: int, size: int) -> None:
        if peer := self.at_ease(number):
            payload = b"uni %d %b" % (len(peer.ledger.unicasts), b"u" * size)
            peer.ledger.unicasts.append(payload)
            self.site.send(peer.state, payload, False)

    def urgent(self, number: int, size: int) -> None:
        if peer := self.at_ease(number):
            payload = b"urg %d %b" % (len(peer.ledger.urgent), b"u" * size)
            peer.ledger.urgent.append(payload)
            self.site.send(peer.state, payload, True)

    def turn(self, number: int, size: int) -> None:
        self.site.turn()
        self.collect()

    def knock(self, number: int, size: int) -> None:
        """Somebody new begins to shake hands, and has said a part of the request when the hub goes."""
        if len(self.peers) < 12:
            peer = Peer(self.door, len(self.peers), "/plain", False)
            self.peers.append(peer)
            peer.write(1 + number % len(peer.unwritten))
            self.site.turn()

    def join_one(self, number: int, size: int) -> None:
        if (peer := self.at_ease(number)) and not peer.deflate:
            self.join(peer, ["strict", "urgent", "lossy", "few", "state"][number % 5])

    def close(self, number: int, size: int) -> None:
        peer = self.at_ease(number)
        if peer and not peer.has_said_bye and number % 3 == 0:
            peer.ledger.close_code = 4000 + number % 100
            self.site.close(peer.state, peer.ledger.close_code)

    def bye(self, number: int, size: int) -> None:
        peer = self.at_ease(number)
        if peer and not peer.has_said_bye and number % 3 == 0:
            peer.has_said_bye = True
            peer.ledger.close_code = 1000
            peer.unwritten += frame(b"\x03\xe8", 0x88)

    def stumble(self, number: int, size: int) -> None:
        self.site.stumble()

    def hand_over(self, number: int, size: int) -> None:
        self.moves += 1
        following = Here() if self.chain[self.moves % len(self.chain)] == "h" else There()
        self.site.give(following)
        self.collect()
        self.site.end()
        self.site = following

    # ------------------------------------------------------------------ the end

    def finish(self) -> None:
        """Everybody says and reads the rest; then the ledger is right."""
        for peer in self.peers:
            self.until(lambda peer=peer: self.has_all(peer), f"all of {peer.state}")
            self.judge(peer)
        self.site.end()
        self.door.close()

    def has_all(self, peer: Peer) -> bool:
        ledger = peer.ledger
        if peer.unwritten:
            peer.write(1 << 20)
        peer.take_in(1 << 20)
        if ledger.close_code:
            self.answer_close(peer)
            return peer.eof and peer.state in self.ended
        told = peer.messages()
        echoed = len(told) if peer.state.startswith(ECHO) else len(self.received[peer.state])
        return (
            not peer.unwritten
            and echoed >= len(ledger.said)
            and sum(text.startswith(b"uni") for text in told) >= len(ledger.unicasts)
            and sum(text.startswith(b"urg") for text in told) >= len(ledger.urgent)
            and sum(first == 0x8A for first, _ in peer.frames) >= len(ledger.pings)
            and all(self.told_of(told, room)[-1:] == sent[-1:] for room, sent in ledger.pushes.items())
        )

    @staticmethod
    def answer_close(peer: Peer) -> None:
        if peer.close_code is not None and not peer.has_said_bye:
            peer.has_said_bye = True
            peer.unwritten += frame(peer.close_code.to_bytes(2, "big"), 0x88)

    @staticmethod
    def told_of(told: list[bytes], room: str) -> list[int]:
        offsets: list[int] = []
        for text in told:
            words = text.split(b" ", 4)
            if words[0] == b"push" and words[1] == room.encode():
                offsets.append(int(words[2]))
            elif words[0] == b"gap" and words[1] == room.encode():
                offsets.extend(range(int(words[2]) + 1, int(words[3]) + 1))
        return offsets

    def judge(self, peer: Peer) -> None:
        told = peer.messages()
        ledger = peer.ledger
        if peer.state.startswith(ECHO):
            assert told == ledger.said
            return
        for room, sent in ledger.pushes.items():
            covered = self.told_of(told, room)
            if not ledger.close_code:
                assert covered == sent, room
            else:  # it left its rooms when it closed
                assert covered == sent[: len(covered)], room
        heard = self.received[peer.state]
        unicasts = [text for text in told if text.startswith(b"uni")]
        urgent = [text for text in told if text.startswith(b"urg")]
        if ledger.close_code:
            assert heard == ledger.said[: len(heard)]
            if peer.close_code != ledger.close_code:
                assert (peer.close_code, ledger.close_code) == (None, 1000), "it had not been read to its end"
        else:
            assert heard == ledger.said
            assert peer.close_code is None
            assert peer.state not in self.ended
        if not ledger.close_code or ledger.close_code >= 4000:
            assert unicasts == ledger.unicasts
            assert urgent == ledger.urgent
        pongs = [payload for first, payload in peer.frames if first == 0x8A]
        assert pongs == ledger.pings[: len(pongs)]
        for text in told:
            words = text.split(b" ", 3)
            if words[0] == b"push":
                offset = int(words[2])
                assert text == b"push %b %d %b" % (words[1], offset, words[3]), text
                assert random.Random(offset).randbytes(len(words[3]) // 2).hex().encode() == words[3]


steps = st.lists(
    st.tuples(st.sampled_from(ACTS), st.integers(0, 1 << 16), st.sampled_from(SIZES)),
    min_size=20,
    max_size=150,
)


def walk(chain: str, acts: list[tuple[str, int, int]]) -> Walk:
    walk = Walk(chain)
    for act, number, size in acts:
        (walk.join_one if act == "join" else getattr(walk, act))(number, size)
    walk.hand_over(0, 0)  # at least once, at whatever moment this is
    walk.finish()
    return walk


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(acts=steps)
def test_any_walk_within_a_process_loses_nothing(acts: list[tuple[str, int, int]]) -> None:
    walk("h", acts)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(acts=steps)
def test_any_walk_across_processes_loses_nothing(acts: list[tuple[str, int, int]]) -> None:
    walk("hp", acts)


@pytest.mark.parametrize("seed", range(3))
def test_a_chain_of_hand_overs_under_load_loses_nothing(seed: int) -> None:
    chance = random.Random(seed)
    acts: list[tuple[str, int, int]] = []
    for _ in range(4):
        acts += [
            (chance.choice(ACTS[:-4]), chance.randrange(1 << 16), chance.choice(SIZES)) for _ in range(200)
        ]
        acts.append(("hand_over", 0, 0))
    done = walk("hpp", acts)
    assert done.moves == 5

"""Parcels that were cut, garbled, or written by somebody else: refused, or harmless, and never a crash."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from realtime.native.parcels import FORMAT_VERSION
from tests.native.heir import Here
from tests.native.test_hub import UPGRADE, frame

HEAD, TAIL = 5, 4  # of a parcel: magic, version and kind; the checksum
VALUES = [0, 1, 2, 3, 7, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 31, 1 << 61, (1 << 64) - 1]


def sealed(parcel: bytes) -> bytes:
    """The same with the checksum that it should have."""
    return parcel[:-TAIL] + struct.pack("=I", zlib.crc32(parcel[:-TAIL]))


@dataclass(repr=False)
class Sample:
    """A hub with all kinds of halves in it, frozen, and its parcels."""

    site: Here
    peers: list[socket.socket]
    connections: list[tuple[object, bytes]]
    rooms: list[bytes]


def half(listener: socket.socket, path: bytes, *data: bytes) -> socket.socket:
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.connect(listener.getsockname())
    peer.sendall(UPGRADE % path)
    for part in data:
        peer.sendall(part)
    return peer


@pytest.fixture(scope="module")
def sample() -> Iterator[Sample]:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    site = Here(listener, close_timeout_s=60.0)
    for name, slow_reader in (("strict", "disconnect"), ("lossy", "drop_oldest"), ("state", "latest")):
        site.room(name, 0, slow_reader, lag_limit_bytes=1 << 14)
    site.room("wide", 0, "disconnect", lag_limit_bytes=1 << 30)
    peers = [
        half(listener, b"/quiet"),
        half(listener, b"/cut", frame(b"x" * 500, 0x01), frame(b"y" * 900, 0x80)[:300]),
        half(listener, b"/deflate", frame(b"z" * 200, 0x41), frame(b"q" * 20, 0x00)[:9]),
        half(listener, b"/full"),
        half(listener, b"/closing"),
        half(listener, b"/echo", frame(b"e" * 10)),
        half(listener, b"/wrong", b"\xff\xff\xff"),
    ]
    begun = socket.create_connection(listener.getsockname())
    begun.sendall(b"GET /begun HTT")
    peers.append(begun)
    paths = ("/quiet", "/cut", "/deflate", "/full", "/closing", "/echo")
    while not all(site.there(path) for path in paths) or site.hub.stats()["frames_in"] < 3:
        site.turn()
    for room in ("lossy", "state", "wide"):
        site.join("/full", room)
        site.join("/quiet", room)
    site.join("/cut", "strict")
    for offset in range(1, 60):
        for room in site.rooms:
            site.append(room, b"%d " % offset * 150, offset)
        site.turn()
    site.send("/full", b"u" * 50, False)
    site.send("/full", b"v" * 5000, True)
    site.close("/closing", 4321)
    load, fds = site.pack()
    os.close(fds.pop())
    assert site.hub.stats()["parked"]
    assert site.hub.stats()["skipped"]
    yield Sample(site, peers, load.connections, [*load.rooms.values()])
    site.end()
    for peer in peers:
        peer.close()


def attempt(sample: Sample, connections: list[tuple[object, bytes]], rooms: list[bytes]) -> int:
    """Adopt into a new hub what can be adopted, and let it run; how many parcels it took.

    The sockets are new ones, so that the sample's stay as they are.
    """
    heir = Here()
    heir.hub.freeze()
    ends: list[socket.socket] = []
    taken = 0
    for state, parcel in connections:
        ours, theirs = socket.socketpair()
        ends.append(ours)
        try:
            heir.hub.adopt(theirs.fileno(), parcel, state)
        except ValueError:
            theirs.close()
        else:
            theirs.detach()
            taken += 1
    for number, parcel in enumerate(rooms):
        try:
            heir.rooms[str(number)] = heir.hub.adopt_room(parcel, lambda state, after, last: 0)
        except ValueError:
            continue
        taken += 1
    heir.hub.export_all()
    for room in heir.rooms.values():
        room.export()
    heir.go()
    run(heir, ends)
    return taken


def run(heir: Here, ends: list[socket.socket]) -> None:
    for step in range(4):
        heir.turn()
        for end in ends:
            end.setblocking(False)
            try:
                end.send(frame(b"more")[: 3 + step])
                end.recv(1 << 20)
            except OSError:
                continue
        for room in heir.rooms.values():
            room.append(b"and on" * 1000, 1000 + step)
        for each in heir.hub.connections():
            each.send(b"to you", step % 2 == 0)
    for end in ends:
        end.close()
    heir.turn()


def parcels(sample: Sample) -> list[bytes]:
    return [*(parcel for _, parcel in sample.connections), *sample.rooms]


def is_refused(parcel: bytes, state: object) -> bool:
    heir = Here()
    heir.hub.freeze()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for adopt in (
            lambda: heir.hub.adopt(theirs.fileno(), parcel, state),
            lambda: heir.hub.adopt_room(parcel, lambda *told: 0),
        ):
            with pytest.raises(ValueError, match=r"."):
                adopt()
        return heir.hub.stats()["connections"] == 0


def test_the_sample_itself_is_taken(sample: Sample) -> None:
    assert len(sample.connections) == 8
    assert attempt(sample, sample.connections, sample.rooms) == 12


def test_a_parcel_that_is_cut_anywhere_is_refused(sample: Sample) -> None:
    for parcel in parcels(sample):
        step = max(1, len(parcel) // 300)
        for n in [*range(min(200, len(parcel))), *range(0, len(parcel), step)]:
            assert is_refused(parcel[:n], None)
        assert is_refused(parcel + b"\0", None)


def test_a_cut_parcel_with_the_right_checksum_is_refused(sample: Sample) -> None:
    for parcel in parcels(sample):
        step = max(1, len(parcel) // 300)
        for n in [*range(HEAD + TAIL, min(250, len(parcel))), *range(HEAD + TAIL, len(parcel), step)]:
            assert is_refused(sealed(parcel[: n - TAIL] + bytes(TAIL)), None)


def test_every_flipped_bit_of_a_small_parcel_is_noticed(sample: Sample) -> None:
    small = min(parcels(sample), key=len)
    for bit in range(len(small) * 8):
        garbled = bytearray(small)
        garbled[bit // 8] ^= 1 << bit % 8
        assert is_refused(bytes(garbled), None)


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, 255])
def test_another_version_is_refused_by_its_number(sample: Sample, version: int) -> None:
    heir = Here()
    heir.hub.freeze()
    for parcel in parcels(sample):
        other = sealed(parcel[:3] + bytes([version]) + parcel[4:])
        with pytest.raises(ValueError, match=f"format {version}, this is {FORMAT_VERSION}"):
            heir.hub.adopt(0, other, None)
        with pytest.raises(ValueError, match=f"format {version}, this is {FORMAT_VERSION}"):
            heir.hub.adopt_room(other)


def test_a_room_is_no_connection_nor_the_other_way_round(sample: Sample) -> None:
    heir = Here()
    heir.hub.freeze()
    with pytest.raises(ValueError, match="kind 'R', not 'C'"):
        heir.hub.adopt(0, sample.rooms[0], None)
    with pytest.raises(ValueError, match="kind 'C', not 'R'"):
        heir.hub.adopt_room(sample.connections[0][1])


damage = st.lists(
    st.tuples(
        st.integers(0, 60),  # which parcel
        st.one_of(st.integers(0, 160), st.integers(0, 1 << 20)),  # where; heads are small
        st.sampled_from([1, 2, 4, 8]),
        st.one_of(st.sampled_from(VALUES), st.integers(0, (1 << 64) - 1)),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(damage=damage)
def test_whoever_seals_nonsense_gets_an_error_or_what_he_asked_for(
    sample: Sample, damage: list[tuple[int, int, int, int]]
) -> None:
    connections = [list(each) for each in sample.connections]
    rooms = list(sample.rooms)
    for which, where, width, value in damage:
        which %= len(connections) + len(rooms)
        room = which - len(connections)
        parcel = bytearray(rooms[room] if room >= 0 else connections[which][1])
        at = HEAD + where % (len(parcel) - HEAD - TAIL)
        data = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        parcel[at : min(at + width, len(parcel) - TAIL)] = data[: len(parcel) - TAIL - at]
        if room >= 0:
            rooms[room] = sealed(bytes(parcel))
        else:
            connections[which][1] = sealed(bytes(parcel))
    attempt(sample, [(state, parcel) for state, parcel in connections], rooms)

"""Message bombs against a real server: as large as it takes, and as dear as one can make them.

`tests/native/test_envelope_cost.py` has the families, and proves that none costs more than its size.
"""

import json

import pytest

from tests.attacks.conftest import MESSAGE_BYTES_MAX
from tests.attacks.wire import BINARY, CLOSE, TEXT, Bystander, Peer, cpu_s, frame, message, resident_mb
from tests.native.test_envelope_cost import JSON_FAMILIES, MSGPACK_FAMILIES, packed_text

GROWTH_MB = 32.0
SIZE = MESSAGE_BYTES_MAX - 4096
BOMBS = 20
ROOM = b"events:x"
TOO_MANY_ERRORS = 4509


@pytest.mark.parametrize("family", JSON_FAMILIES)
def test_bombs_of_json_cost_their_sender_alone(target, peer: Peer, bystander: Bystander, family: str):
    peer.upgrade().join(ROOM.decode())
    behind = message('{"type":"ping","id":"behind"}')
    assert_bearable(target, peer, bystander, frame(TEXT, JSON_FAMILIES[family](SIZE)) + behind)


@pytest.mark.parametrize("family", MSGPACK_FAMILIES)
def test_bombs_of_msgpack_cost_their_sender_alone(target, peer: Peer, bystander: Bystander, family: str):
    packed(peer)
    behind = frame(BINARY, b"\x82\xa4type\xa4ping\xa2id\xa6behind")
    assert_bearable(target, peer, bystander, frame(BINARY, MSGPACK_FAMILIES[family](SIZE)) + behind)


def test_what_grows_by_conversion_is_refused_by_its_size_as_others_would_get_it(
    target, peer: Peer, bystander: Bystander
):
    """60,000 bytes are six times as many in JSON: readers of that are not sent what no writer may send."""
    bystander.join(ROOM.decode())
    packed(peer)
    peer.send(frame(BINARY, packed_text(b"\x01", 60_000)))
    assert b"too_large" in read_packed_until(peer, b"error")
    peer.send(frame(BINARY, packed_text(b"\x01", 40_000)))
    read_packed_until(peer, b"ack")
    push = json.loads(bystander.read_until('"publish"'))
    assert push["content"] == "\x01" * 40_000


def packed(peer: Peer) -> None:
    """Shake hands for MessagePack, and join."""
    peer.upgrade(None, "Sec-WebSocket-Protocol: realtime.v1.msgpack")
    peer.send(frame(BINARY, b"\x83\xa4type\xa4join\xa4room\xa8" + ROOM + b"\xa2id\x01"))
    read_packed_until(peer, b"joined")


def read_packed_until(peer: Peer, part: bytes) -> bytes:
    """Return the next binary message with `part` in it; the connection has to live on."""
    while (got := peer.read_frame()) is not None:
        assert got.opcode != CLOSE, got
        if got.opcode == BINARY and part in got.payload:
            return got.payload
    raise AssertionError(f"the connection ended before {part!r}")


def assert_bearable(target, peer: Peer, bystander: Bystander, bomb: bytes) -> None:
    """Each is answered, whoever else there is is served meanwhile, and memory is bounded.

    Who makes a hundred errors with each bomb is cut before the last of them.
    """
    before, began = resident_mb(target.pid), cpu_s(target.pid)
    for _ in range(BOMBS):
        peer.send(bomb)
        bystander.is_served()
        if (code := code_or_answer(peer)) is not None:
            assert code == TOO_MANY_ERRORS
            break
    took_s = cpu_s(target.pid) - began
    assert took_s < BOMBS * 1.0, f"{took_s:.1f} s for {BOMBS} messages of {SIZE} bytes"
    assert resident_mb(target.pid) < before + GROWTH_MB


def code_or_answer(peer: Peer) -> int | None:
    """Read until what was asked behind the bomb is answered, or the connection is closed: with this code."""
    while (got := peer.read_frame()) is not None:
        if got.opcode == CLOSE:
            return got.code
        if b"behind" in got.payload:
            return None
    raise AssertionError("the connection ended without a word")

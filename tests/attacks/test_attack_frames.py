"""Attacks by frames: each meets the close code of RFC 6455, at once, in the protocol and on the echo path.

Reading a close code fails on any that is not documented; 1011 is not, because a client's bytes are no error
of the server.
"""

import struct
import zlib

import pytest

from tests.attacks.conftest import MESSAGE_BYTES_MAX
from tests.attacks.wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    ON_TCP,
    PING,
    PONG,
    TEXT,
    Peer,
    close_frame,
    frame,
    message,
    new_user,
    resident_mb,
)

PROTOCOL_ERROR, UNSUPPORTED, INVALID_DATA, POLICY, TOO_BIG = 1002, 1003, 1007, 1008, 1009
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


@pytest.fixture(params=["protocol", "echo"])
def opened(request: pytest.FixtureRequest, peer: Peer) -> Peer:
    """A connection after its handshake, on either kind of path."""
    return peer.upgrade("/echo" if request.param == "echo" else f"/ws/{new_user()}")


VIOLATIONS = {
    "unmasked-text": frame(TEXT, b"{}", mask=None),
    "unmasked-binary": frame(BINARY, b"{}", mask=None),
    "unmasked-ping": frame(PING, b"", mask=None),
    "unmasked-close": frame(CLOSE, b"", mask=None),
    "rsv1-without-compression": frame(TEXT, b"{}", rsv=4),
    "rsv2": frame(TEXT, b"{}", rsv=2),
    "rsv3": frame(TEXT, b"{}", rsv=1),
    "all-reserved-bits": frame(TEXT, b"{}", rsv=7),
    "rsv1-on-a-ping": frame(PING, b"", rsv=4),
    "rsv2-on-a-close": frame(CLOSE, b"", rsv=2),
    **{f"opcode-{opcode}": frame(opcode, b"{}") for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "fragmented-ping": frame(PING, b"a", fin=False),
    "fragmented-pong": frame(PONG, b"a", fin=False),
    "fragmented-close": frame(CLOSE, b"\x03\xe8", fin=False),
    "ping-of-126-bytes": frame(PING, b"a" * 126),
    "pong-of-126-bytes": frame(PONG, b"a" * 126),
    "close-of-126-bytes": frame(CLOSE, b"\x03\xe8" + b"a" * 124),
    "ping-of-65536-bytes": frame(PING, b"a" * 65536),
    "ping-with-a-16-bit-length": frame(PING, b"a", length_bytes=2),
    "length-125-in-16-bits": frame(TEXT, b"a" * 125, length_bytes=2),
    "length-0-in-16-bits": frame(TEXT, b"", length_bytes=2),
    "length-125-in-64-bits": frame(TEXT, b"a" * 125, length_bytes=8),
    "length-65535-in-64-bits": frame(TEXT, b"a" * 65535, length_bytes=8),
    "length-with-the-top-bit-and-no-payload": frame(TEXT, claimed_bytes=1 << 63),
    "length-of-all-ones-and-no-payload": frame(BINARY, claimed_bytes=(1 << 64) - 1),
    "continuation-of-nothing": frame(CONTINUATION, b"a"),
    "unfinished-continuation-of-nothing": frame(CONTINUATION, b"a", fin=False),
    "continuation-after-a-whole-message": frame(PONG, b"") + frame(CONTINUATION, b"a"),
    "text-within-a-message": frame(TEXT, b'{"a"', fin=False) + frame(TEXT, b"{}"),
    "binary-within-a-message": frame(TEXT, b'{"a"', fin=False) + frame(BINARY, b"{}"),
    "rsv1-on-a-continuation": frame(TEXT, b"{", fin=False) + frame(CONTINUATION, b"}", rsv=4),
    "close-of-one-byte": frame(CLOSE, b"\x03"),
    **{
        f"close-code-{code}": close_frame(code)
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 32768, 65535)
    },
}


@pytest.mark.parametrize("attack", VIOLATIONS)
def test_a_violation_is_a_protocol_error(opened: Peer, attack: str):
    assert opened.send(VIOLATIONS[attack]).read_close() == PROTOCOL_ERROR


@pytest.mark.parametrize("attack", ["opcode-3", "unmasked-text", "length-with-the-top-bit-and-no-payload"])
def test_a_violation_counts_from_the_byte_that_proves_it(opened: Peer, attack: str):
    proof = {"opcode-3": 1, "unmasked-text": 2, "length-with-the-top-bit-and-no-payload": 3}[attack]
    assert opened.send(VIOLATIONS[attack][:proof]).read_close() == PROTOCOL_ERROR


@pytest.mark.parametrize("claimed_bytes", [1 << 28, 1 << 31, 1 << 32, 1 << 40, (1 << 63) - 1])
def test_a_length_over_the_limit_is_refused_before_its_payload(opened: Peer, claimed_bytes: int):
    assert opened.send(frame(TEXT, b"", claimed_bytes=claimed_bytes)).read_close() == TOO_BIG


# Conformance suites send 16 MiB to the echo path: it has a limit of its own, and this is the protocol's.


@pytest.mark.parametrize("claimed_bytes", [MESSAGE_BYTES_MAX + 1, 2 * MESSAGE_BYTES_MAX])
def test_a_length_just_over_the_limit_is_refused_too(peer: Peer, claimed_bytes: int):
    assert peer.upgrade().send(frame(TEXT, b"", claimed_bytes=claimed_bytes)).read_close() == TOO_BIG


def test_a_message_as_large_as_the_limit_is_read(peer: Peer):
    peer.upgrade().send(message('{"type":"nonsense"}'.ljust(MESSAGE_BYTES_MAX)))
    assert "unknown_type" in peer.read_until('"error"')


def test_a_message_bomb_in_one_frame_is_refused(peer: Peer):
    peer.upgrade().push(frame(TEXT, b"a" * (4 * MESSAGE_BYTES_MAX)))
    assert peer.read_close() == TOO_BIG


def test_a_message_bomb_in_endless_fragments_is_refused(target, peer: Peer):
    before = resident_mb(target.pid)
    bomb = frame(TEXT, b"a" * 1000, fin=False) + frame(CONTINUATION, b"a" * 1000, fin=False) * 10_000
    peer.upgrade().push(bomb)
    assert peer.read_close() in (TOO_BIG, POLICY)
    assert resident_mb(target.pid) < before + 16


@pytest.mark.parametrize("payload", [b"", b"a"], ids=["empty", "of-one-byte"])
def test_endless_tiny_fragments_take_no_memory(target, opened: Peer, payload: bytes):
    before = resident_mb(target.pid)
    flood = frame(TEXT, payload, fin=False) + frame(CONTINUATION, payload, fin=False) * 400_000
    opened.push(flood)
    # Cut by a limit, or taken as the same small message growing: either way nothing piles up.
    assert resident_mb(target.pid) < before + 16
    if not opened.ended:
        opened.push(frame(3))
    assert opened.read_close() in (PROTOCOL_ERROR, POLICY, TOO_BIG, None)


@pytest.mark.parametrize(
    "payload",
    [
        b"\x80",
        b"\xbf",
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xc1\xbf",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
        b"\xfe",
        b"\xff",
        b"abc\xc3",
        b"\xe2\x82",
        b"\xf0\x9f\x98",
        b"\xc3(",
        b"a" * 200 + b"\xf8\x88\x80\x80\x80",
    ],
    ids=bytes.hex,
)
def test_invalid_utf8_is_invalid_data_in_one_frame_and_over_fragments(target, payload: bytes):
    for path in ("/echo", None):
        with Peer(target).upgrade(path) as peer:
            assert peer.send(message(payload)).read_close() == INVALID_DATA
        with Peer(target).upgrade(path) as peer:
            peer.send(frame(TEXT, b"", fin=False))
            for byte in payload[:-1]:
                peer.send(frame(CONTINUATION, bytes([byte]), fin=False))
            peer.send(frame(CONTINUATION, payload[-1:]))
            assert peer.read_close() == INVALID_DATA


def test_valid_utf8_split_within_a_character_is_no_error(peer: Peer):
    text = "κόσμε 😀".encode()
    peer.upgrade("/echo").send(frame(TEXT, text[:1], fin=False))
    for byte in text[1:]:
        peer.send(frame(CONTINUATION, bytes([byte]), fin=False) + frame(PING, b"between"))
    peer.send(frame(CONTINUATION, b""))
    assert peer.read_message() == text.decode()


def test_a_close_reason_that_is_no_utf8_is_refused(opened: Peer):
    assert opened.send(close_frame(1000, b"\xff\xfe")).read_close() in (PROTOCOL_ERROR, INVALID_DATA)


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, *range(1007, 1012), 3000, 3999, 4000, 4999])
def test_a_code_that_a_client_may_send_is_answered(opened: Peer, code: int):
    opened.send(close_frame(code, b"adieu"))
    while (got := opened.read_frame()) is not None and got.opcode != CLOSE:
        pass
    assert got is not None
    assert got.code in (code, 1000)  # an echo of the peer's own code, 1011 too, is no claim of ours


def test_an_empty_close_is_answered(opened: Peer):
    assert opened.send(frame(CLOSE)).read_close() in (1000, 1005)


def test_nothing_is_answered_behind_a_close(opened: Peer):
    opened.send(close_frame(1000) + frame(PING, b"late") + message("{}") * 10 + close_frame(1000))
    assert opened.read_close() == 1000
    assert opened.read_to_end() == b""


def test_a_peer_that_never_finishes_the_closing_handshake_is_cut(opened: Peer):
    opened.send(frame(3))
    assert opened.read_close() == PROTOCOL_ERROR
    opened.read_to_end()  # fails when the server waits for ever


def test_a_frame_that_comes_byte_by_byte_is_answered(opened: Peer):
    for byte in frame(PING, b"slow"):
        opened.send(bytes([byte]))
    while (got := opened.read_frame()) is not None and got.opcode != PONG:
        pass
    assert got is not None
    assert got.payload == b"slow"


@pytest.mark.parametrize(
    ("subprotocol", "opcode"), [("realtime.v1.json", BINARY), ("realtime.v1.msgpack", TEXT), (None, BINARY)]
)
def test_the_wrong_kind_of_frame_is_unsupported(peer: Peer, subprotocol: str | None, opcode: int):
    headers = [f"Sec-WebSocket-Protocol: {subprotocol}"] if subprotocol else []
    peer.upgrade(None, *headers).send(frame(opcode, b"{}"))
    assert peer.read_close() == UNSUPPORTED


def deflated(data: bytes) -> bytes:
    """Compress as RFC 7692, 7.2.1 wants it."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


@pytest.fixture(params=["protocol", "echo"])
def compressed(request: pytest.FixtureRequest, peer: Peer) -> Peer:
    """A connection that may compress."""
    return peer.upgrade("/echo" if request.param == "echo" else None, DEFLATE)


@ON_TCP
def test_a_compressed_message_is_read(peer: Peer):
    peer.upgrade(None, DEFLATE).send(frame(TEXT, deflated(b'{"type":"nonsense","id":7}'), rsv=4))
    while (got := peer.read_frame()) is not None and b"unknown_type" not in _inflated(got.payload, got.rsv):
        assert got.opcode != CLOSE
    assert got is not None


def _inflated(payload: bytes, rsv: int) -> bytes:
    return zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff") if rsv & 4 else payload


@ON_TCP
def test_a_deflate_bomb_is_refused_in_bounded_memory(target, compressed: Peer):
    before = resident_mb(target.pid)
    bomb = deflated(bytes(200 * MESSAGE_BYTES_MAX))  # a thousand to one: 50 MB within 51 kB
    assert len(bomb) < MESSAGE_BYTES_MAX
    assert compressed.send(frame(TEXT, bomb, rsv=4)).read_close() == TOO_BIG
    assert resident_mb(target.pid) < before + 16


@ON_TCP
def test_a_deflate_bomb_in_fragments_is_refused(target, compressed: Peer):
    bomb = deflated(bytes(200 * MESSAGE_BYTES_MAX))
    compressed.send(frame(TEXT, bomb[:100], rsv=4, fin=False))
    for start in range(100, len(bomb), 5000):
        compressed.send(frame(CONTINUATION, bomb[start : start + 5000], fin=start + 5000 >= len(bomb)))
    assert compressed.read_close() == TOO_BIG


@ON_TCP
@pytest.mark.parametrize(
    "payload",
    [
        b"\xff" * 100,
        b"\x00\x01\x00\x00\x00x",
        b"\x05",
        b"\x07",
        deflated(b'{"type":"ping"}')[:-3] + b"\xff\xff\xff",
    ],
    ids=bytes.hex,
)
def test_compressed_rubbish_is_refused(compressed: Peer, payload: bytes):
    assert compressed.send(frame(TEXT, payload, rsv=4)).read_close() in (PROTOCOL_ERROR, INVALID_DATA)


@ON_TCP
def test_compressed_text_that_is_no_utf8_is_invalid_data(compressed: Peer):
    assert compressed.send(frame(TEXT, deflated(b"abc\xff"), rsv=4)).read_close() == INVALID_DATA


@ON_TCP
@pytest.mark.parametrize(("opcode", "rsv"), [(PING, 4), (CLOSE, 4), (TEXT, 2), (TEXT, 1), (TEXT, 6)])
def test_reserved_bits_stay_reserved_where_compression_is_on(compressed: Peer, opcode: int, rsv: int):
    assert compressed.send(frame(opcode, b"", rsv=rsv)).read_close() == PROTOCOL_ERROR


@ON_TCP
def test_rsv1_within_a_compressed_message_is_a_protocol_error(compressed: Peer):
    data = deflated(b'{"type":"ping"}')
    compressed.send(frame(TEXT, data[:4], rsv=4, fin=False) + frame(CONTINUATION, data[4:], rsv=4))
    assert compressed.read_close() == PROTOCOL_ERROR


@ON_TCP
def test_a_payload_cut_by_the_end_of_the_stream_is_no_message(target, opened: Peer):
    opened.send(frame(TEXT, b'{"type":"ping","id":1}')[:-3])
    opened.socket.shutdown(1)
    while (got := opened.read_frame()) is not None:
        assert b"pong" not in got.payload
        assert struct.calcsize("!H") <= len(got.payload) or got.opcode != CLOSE

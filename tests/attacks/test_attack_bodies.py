"""Attacks by content: well-framed, hostile bodies. Each gets `bad_message`, and the peer may go on."""

import json
import struct

import pytest

from tests.attacks.wire import BINARY, CLOSE, TEXT, Peer, frame, message

NESTED = 100_000
PING = '{"type":"ping","id":"after"}'


@pytest.fixture
def session(peer: Peer) -> Peer:
    """A peer that is in its room."""
    return peer.upgrade().join("events:bodies")


BAD_JSON = {
    "arrays-100000-deep": '{"type":"ping","content":' + "[" * NESTED + "]" * NESTED + "}",
    "arrays-100000-deep-and-never-closed": '{"type":"ping","content":' + "[" * NESTED,
    "objects-40000-deep": '{"type":"ping","content":' + '{"a":' * 40_000 + "1" + "}" * 40_000 + "}",
    "the-envelope-100000-deep": "[" * NESTED,
    "closing-brackets-only": "]" * NESTED,
    "depth-in-an-unknown-key": '{"type":"ping","x":' + "[" * NESTED + "]" * NESTED + "}",
    "id-of-100000-digits": '{"type":"ping","id":' + "9" * 100_000 + "}",
    "id-beyond-53-bits": '{"type":"ping","id":9007199254740993}',
    "id-negative-beyond-53-bits": '{"type":"ping","id":-9007199254740993}',
    "id-fractional": '{"type":"ping","id":1.5}',
    "id-exponential": '{"type":"ping","id":1e3}',
    "id-object": '{"type":"ping","id":{}}',
    "id-true": '{"type":"ping","id":true}',
    "id-of-65-bytes": '{"type":"ping","id":"' + "a" * 65 + '"}',
    "type-missing": '{"id":1}',
    "type-null": '{"type":null}',
    "type-number": '{"type":7}',
    "type-list": '{"type":["ping"]}',
    "type-of-65-characters": '{"type":"' + "a" * 65 + '"}',
    "room-number": '{"type":"ping","room":7}',
    "room-of-201-bytes": '{"type":"join","room":"events:' + "a" * 194 + '"}',
    "key-of-65-bytes": '{"type":"publish","room":"events:bodies","key":"' + "a" * 65 + '"}',
    "key-number": '{"type":"publish","room":"events:bodies","key":7}',
    "type-twice": '{"type":"ping","type":"join"}',
    "type-twice-by-escape": '{"type":"ping","\\u0074ype":"join"}',
    "key-twice-in-the-content": '{"type":"publish","room":"events:bodies","content":{"a":1,"a":2}}',
    "key-twice-deep-inside": '{"type":"publish","room":"events:bodies","content":[{"b":[{"a":1,"a":2}]}]}',
    "unknown-key-twice": '{"type":"ping","x":1,"x":2}',
    "nan": '{"type":"publish","room":"events:bodies","content":NaN}',
    "infinity": '{"type":"publish","room":"events:bodies","content":Infinity}',
    "minus-infinity": '{"type":"publish","room":"events:bodies","content":[-Infinity]}',
    "high-surrogate-alone": '{"type":"publish","room":"events:bodies","content":"\\ud800"}',
    "low-surrogate-alone": '{"type":"publish","room":"events:bodies","content":"\\udc00"}',
    "surrogates-in-the-wrong-order": '{"type":"publish","room":"events:bodies","content":"\\udc00\\ud800"}',
    "surrogate-in-a-key": '{"type":"publish","room":"events:bodies","content":{"\\ud800x":1}}',
    "surrogate-in-the-type": '{"type":"\\ud800"}',
    "surrogate-in-the-id": '{"type":"ping","id":"\\ud800"}',
    "leading-zero": '{"type":"publish","room":"events:bodies","content":01}',
    "plus-sign": '{"type":"publish","room":"events:bodies","content":+1}',
    "hexadecimal": '{"type":"publish","room":"events:bodies","content":0x1}',
    "bare-point": '{"type":"publish","room":"events:bodies","content":1.}',
    "point-first": '{"type":"publish","room":"events:bodies","content":.1}',
    "empty-exponent": '{"type":"publish","room":"events:bodies","content":1e}',
    "trailing-comma": '{"type":"ping",}',
    "trailing-comma-in-a-list": '{"type":"publish","room":"events:bodies","content":[1,]}',
    "comment": '{"type":"ping"/**/}',
    "single-quotes": "{'type':'ping'}",
    "bare-key": '{type:"ping"}',
    "control-character-in-a-string": '{"type":"publish","room":"events:bodies","content":"\x01"}',
    "unknown-escape": '{"type":"publish","room":"events:bodies","content":"\\x41"}',
    "short-escape": '{"type":"publish","room":"events:bodies","content":"\\u12"}',
    "truncated": '{"type":"ping"',
    "truncated-in-a-string": '{"type":"pi',
    "truncated-in-an-escape": '{"type":"\\',
    "two-values-on-a-line": '{"type":"ping"} {"type":"ping"}',
    "rubbish-behind": '{"type":"ping"}x',
    "nul-behind": '{"type":"ping"}\0',
    "byte-order-mark": '\ufeff{"type":"ping"}',
    "a-list": "[1,2,3]",
    "a-string": '"ping"',
    "a-number": "7",
    "null": "null",
    "misspelt-null": '{"type":"publish","room":"events:bodies","content":nul}',
    "capital-true": '{"type":"publish","room":"events:bodies","content":True}',
    "no-json": "hello",
    "nul": "\0",
}


@pytest.mark.parametrize("attack", BAD_JSON)
def test_a_hostile_json_body_is_a_bad_message_and_the_peer_goes_on(session: Peer, attack: str):
    session.send(message(BAD_JSON[attack]))
    reply = json.loads(session.read_until('"error"'))
    assert reply["type"] == "error"
    assert "bad_message" in json.dumps(reply)
    session.send(message(PING))
    assert json.loads(session.read_until('"pong"'))["id"] == "after"


WELL_FORMED = {
    "huge-integer": "9" * 1000,
    "huge-negative-integer": "-" + "9" * 1000,
    "huge-exponent": "1e400",
    "tiny-exponent": "-1e-400",
    "surrogate-pair": '"\\ud83d\\ude00"',
    "escaped-nul": '"\\u0000"',
    "60-arrays-deep": "[" * 60 + "]" * 60,
    "long-string": '"' + "a" * 100_000 + '"',
    "thousands-of-keys": json.dumps({f"k{i}": i for i in range(5000)}),
    "thousands-of-keys-with-one-hash-prefix": json.dumps({"k" * 50 + str(i): i for i in range(2000)}),
    "html": '"</script><script>alert(1)</script>"',
}


@pytest.mark.parametrize("case", WELL_FORMED)
def test_odd_but_valid_content_is_published_unchanged(session: Peer, case: str):
    content = WELL_FORMED[case]
    session.send(message('{"type":"publish","room":"events:bodies","content":' + content + "}"))
    push = session.read_until('"publish"')
    assert content in push, "the content is passed on as it came"


def test_more_messages_in_a_frame_than_allowed_are_refused(session: Peer):
    session.send(message("\n".join(['{"type":"ping"}'] * 5000)))
    assert "error" in session.read_until('"error"')


def test_empty_frames_and_lines_do_no_harm(session: Peer):
    session.send(message("") + message("\n\n\n") + message("\r\n") + message(" ") + message(PING))
    session.read_until('"pong"')


def test_an_unknown_type_is_an_error_with_its_id(session: Peer):
    session.send(message('{"type":"__class__","id":7}'))
    reply = json.loads(session.read_until('"error"'))
    assert reply["id"] == 7
    assert "unknown_type" in json.dumps(reply)


# ---- MessagePack ----

NAME = b"\x84\xa4type\xa7publish\xa4room\xadevents:bodies\xa2id\x07\xa7content"  # and the content behind it

BOMBS = {
    "array-of-4-billion": NAME + b"\xdd\xff\xff\xff\xff",
    "map-of-4-billion": NAME + b"\xdf\xff\xff\xff\xff",
    "string-of-4-GB": NAME + b"\xdb\xff\xff\xff\xff",
    "binary-of-4-GB": NAME + b"\xc6\xff\xff\xff\xff",
    "extension-of-4-GB": NAME + b"\xc9\xff\xff\xff\xff\x01",
    "outer-array-of-4-billion": b"\xdd\xff\xff\xff\xff",
    "outer-map-of-4-billion": b"\xdf\xff\xff\xff\xff\xa4type",
    "arrays-100000-deep": NAME + b"\x91" * NESTED + b"\xc0",
    "maps-50000-deep": NAME + b"\x81\xa1a" * 50_000 + b"\xc0",
    "outer-arrays-100000-deep": b"\x91" * NESTED,
    "arrays-of-65535-in-each-other": NAME + b"\xdc\xff\xff" * 1000,
    "binary": NAME + b"\xc4\x01a",
    "extension": NAME + b"\xd4\x01a",
    "timestamp": NAME + b"\xd6\xff" + bytes(4),
    "never-used-byte": NAME + b"\xc1",
    "nan": NAME + b"\xcb" + struct.pack("!d", float("nan")),
    "infinity": NAME + b"\xcb" + struct.pack("!d", float("inf")),
    "short-nan": NAME + b"\xca" + struct.pack("!f", float("nan")),
    "string-that-is-no-utf8": NAME + b"\xa1\xff",
    "string-with-a-surrogate": NAME + b"\xa3\xed\xa0\x80",
    "integer-key": NAME + b"\x81\x01\x02",
    "nil-key": NAME + b"\x81\xc0\x02",
    "map-as-key": NAME + b"\x81\x80\x02",
    "key-twice": NAME + b"\x82\xa1a\x01\xa1a\x02",
    "type-twice": b"\x82\xa4type\xa4ping\xa4type\xa4ping",
    "type-number": b"\x81\xa4type\x07",
    "no-type": b"\x80",
    "truncated": NAME[:-4],
    "rubbish-behind": b"\x81\xa4type\xa4ping\x07",
    "a-number": b"\x07",
    "a-string": b"\xa4ping",
    "list-of-numbers": b"\x93\x01\x02\x03",
    "json": b'{"type":"ping"}',
    "empty": b"",
}


def read_packed_until(peer: Peer, part: bytes) -> bytes:
    """Return the next binary message with `part` in it; the connection has to live on."""
    while (got := peer.read_frame()) is not None:
        assert got.opcode != CLOSE, got
        assert got.opcode != TEXT, "a text frame on a MessagePack connection"
        if got.opcode == BINARY and part in got.payload:
            return got.payload
    raise AssertionError(f"the connection ended before {part!r}")


@pytest.mark.parametrize("attack", BOMBS)
def test_a_hostile_msgpack_body_is_a_bad_message_and_the_peer_goes_on(peer: Peer, attack: str):
    peer.upgrade(None, "Sec-WebSocket-Protocol: realtime.v1.msgpack")
    peer.send(frame(BINARY, b"\x83\xa4type\xa4join\xa4room\xadevents:bodies\xa2id\x01"))
    read_packed_until(peer, b"joined")
    peer.send(frame(BINARY, BOMBS[attack]))
    assert b"bad_message" in read_packed_until(peer, b"error")
    peer.send(frame(BINARY, b"\x82\xa4type\xa4ping\xa2id\x07"))
    read_packed_until(peer, b"pong")

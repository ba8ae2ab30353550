"""What of recorded frames may be written down: secrets in no form, contents where the policy lets them."""

import base64
import json
import secrets
import zlib

import msgspec
import pytest

from realtime.core.catalog import Catalog
from realtime.core.room_rules import RoomRules
from realtime.edge.recording_frames import ENTRY, IN, OUT, REFUSED, Teller, entries_of
from realtime.features import discover
from realtime.ids import DEFAULT_TENANT
from realtime.policy import RoomRule
from realtime.protocol.recording import FORMAT, REMOVED, VERSION, BadRecording, Head, read, write

SECRET = "s3cret+" + secrets.token_hex(12)
JWT = ".".join(base64.urlsafe_b64encode(secrets.token_bytes(30)).decode() for _ in range(3))
ENCRYPTED = RoomRules([RoomRule(rooms=("chat:vault-*",), encrypted=True)])
SEALED = RoomRules([RoomRule(rooms=("chat:vault-*",), end_to_end=True)])
NO_RULES = RoomRules()


def entry(payload, first=0x81, kind=IN, length=None, at_ns=1):
    return ENTRY.pack(at_ns, len(payload) if length is None else length, len(payload), kind, first) + payload


def told(*entries, rules=NO_RULES, contents=True):
    teller = Teller(
        DEFAULT_TENANT,
        Catalog(discover()),
        rules,
        lambda text: text.replace("known to the server", "***"),
        contents=contents,
    )
    return teller.frames(entries_of(b"".join(entries)))


def only(*entries, **how):
    (frame,) = told(*entries, **how)
    return frame


def said(**message):
    return json.dumps(message).encode()


def test_a_message_is_shown_as_it_came():
    raw = b'{ "type":"chat_message", "room":"chat:lobby","content":{"text":"h\\u00e9"},"id":7}'
    frame = only(entry(raw))
    assert (frame.text, frame.types, frame.rooms) == (raw.decode(), ("chat_message",), ("chat:lobby",))
    assert (frame.way, frame.op, frame.size, frame.left_out) == ("in", "text", len(raw), "")


@pytest.mark.parametrize(
    "payload",
    [
        said(type="connect", id=1, content={"token": SECRET}),
        said(type="join", room="chat:x", content={"token": SECRET, "since": None}),
        said(
            type="publish", room="events:x", content={"deep": [{"accessToken": SECRET, "PASSWORD": SECRET}]}
        ),
        said(type="publish", room="events:x", content={"url": f"/files/7?ticket={SECRET}&x=1"}),
        said(type="publish", room="events:x", content={"text": f'{{"token":"{SECRET}"}}'}),
        b'{"type":"connect","content":{"\\u0074oken":"%b"}}' % SECRET.encode(),
        b'{"type":"connect","content":{"token":"%b"},"content":{}}' % SECRET.encode(),
        b'{"type":"ping"}\n{"type":"connect","content":{"token":"%b"}}' % SECRET.encode(),
        b'{"type":"connect","content":{"token":"%b"}' % SECRET.encode(),
        b'{"type":"connect","content":{"token":"%b' % SECRET.encode(),
        b'{"type":"connect","content":{token:%b' % SECRET.encode(),
        b'{"type":"connect","content":{"\\u0074oken":"%b' % SECRET.encode(),
        b'{"type":"connect","content":{"token":"%b\xff"}}' % SECRET.encode(),
        b"[" * 5000 + b'"token":"%b"' % SECRET.encode(),
    ],
)
@pytest.mark.parametrize("cut", [0, 5], ids=["whole", "cut"])
def test_no_secret_is_told_by_its_name(payload, cut):
    kept = payload[: len(payload) - cut]
    for first, raw in ((0x81, kept), (0xC1, deflated(kept))):
        frame = only(entry(raw, first, length=len(raw) + cut))
        assert SECRET[:12] not in msgspec.json.encode(frame).decode()


def deflated(payload):
    squeezer = zlib.compressobj(wbits=-15)
    return (squeezer.compress(payload) + squeezer.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.mark.parametrize(
    "payload",
    [
        said(type="publish", room="events:x", content={"text": f"look: {JWT}"}),
        said(type="publish", room="events:x", content=[JWT]),
        said(type="publish", room="events:x", content={"text": "known to the server"}),
        b"GET / HTTP/1.1\r\nAuthorization: Bearer " + JWT.encode(),
        JWT.encode()[:70],
    ],
)
def test_nor_what_looks_like_one(payload):
    frame = only(entry(payload))
    assert JWT[:30] not in (frame.text or "")
    assert "known" not in (frame.text or "")
    for control in (0x88, 0x89, 0x8A):
        framed = (b"\x03\xe8" if control == 0x88 else b"") + JWT.encode()[:100]
        assert JWT[:30] not in msgspec.json.encode(only(entry(framed, control))).decode()


def test_what_was_json_still_is_when_secrets_are_out():
    content = {"token": SECRET, "text": f'say token: "{SECRET}" or password=abc', "n": 2**60, "none": None}
    frame = only(entry(said(type="publish", room="events:x", content=content)))
    assert json.loads(frame.text)["content"]["token"] == REMOVED
    assert json.loads(frame.text)["content"]["n"] == 2**60


def test_messagepack_is_searched_too_and_what_cannot_be_is_left_out():
    message = {"type": "connect", "id": 1, "content": {"token": SECRET, "raw": b"\0\1"}}
    packed = msgspec.msgpack.encode(message)
    frame = only(entry(packed, 0x82))
    assert msgspec.msgpack.decode(frame.data)["content"] == {"token": REMOVED, "raw": b"\0\1"}
    cut = only(entry(packed[:-9], 0x82, length=len(packed)))
    broken = only(entry(packed[:-9], 0x82))
    assert [(each.data, each.left_out) for each in (cut, broken)] == [(None, "cut"), (None, "unread")]


@pytest.mark.parametrize("rules", [ENCRYPTED, SEALED], ids=["at rest", "end to end"])
@pytest.mark.parametrize(
    "payload",
    [
        said(type="chat_message", room="chat:vault-1", content={"text": SECRET}),
        said(type="chat_message", content={"chat_room_id": "vault-1", "text": SECRET}),
        said(type="chat_found", content={"text": SECRET}),
        said(type="chat_found", room="chat:open", content={"found": [{"room": "chat:vault-1", "t": SECRET}]}),
        said(type="chat_message", room="no room", content={"text": SECRET}),
        said(type="chat_message", room="chat:vault-1", content={"text": SECRET})[:-1],
        b"[1]" + SECRET.encode(),
    ],
)
def test_contents_of_encrypted_rooms_are_left_out(rules, payload):
    for first, kind in ((0x81, IN), (0x81, OUT)):
        frame = only(entry(payload, first, kind), rules=rules)
        assert (frame.text, frame.data, frame.left_out) == (None, None, "encrypted")
    cut = only(entry(payload[:-3], length=len(payload)), rules=rules)
    assert (cut.text, cut.left_out) == (None, "encrypted")


def test_what_is_for_certain_of_another_room_is_not():
    open_room = said(type="chat_message", room="chat:open", content={"text": "hi"})
    for payload in (open_room, said(type="ping"), said(type="connected", content={})):
        assert only(entry(payload), rules=ENCRYPTED).text == payload.decode()


def test_without_contents_there_are_types_rooms_and_sizes():
    payload = said(type="chat_message", room="chat:open", content={"text": SECRET})
    whole, cut, ping, close = told(
        entry(payload),
        entry(payload[:-9], length=len(payload)),
        entry(SECRET.encode(), 0x89),
        entry(b"\x03\xe8" + SECRET.encode(), 0x88),
        contents=False,
    )
    assert (whole.types, whole.rooms, whole.size) == (("chat_message",), ("chat:open",), len(payload))
    assert (cut.types, close.code) == (("chat_message",), 1000)
    for frame in (whole, cut, ping, close):
        assert (frame.text, frame.data, frame.left_out) == (None, None, "contents")


def test_fragments_are_shown_where_nothing_had_to_be_taken_out():
    payload = said(type="publish", room="events:x", content={"text": "äöü"})
    parts = [entry(payload[:50], 0x01), entry(b"here?", 0x89), entry(payload[50:], 0x80)]
    one, ping, other = told(*parts)
    assert (one.text + other.text, one.types, ping.op) == (payload.decode(), ("publish",), "ping")
    secret = said(type="connect", content={"token": SECRET})
    for pieces in (
        [entry(secret[:50], 0x01), entry(secret[50:], 0x80)],
        [entry(secret[:50], 0x01)],  # no end
        [entry(secret[40:], 0x80)],  # no beginning
        [entry(secret[:50], 0x01), entry(secret[50:60], 0x80, length=len(secret) - 50)],
    ):
        for frame in told(*pieces):
            assert frame.text is None
            assert frame.left_out in ("secret", "unread")


def test_a_text_that_is_no_text_is_shown_as_bytes():
    assert only(entry(b"\xff\xfe")).data == b"\xff\xfe"


def test_bombs_are_inflated_up_to_a_bound():
    bomb = deflated(b"a" * 10_000_000)
    frame = only(entry(bomb[:500], 0xC1, length=len(bomb)))
    assert len(frame.text) <= 16 * 500 + 1024
    assert only(entry(b"\xff\xff\xff", 0xC1)).left_out == "unread"


def test_a_refused_head_and_reserved_opcodes_are_told():
    head, strange = told(entry(b"\x81\x05", 0x81, REFUSED), entry(b"", 0x83))
    assert (head.op, head.data, head.way) == ("refused", b"\x81\x05", "in")
    assert strange.op == "reserved"


# -- the file

HEAD = Head(
    format=FORMAT,
    version=VERSION,
    connection="n-1",
    user="alice",
    tenant="default",
    address="127.0.0.1",
    encoding="json",
    why="asked",
    code=0,
    closed_by="",
    monotonic_ns=5,
    unix_ns=7,
    frames=3,
    lost=1,
    contents=True,
)


def test_a_file_is_read_as_it_was_written():
    frames = told(entry(b'{"type":"ping"}'), entry(b"\xff", 0x82), entry(b"\x03\xe8bye", 0x88, OUT))
    assert read(write(HEAD, frames)) == (HEAD, frames)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: [], "no recording"),
        (lambda lines: [b'{"format":"another","version":1}'], "no recording"),
        (lambda lines: [lines[0].replace(b'"version":1', b'"version":2'), *lines[1:]], "version 2"),
        (lambda lines: [lines[0].replace(b'"why"', b'"what"'), *lines[1:]], "line 1"),
        (lambda lines: [lines[0], lines[1].replace(b'"op"', b'"oops"')], "line 2"),
        (lambda lines: [*lines, b'{"at_ns":1}'], "line 3"),
        (lambda lines: [*lines[:-1], lines[-1][:-5]], "line 2"),
    ],
)
def test_what_is_not_known_is_refused(change, says):
    lines = write(HEAD, told(entry(b'{"type":"ping"}'))).splitlines()
    with pytest.raises(BadRecording, match=says):
        read(b"\n".join(change(lines)))

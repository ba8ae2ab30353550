"""Frames: RFC 6455's own examples, each error at the byte that proves it, and any bytes against the twin."""

import itertools
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.native import frames
from realtime.native.frames import Binary, Close, Fail, Ping, Pong, Text
from tests.oracles import frames as oracle
from tests.oracles.utf8 import Validator

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = bytes.fromhex("37fa213d")
READERS = pytest.mark.parametrize("reader", [frames.Reader, oracle.Reader], ids=["compiled", "oracle"])


def masked(payload: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def client_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes = MASK,
    length_bytes: int = 0,
) -> bytes:
    """One client frame; `length_bytes` 2 or 8 forces that form of the length, the shortest or not."""
    n = len(payload)
    length_bytes = length_bytes or (0 if n < 126 else 2 if n < 65536 else 8)
    short = {0: n, 2: 126, 8: 127}[length_bytes]
    head = bytes([fin << 7 | rsv | opcode, 0x80 | short]) + (
        n.to_bytes(length_bytes, "big") if length_bytes else b""
    )
    return head + mask + masked(payload, mask)


def compressed(payload: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-15)
    return (deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


# --- RFC 6455, section 5.7, and what follows from 5.4 to 5.6


@READERS
@pytest.mark.parametrize(
    ("wire", "events"),
    [
        pytest.param("818537fa213d7f9f4d5158", [Text("Hello")], id="5.7 masked text"),
        pytest.param("8a8537fa213d7f9f4d5158", [Pong(b"Hello")], id="5.7 pong"),
        pytest.param("810548656c6c6f", [Fail(1002)], id="5.7 unmasked text, which only a server may send"),
        pytest.param("898000000000", [Ping(b"")], id="empty ping"),
        pytest.param("818000000000", [Text("")], id="empty text"),
        pytest.param("828000000000", [Binary(b"")], id="empty binary"),
        pytest.param("888000000000", [Close(1005, "")], id="close without a code"),
        pytest.param("88820000000003e8", [Close(1000, "")], id="close 1000"),
        pytest.param(
            "88840000000003e86f6b" + "818000000000", [Close(1000, "ok")], id="nothing follows a close"
        ),
        pytest.param("88810000000003", [Fail(1002)], id="half a close code"),
        pytest.param("88820000000003ed", [Fail(1002)], id="close 1005 on the wire"),
        pytest.param("88840000000003e8c328", [Fail(1007)], id="close reason that is no UTF-8"),
        pytest.param("88830000000003e8c3", [Fail(1007)], id="close reason that ends inside a character"),
    ],
)
def test_reader_tells(reader, wire, events):
    assert reader().receive(bytes.fromhex(wire)) == events


@READERS
def test_fragments_become_one_message_with_control_frames_between(reader):
    wire = (
        client_frame(TEXT, b"Hel", fin=False)
        + client_frame(PING, b"?")
        + client_frame(CONTINUATION, fin=False)
        + client_frame(CONTINUATION, b"lo")
        + client_frame(BINARY, b"\xff")
    )
    assert reader().receive(wire) == [Ping(b"?"), Text("Hello"), Binary(b"\xff")]


@READERS
@pytest.mark.parametrize("n", [0, 1, 125, 126, 127, 255, 256, 65535, 65536])
def test_every_form_of_the_length_is_read(reader, n):
    payload = bytes(i * 7 & 0xFF for i in range(n))
    assert reader().receive(client_frame(BINARY, payload)) == [Binary(payload)]


@pytest.mark.parametrize(
    ("wire", "opcode", "payload", "fin"),
    [
        ("810548656c6c6f", TEXT, b"Hello", True),
        ("010348656c", TEXT, b"Hel", False),
        ("80026c6f", CONTINUATION, b"lo", True),
        ("890548656c6c6f", PING, b"Hello", True),
        ("827e0100" + "a5" * 256, BINARY, b"\xa5" * 256, True),
        ("827f0000000000010000" + "a5" * 65536, BINARY, b"\xa5" * 65536, True),
        ("827d" + "00" * 125, BINARY, bytes(125), True),
        ("827e007e" + "00" * 126, BINARY, bytes(126), True),
        ("827effff" + "00" * 65535, BINARY, bytes(65535), True),
    ],
)
def test_encode_writes_the_examples_of_section_5_7_and_each_form_of_the_length(wire, opcode, payload, fin):
    assert frames.encode(opcode, payload, fin=fin) == bytes.fromhex(wire)


def test_encode_marks_a_compressed_message():
    assert frames.encode(TEXT, b"\x00", rsv1=True) == b"\xc1\x01\x00"


@pytest.mark.parametrize(
    ("opcode", "payload", "flags"),
    [
        (3, b"", {}),
        (0x81, b"", {}),
        (-1, b"", {}),
        (PING, bytes(126), {}),
        (CLOSE, b"", {"fin": False}),
        (PONG, b"", {"rsv1": True}),
    ],
)
def test_encode_refuses_what_is_no_frame(opcode, payload, flags):
    with pytest.raises(ValueError, match=r"opcode|control frame"):
        frames.encode(opcode, payload, **flags)


# --- errors, each at the byte that proves it


@READERS
@pytest.mark.parametrize(
    ("prefix", "code"),
    [
        *(
            pytest.param(bytes([0x80 | opcode]), 1002, id=f"opcode {opcode}")
            for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
        ),
        *(pytest.param(bytes([opcode]), 1002, id=f"fragmented {opcode}") for opcode in (CLOSE, PING, PONG)),
        *(pytest.param(bytes([0x81 | rsv]), 1002, id=f"RSV {rsv:#x}") for rsv in range(0x10, 0x80, 0x10)),
        pytest.param(b"\x80", 1002, id="continuation of nothing"),
        pytest.param(client_frame(TEXT, b"a", fin=False) + b"\x81", 1002, id="a message inside another"),
        pytest.param(client_frame(TEXT, b"a") + b"\x80", 1002, id="continuation of a finished message"),
        pytest.param(b"\x81\x00", 1002, id="no mask"),
        pytest.param(b"\x89\xfe", 1002, id="ping over 125 bytes"),
        pytest.param(b"\x88\xff", 1002, id="close over 65535 bytes"),
        pytest.param(b"\x82\xfe\x00\x7d", 1002, id="16 bits for 125"),
        pytest.param(b"\x82\xff\x80", 1002, id="top bit of 64"),
        pytest.param(b"\x82\xff" + bytes(6), 1002, id="64 bits for what 16 hold"),
        pytest.param(b"\x82\xff" + bytes(5) + b"\x01\x00\x00", 1009, id="over the limit, before the mask"),
        pytest.param(b"\x82\xfe\x03\xe9", 1009, id="one byte over the limit"),
        pytest.param(
            client_frame(BINARY, bytes(1000), fin=False) + b"\x80\x81", 1009, id="over the limit in sum"
        ),
        pytest.param(
            client_frame(TEXT, fin=False) + client_frame(CONTINUATION, fin=False) * 2 + b"\x00",
            1009,
            id="a fragment too many",
        ),
        pytest.param(client_frame(TEXT, b"abc\xff", fin=False), 1007, id="no start of a character"),
        pytest.param(client_frame(TEXT, b"abc\xff!")[:-1], 1007, id="bad UTF-8 before the frame is complete"),
        pytest.param(
            client_frame(TEXT, b"\xed", fin=False) + client_frame(CONTINUATION, b"\xa0"),
            1007,
            id="a surrogate across frames",
        ),
        pytest.param(client_frame(TEXT, b"\xe2\x82"), 1007, id="a message that ends inside a character"),
    ],
)
def test_an_error_is_told_at_the_byte_that_proves_it(reader, prefix, code):
    limits = {"max_message_bytes": 1000, "max_fragments": 3}
    in_two = reader(**limits)
    assert not any(isinstance(event, Fail) for event in in_two.receive(prefix[:-1]))
    assert in_two.receive(prefix[-1:]) == [Fail(code)]
    assert in_two.receive(client_frame(PING)) == []
    assert reader(**limits).receive(prefix + bytes(20))[-1] == Fail(code)


@READERS
def test_a_message_of_exactly_the_limits_passes(reader):
    wire = client_frame(BINARY, bytes(500), fin=False) + client_frame(CONTINUATION, bytes(500))
    assert reader(max_message_bytes=1000, max_fragments=2).receive(wire) == [Binary(bytes(1000))]


# --- permessage-deflate


@READERS
def test_compressed_examples_of_rfc_7692_7_2_3(reader):
    one_block = bytes.fromhex("f248cdc9c90700")
    stored = bytes.fromhex("000500faff48656c6c6f00")
    final = bytes.fromhex("f348cdc9c90700")
    two_blocks = bytes.fromhex("f24805000000ffffcac9c90700")
    wire = (
        client_frame(TEXT, one_block, rsv=0x40)
        + client_frame(TEXT, one_block[:3], rsv=0x40, fin=False)
        + client_frame(CONTINUATION, one_block[3:])
        + client_frame(TEXT, stored, rsv=0x40)
        + client_frame(TEXT, final + b"\x00", rsv=0x40)
        + client_frame(TEXT, two_blocks, rsv=0x40)
        + client_frame(TEXT, b"\x00", rsv=0x40)
        + client_frame(TEXT, b"Hello")
    )
    expected = [Text("Hello")] * 5 + [Text(""), Text("Hello")]
    assert reader(inflate=True).receive(wire) == expected


@READERS
@pytest.mark.parametrize(
    ("wire", "code"),
    [
        pytest.param(client_frame(PING, b"", rsv=0x40), 1002, id="compressed ping"),
        pytest.param(client_frame(TEXT, b"", rsv=0x20), 1002, id="RSV2"),
        pytest.param(
            client_frame(TEXT, b"", fin=False) + client_frame(CONTINUATION, b"", rsv=0x40),
            1002,
            id="RSV1 on a continuation",
        ),
        pytest.param(client_frame(TEXT, b"\xff\xff", rsv=0x40), 1007, id="no DEFLATE data"),
        pytest.param(client_frame(TEXT, compressed(b"\xff"), rsv=0x40), 1007, id="inflates to bad UTF-8"),
        pytest.param(client_frame(BINARY, compressed(bytes(100_000)), rsv=0x40), 1009, id="bomb"),
    ],
)
def test_compressed_messages_fail_with(reader, wire, code):
    assert reader(inflate=True, max_message_bytes=1000).receive(wire) == [Fail(code)]


# --- any bytes: compiled and twin tell the same, at the same byte

payloads = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=12).map(lambda text: text.encode()),
    st.sampled_from(
        [b"\xf0\x9f", b"\x98\x80", b"\xed\xa0", b"\xc3\xa9" * 30, bytes(126), b"a" * 125, b"b" * 300]
    ),
    st.binary(max_size=40).map(compressed),
    st.sampled_from([compressed(b"z" * 700), compressed("\N{GRINNING FACE}".encode())]),
)
close_payloads = st.builds(
    lambda code, reason: code.to_bytes(2, "big") + reason,
    st.one_of(
        st.sampled_from([999, 1000, 1004, 1005, 1006, 1011, 1014, 1015, 2999, 3000, 4999, 5000]),
        st.integers(0, 65535),
    ),
    st.one_of(st.just(b""), st.text(max_size=8).map(lambda text: text.encode()), st.binary(max_size=4)),
)
masks = st.one_of(st.just(bytes(4)), st.binary(min_size=4, max_size=4))
mostly_true = st.integers(0, 3).map(bool)
data_frames = st.builds(
    client_frame,
    st.sampled_from([CONTINUATION, CONTINUATION, TEXT, TEXT, BINARY]),
    payloads,
    fin=st.booleans(),
    rsv=st.sampled_from([0, 0, 0, 0x40, 0x40]),
    mask=masks,
)
control_frames = st.one_of(
    st.builds(client_frame, st.sampled_from([PING, PONG]), st.binary(max_size=5), mask=masks),
    st.builds(client_frame, st.just(CLOSE), close_payloads, mask=masks),
)
odd_frames = st.builds(
    client_frame,
    st.integers(0, 15),
    payloads,
    fin=mostly_true,
    rsv=st.sampled_from([0, 0x10, 0x20, 0x40, 0x70]),
    mask=masks,
    length_bytes=st.sampled_from([2, 8]),
)


long_texts = ["\xe9" * 40, "\u20ac" * 30, "\U0001f600" * 20, "a" * 126]
texts = st.one_of(st.text(max_size=12), st.sampled_from(long_texts))


@st.composite
def fragmented_messages(draw):
    """A message in well-formed fragments, mostly valid, pings between: random frames rarely add up to one."""
    payload = draw(st.one_of(texts.map(str.encode), texts.map(str.encode), payloads))
    opcode, rsv = draw(st.sampled_from([(TEXT, 0), (TEXT, 0), (BINARY, 0), (TEXT, 0x40), (BINARY, 0x40)]))
    if rsv and draw(mostly_true):
        payload = compressed(payload)
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
    pieces = [payload[start:end] for start, end in itertools.pairwise([0, *cuts, len(payload)])]
    wire = b""
    for i, piece in enumerate(pieces):
        first, last = i == 0, i == len(pieces) - 1
        wire += client_frame(
            opcode if first else CONTINUATION, piece, fin=last, rsv=rsv if first else 0, mask=draw(masks)
        )
        if draw(st.booleans()):
            wire += client_frame(PING, b"p")
    return wire


# Some messages that mostly pass, so that what follows them is read at all; then anything.
wires = st.builds(
    lambda passing, rest: b"".join(passing + rest),
    st.lists(fragmented_messages(), max_size=3),
    st.lists(st.one_of(data_frames, control_frames, odd_frames, st.binary(max_size=16)), max_size=3),
)
limits = st.fixed_dictionaries(
    {
        "max_message_bytes": st.sampled_from([70_000, 70_000, 70_000, 500, 126, 125, 20, 1, 0]),
        "max_fragments": st.sampled_from([100, 100, 100, 3, 2, 1, 0]),
        "inflate": st.sampled_from([True, True, None]),
    }
)


@settings(max_examples=300, deadline=None)
@given(wire=wires, cuts=st.lists(st.integers(0, 400), max_size=30), limits=limits)
def test_any_bytes_however_cut_are_told_as_the_oracle_tells_them(wire, cuts, limits):
    compiled, twin = frames.Reader(**limits), oracle.Reader(**limits)
    ends = [*sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    for start, end in itertools.pairwise([0, *ends]):
        assert compiled.receive(wire[start:end]) == twin.receive(wire[start:end])


@settings(max_examples=100, deadline=None)
@given(wire=wires, limits=limits)
def test_any_bytes_one_by_one_are_told_as_the_oracle_tells_them_at_once(wire, limits):
    compiled = frames.Reader(**limits)
    one_by_one = [event for i in range(len(wire)) for event in compiled.receive(wire[i : i + 1])]
    assert one_by_one == oracle.Reader(**limits).receive(wire)


# --- unmask


def test_unmask_is_the_plain_loop_at_every_length_phase_and_alignment():
    source = bytes(i * 31 + 7 & 0xFF for i in range(128))
    for n, phase, offset in itertools.product(range(101), range(4), range(8)):
        buffer = bytearray(source)
        frames.unmask_buffer(memoryview(buffer)[offset : offset + n], MASK, phase)
        expected = bytes(byte ^ MASK[(phase + i) % 4] for i, byte in enumerate(source[offset : offset + n]))
        assert buffer[offset : offset + n] == expected
        assert buffer[:offset] + buffer[offset + n :] == source[:offset] + source[offset + n :], (
            "wrote outside"
        )


def test_unmask_refuses_a_key_that_is_not_4_bytes_and_a_buffer_it_may_not_write():
    with pytest.raises(ValueError, match="4 bytes"):
        frames.unmask_buffer(bytearray(8), b"abc")
    with pytest.raises(BufferError):
        frames.unmask_buffer(bytes(8), MASK)


# --- UTF-8 against the oracle and Python's own decoder


COMPLETIONS = [
    bytes([byte]) * n for byte in (0x80, 0xBF) for n in (1, 2, 3)
]  # of anything that can be completed


def decodes(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def python_state(data: bytes) -> str:
    # Not the incremental decoder: it holds a surrogate's first two bytes back, for surrogatepass.
    if decodes(data):
        return "complete"
    return "inside" if any(decodes(data + completion) for completion in COMPLETIONS) else "invalid"


def compiled_state(data: bytes) -> str:
    return {0: "complete", 1: "invalid"}.get(frames.utf8_state(data), "inside")


def oracle_state(data: bytes) -> str:
    validator = Validator()
    return "invalid" if not validator.feed(data) else "complete" if validator.complete else "inside"


EDGE_BYTES = bytes.fromhex("00 41 7f 80 8f 90 9f a0 bf c0 c1 c2 df e0 e1 ec ed ee ef f0 f1 f3 f4 f5 ff")


def test_utf8_of_every_two_bytes_and_of_every_edge_in_four():
    every_two = map(bytes, itertools.product(range(256), repeat=2))
    edges = map(
        bytes,
        itertools.product(
            b"\x41\xc2\xe0\xe1\xed\xef\xf0\xf1\xf4", EDGE_BYTES, b"\x7f\x80\xbf\xc0", EDGE_BYTES
        ),
    )
    for data in itertools.chain(every_two, edges):
        assert compiled_state(data) == oracle_state(data) == python_state(data), data.hex()


def test_utf8_takes_every_character_and_no_surrogate():
    characters = [chr(point) for point in range(0x110000) if not 0xD800 <= point <= 0xDFFF]
    assert frames.utf8_state("".join(characters).encode()) == 0
    for point in range(0xD800, 0xE000):
        assert frames.utf8_state(chr(point).encode("utf-8", "surrogatepass")) == 1


@pytest.mark.parametrize("tail", ["\N{EURO SIGN}", "\N{GRINNING FACE}", "\xe9"])
def test_utf8_character_anywhere_in_ascii_cut_anywhere(tail):
    for offset in range(40):
        data = b"a" * offset + tail.encode() + b"b" * (40 - offset)
        for cut in range(len(data) + 1):
            assert frames.utf8_state(data[cut:], frames.utf8_state(data[:cut])) == 0
            bad = data[:cut] + b"\xff" + data[cut:]
            assert frames.utf8_state(bad) == 1


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(
        st.one_of(st.binary(max_size=40), st.text(max_size=40).map(lambda text: text.encode())), max_size=6
    ),
    cut=st.integers(0, 200),
)
def test_utf8_of_any_bytes_however_cut_is_pythons_answer(pieces, cut):
    data = b"".join(pieces)
    in_two = frames.utf8_state(data[cut:], frames.utf8_state(data[:cut]))
    assert in_two == frames.utf8_state(data)
    assert compiled_state(data) == oracle_state(data) == python_state(data)


def test_utf8_rejects_for_good():
    assert frames.utf8_state(b"a" * 100, frames.utf8_state(b"\xff")) == 1


@pytest.mark.parametrize("state", [2, 5, 54, 2**31])
def test_utf8_refuses_a_state_it_never_gave(state):
    with pytest.raises(ValueError, match="no such state"):
        frames.utf8_state(b"", state)


def test_close_codes_a_peer_may_send():
    assert {code for code in range(65536) if frames.close_code_allowed(code)} == oracle.SENDABLE_CODES

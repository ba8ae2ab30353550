"""The PROXY protocol's two versions: against a twin in plain Python, in any number of pieces."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realtime.native.address import pack
from realtime.native.proxyproto import parse_proxy_header
from tests.oracles import proxyproto
from tests.oracles.proxyproto import SIGNATURE, BrokenHeaderError, v1, v2

ONES = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
V1_LONGEST = f"PROXY TCP6 {ONES} {ONES} 65535 65535\r\n".encode()

GOOD = [
    (v1("192.0.2.1", 1), "192.0.2.1", 1),
    (v1("192.0.2.1", 0), "192.0.2.1", 0),
    (v1("2001:db8::1", 65535), "2001:db8::1", 65535),
    (v1("::ffff:192.0.2.1", destination="::1"), "192.0.2.1", 56324),
    (V1_LONGEST, ONES, 65535),
    (b"PROXY UNKNOWN\r\n", None, 0),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None, 0),
    (v2("192.0.2.1", 7), "192.0.2.1", 7),
    (v2("2001:db8::1", 7), "2001:db8::1", 7),
    (v2("::ffff:192.0.2.1", 7), "192.0.2.1", 7),
    (v2("192.0.2.1", 7, checksum=True), "192.0.2.1", 7),
    (v2("2001:db8::1", 7, attached=[(1, b"h2"), (2, b"x.org"), (4, b"--")], checksum=True), "2001:db8::1", 7),
    (v2("192.0.2.1", 7, attached=[(0x20, b"\x01\0\0\0\0\x21\0\x07TLSv1.3")]), "192.0.2.1", 7),
    (v2("192.0.2.1", 7, attached=[(0x05, b"u" * 128), (0xE0, b"ours")]), "192.0.2.1", 7),
    (v2("192.0.2.1", 7, attached=[(0xE0, b"x" * (4096 - 16 - 12 - 3))]), "192.0.2.1", 7),
    (v2(command=0x20), None, 0),
    (v2("192.0.2.1", command=0x20), None, 0),
    (v2(command=0x20, family=0x77, attached=[(9, b"x")]), None, 0),
    (v2(), None, 0),
    (v2(attached=[(4, b"")]), None, 0),
    (SIGNATURE + b"\x21\x31\x00\xd8" + bytes(216), None, 0),
]  # fmt: skip

BAD = [
    (b"GET / HTTP/1.1\r\n", "there is none"),
    (b"PROXX", "there is none"),
    (b"\r\n\r\nGET", "there is none"),
    (SIGNATURE[:-1] + b"X" + b"\x21\x11\x00\x0c" + bytes(12), "there is none"),
    (b"PROXY " + b"x" * 101, "over 107 bytes"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2" + b" " * 69 + b"\r\n", "over 107 bytes"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2\n", "does not end in CR LF"),
    (b"PROXY \n", "does not end in CR LF"),
    (b"PROXY \r\n", "neither TCP4, TCP6 nor UNKNOWN"),
    (b"PROXY TCP5 192.0.2.1 198.51.100.1 1 2\r\n", "neither TCP4"),
    (b"PROXY tcp4 192.0.2.1 198.51.100.1 1 2\r\n", "neither TCP4"),
    (b"PROXY UNKNOWNS\r\n", "neither TCP4"),
    (b"PROXY  TCP4 192.0.2.1 198.51.100.1 1 2\r\n", "neither TCP4"),
    (b"PROXY TCP4 2001:db8::1 198.51.100.1 1 2\r\n", "an address that is not of its protocol"),
    (b"PROXY TCP6 192.0.2.1 198.51.100.1 1 2\r\n", "an address that is not of its protocol"),
    (b"PROXY TCP4 192.0.2.1  198.51.100.1 1 2\r\n", "an address that is not of its protocol"),
    (b"PROXY TCP4 192.0.2.01 198.51.100.1 1 2\r\n", "an address that is not of its protocol"),
    (b"PROXY TCP4 192.0.2.1\r\n", "an address that is not of its protocol"),
    (b"PROXY TCP6 fe80::1%1 ::1 1 2\r\n", "an address that is not of its protocol"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.1 65536 2\r\n", "a port that is no number"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.1 01 2\r\n", "a port that is no number"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.1 +1 2\r\n", "a port that is no number"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.1 1\r\n", "a port that is no number"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2 \r\n", "more in its line"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2 3\r\n", "more in its line"),
    (v2("192.0.2.1", command=0x11), "neither version 2"),
    (v2("192.0.2.1", command=0x22), "neither version 2"),
    (v2("192.0.2.1", family=0x12), "its family is unknown, or not one of streams"),
    (v2("192.0.2.1", family=0x41), "its family is unknown"),
    (v2("192.0.2.1", family=0x21), "shorter than the addresses of its family"),
    (v2("192.0.2.1", family=0x31), "shorter than the addresses of its family"),
    (SIGNATURE + b"\x21\x11\x0f\xf1", "over 4096 bytes"),
    (SIGNATURE + b"\x21\x11\xff\xff", "over 4096 bytes"),
    (SIGNATURE + b"\x21\x11\x00\x0e" + bytes(14), "does not fit into it"),
    (SIGNATURE + b"\x21\x11\x00\x0f" + bytes(12) + b"\x04\x00\x01", "does not fit into it"),
    (v2("192.0.2.1", attached=[(3, bytes(4))]), "its CRC-32C is wrong"),
    (v2("192.0.2.1", attached=[(3, bytes(3))]), "its CRC-32C is wrong"),
    (v2("192.0.2.1", 8, checksum=True).replace(b"\x00\x08", b"\x00\x09"), "its CRC-32C is wrong"),
    (v2("192.0.2.1", attached=[(0x20, bytes(4))]), "has not the length of its type"),
    (v2("192.0.2.1", attached=[(0x05, bytes(129))]), "has not the length of its type"),
]


@pytest.mark.parametrize(("data", "source", "port"), GOOD)
def test_a_header_is_read_in_any_pieces(data: bytes, source: str | None, port: int):
    for n in range(len(data)):
        assert parse_proxy_header(data[:n]) is None
    expected = (len(data), None if source is None else pack(source), port)
    assert parse_proxy_header(data) == expected == proxyproto.parse(data)
    assert parse_proxy_header(data + b"GET / HTTP/1.1\r\n\r\n") == expected


@pytest.mark.parametrize(("data", "said"), BAD)
def test_what_is_broken_is_refused_in_any_pieces(data: bytes, said: str):
    for n in range(len(data)):
        try:
            assert parse_proxy_header(data[:n]) is None
        except ValueError as error:
            assert said in str(error)  # noqa: PT017 - as soon as it shows, and not otherwise later
    with pytest.raises(ValueError, match=f"PROXY header: .*{said}"):
        parse_proxy_header(data)
    with pytest.raises(BrokenHeaderError):
        proxyproto.parse(data)


def changed(data: bytes) -> st.SearchStrategy[bytes]:
    """`data` with a few bytes exchanged, taken out or put in."""

    def change(edits: list[tuple[int, int, int]]) -> bytes:
        mutable = bytearray(data)
        for at, how, byte in edits:
            place = at % (len(mutable) + 1)
            mutable[place : place + (how > 0)] = b"" if how == 2 else bytes([byte])
        return bytes(mutable)

    edit = st.tuples(st.integers(0, 4096), st.integers(0, 2), st.integers(0, 255))
    return st.lists(edit, max_size=4).map(change)


@given(st.sampled_from([each for each, *_ in GOOD + BAD]).flatmap(changed) | st.binary(max_size=64))
@example(b"PROXY TCP4 192.0.2.1\0 198.51.100.1 1 2\r\n")
def test_any_bytes_are_read_as_the_twin_reads_them(data: bytes):
    try:
        expected = proxyproto.parse(data)
    except BrokenHeaderError:
        with pytest.raises(ValueError, match="PROXY header: "):
            parse_proxy_header(data)
    else:
        assert parse_proxy_header(data) == expected


def test_the_checksum_is_crc32c():
    assert proxyproto.crc32c(b"123456789") == 0xE3069283  # the check value of RFC 3720's CRC

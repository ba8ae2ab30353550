"""Request heads and handshakes: each malformed form has its status, and any bytes mean what the twin says."""

import base64
import email.utils
import hashlib
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.native.handshake import BadRequest, Request, accept_response, refusal_response
from tests.oracles import handshake as oracle
from tests.oracles.handshake import Limits, NeedMore, Parsed, Refused

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, 1.3

UPGRADE = (
    b"GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://example.com\r\n"
    b"Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
CHROME = (
    b"GET /ws/alice?v=1 HTTP/1.1\r\nHost: localhost:8000\r\nConnection: Upgrade\r\nPragma: no-cache\r\n"
    b"Cache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like "
    b"Gecko) Chrome/126.0.0.0 Safari/537.36\r\nUpgrade: websocket\r\nOrigin: http://localhost:8000\r\n"
    b"Sec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Accept-Language: en-US,en;q=0.9\r\nCookie: session=0123456789abcdef\r\n"
    b"Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    b"Sec-WebSocket-Protocol: realtime.v1.json\r\n\r\n"
)
PLAIN = b"GET /metrics?x=%20&y=1 HTTP/1.1\r\nHost: [::1]:8000\r\nX-Name: J\xf6rg\r\nAccept:\t*/* \r\n\r\n"
POST = b"POST http://a.example:80/p HTTP/1.0\r\nContent-Length: 12\r\nConnection: keep-alive\r\n\r\n"


def compiled(data: bytes, limits: Limits = Limits()) -> NeedMore | Refused | Parsed:  # noqa: B008 - frozen
    """The compiled parser's verdict in the oracle's words; `at` of a refusal is not its to say: 0."""
    try:
        request = Request.parse(
            data,
            head_bytes_max=limits.head_bytes,
            request_line_bytes_max=limits.request_line_bytes,
            headers_max=limits.headers,
        )
    except BadRequest as error:
        assert error.reason  # noqa: PT017 - one of many answers
        return Refused(error.status, 0)
    if request is None:
        return NeedMore()
    return Parsed(
        at=request.head_bytes,
        method=request.method,
        target=request.target,
        path=request.path,
        query=request.query,
        host=request.host,
        version=request.version,
        headers=request.headers,
        content_length=request.content_length,
        has_body=request.has_body,
        keep_alive=request.keep_alive,
        upgrade=upgrade_of(request),
    )


def upgrade_of(request: Request) -> bool | int:
    try:
        return request.is_upgrade()
    except BadRequest as error:
        return error.status


def assert_agree(data: bytes, lengths: list[int], limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
    """The twins agree on `data`, and on each of its beginnings: more is needed until the proof is there."""
    expected = oracle.parse(data, limits)
    for length in lengths:
        found = compiled(data[:length], limits)
        if isinstance(expected, NeedMore) or length < expected.at:
            assert found == NeedMore(), data[:length]
        elif isinstance(expected, Refused):
            assert found == Refused(expected.status, 0), data[:length]
        else:
            assert found == expected, data[:length]


def plain(line: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n"


def handshake(*changes: tuple[bytes, bytes], method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    """A valid handshake with each (old, new) replaced; `old` must be in it."""
    head = UPGRADE.replace(b"GET", method).replace(b"HTTP/1.1", b"HTTP/" + version)
    for old, new in changes:
        assert old in head
        head = head.replace(old, new)
    return head


# What each says: False plain HTTP, True a handshake to accept, a number the status of the refusal.
CASES: list[tuple[str, bytes, bool | int]] = [
    # Request lines that are fine.
    ("RFC 6455's example", UPGRADE, True),
    ("a browser's handshake", CHROME, True),
    ("plain request", PLAIN, False),
    ("one empty line before it", b"\r\n" + UPGRADE, True),
    ("absolute form", handshake((b"/chat ", b"http://other.example:81/chat?a=b ")), True),
    ("absolute form, https, upper case", handshake((b"/chat ", b"HTTPS://h/x ")), True),
    ("absolute form without a path", handshake((b"/chat ", b"http://h ")), True),
    ("absolute form, query but no path", handshake((b"/chat ", b"http://h?a=/b ")), True),
    ("minor version above ours", handshake(version=b"1.7"), True),
    ("HTTP/1.0, no Host", b"GET / HTTP/1.0\r\n\r\n", False),
    ("what browsers leave in a query", b"GET /?a={|}^`[]\\ HTTP/1.1\r\nHost: a\r\n\r\n", False),
    ("any token is a method", b"PURGE! / HTTP/1.1\r\nHost: a\r\n\r\n", False),
    # Request lines that are not.
    ("TLS on the plain port", b"\x16\x03\x01\x02\x00\x01", 400),
    ("two empty lines before it", b"\r\n\r\n" + UPGRADE, 400),
    ("bare LF before it", b"\n" + UPGRADE, 400),
    ("bare CR before it", b"\rGET / HTTP/1.1\r\n", 400),
    ("space before the method", b" GET / HTTP/1.1\r\n", 400),
    ("method is no token", b"G@T / HTTP/1.1\r\n", 400),
    ("method without end", b"A" * 25, 501),
    ("two spaces", b"GET  / HTTP/1.1\r\n", 400),
    ("tab for a space", b"GET\t/ HTTP/1.1\r\n", 400),
    ("space in the target", b"GET /a b HTTP/1.1\r\n", 400),
    ("HTTP/0.9", b"GET /\r\n", 400),
    ("NUL in the target", b"GET /\0 HTTP/1.1\r\n", 400),
    ("CR in the target", b"GET /\rX HTTP/1.1\r\n", 400),
    ("high byte in the target", b"GET /\xc3\xa4 HTTP/1.1\r\n", 400),
    ("fragment", b"GET /#a HTTP/1.1\r\n", 400),
    ("markup in the target", b"GET /<script> HTTP/1.1\r\n", 400),
    ("asterisk form", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("authority form", b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 400),
    ("authority form that starts like a URL", b"CONNECT host:80 HTTP/1.1\r\n", 400),
    ("relative target", b"GET chat HTTP/1.1\r\n", 400),
    ("scheme of a WebSocket", b"GET ws://a/ HTTP/1.1\r\n", 400),
    ("absolute form without a host", b"GET http:///a HTTP/1.1\r\n", 400),
    ("absolute form with userinfo", b"GET http://u@a/ HTTP/1.1\r\n", 400),
    ("absolute form with a bad port", b"GET http://a:8x/ HTTP/1.1\r\n", 400),
    ("absolute form, one slash", b"GET http:/a HTTP/1.1\r\n", 400),
    ("HTTP/2 by prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ("HTTP/2.0", b"GET / HTTP/2.0\r\n", 505),
    ("HTTP/0.9, spelt out", b"GET / HTTP/0.9\r\n", 505),
    ("HTTP/11.1", b"GET / HTTP/11.1\r\n", 400),
    ("lower-case http/1.1", b"GET / http/1.1\r\n", 400),
    ("no minor version", b"GET / HTTP/1\r\n", 400),
    ("two digits of minor version", b"GET / HTTP/1.10\r\n", 400),
    ("space after the version", b"GET / HTTP/1.1 \r\n", 400),
    ("bare LF after the request line", b"GET / HTTP/1.1\nHost: a\n\n", 400),
    ("bare CR after the request line", b"GET / HTTP/1.1\rHost: a\r\r", 400),
    ("request line of 8193 bytes", b"GET /" + b"a" * 8177 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    ("request line of 8192 bytes", b"GET /" + b"a" * 8176 + b" HTTP/1.1\r\nHost: a\r\n\r\n", False),
    ("8192 bytes after an empty line", b"\r\nGET /" + b"a" * 8176 + b" HTTP/1.1\r\nHost: a\r\n\r\n", False),
    ("8193 bytes after an empty line", b"\r\nGET /" + b"a" * 8177 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    # Host.
    ("no Host", b"GET / HTTP/1.1\r\nAccept: */*\r\n\r\n", 400),
    ("two Hosts", plain(b"Host: b\r\n"), 400),
    ("two equal Hosts", plain(b"hOST: a\r\n"), 400),
    ("two Hosts in HTTP/1.0", b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    ("two Hosts joined by a proxy", handshake((b"server.example.com", b"a,b")), 400),
    ("empty Host", handshake((b"server.example.com", b"")), 400),
    ("Host with a path", handshake((b"server.example.com", b"a/b")), 400),
    ("Host with userinfo", handshake((b"server.example.com", b"u@a")), 400),
    ("Host with a space", handshake((b"server.example.com", b"a b")), 400),
    ("Host with a bad port", handshake((b"server.example.com", b"a:http")), 400),
    ("Host with a port of six digits", handshake((b"server.example.com", b"a:100000")), 400),
    ("Host that is only a port", handshake((b"server.example.com", b":80")), 400),
    ("Host with an open bracket", handshake((b"server.example.com", b"[::1")), 400),
    ("Host with empty brackets", handshake((b"server.example.com", b"[]")), 400),
    ("Host with an address too short", handshake((b"server.example.com", b"[:]")), 400),
    ("Host with text after the bracket", handshake((b"server.example.com", b"[::1]a")), 400),
    ("Host in UTF-8", handshake((b"server.example.com", "ä.example".encode())), 400),
    ("Host with an empty port", handshake((b"server.example.com", b"a:")), True),
    ("Host that is an IPv6 address", handshake((b"server.example.com", b"[2001:db8::1]:65535")), True),
    # Fields.
    ("space before the colon", plain(b"X : a\r\n"), 400),
    ("tab before the colon", plain(b"X\t: a\r\n"), 400),
    ("no colon", plain(b"X\r\n"), 400),
    ("no name", plain(b": a\r\n"), 400),
    ("name is no token", plain(b"X(y): a\r\n"), 400),
    ("high byte in a name", plain(b"X\xe4: a\r\n"), 400),
    ("folded line", plain(b"X: a\r\n b\r\n"), 400),
    ("folded with a tab", plain(b"X: a\r\n\tb\r\n"), 400),
    ("white space before the first field", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    ("bare LF after a field", plain(b"X: a\nY: b\r\n"), 400),
    ("bare CR in a value", plain(b"X: a\rY: b\r\n"), 400),
    ("CR CR LF", plain(b"X: a\r\r\n"), 400),
    ("NUL in a value", plain(b"X: a\0b\r\n"), 400),
    ("DEL in a value", plain(b"X: a\x7fb\r\n"), 400),
    ("vertical tab in a value", plain(b"X: \x0ba\r\n"), 400),
    ("bare LF at the end", b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    ("bare CR at the end", b"GET / HTTP/1.1\r\nHost: a\r\n\rX", 400),
    ("empty value", plain(b"X:\r\n"), False),
    ("value of nothing but white space", plain(b"X: \t \r\n"), False),
    ("tab and high bytes in a value", plain(b"X: a\tb\xff\x80\r\n"), False),
    ("100 fields", plain(b"X: y\r\n" * 99), False),
    ("101 fields", plain(b"X: y\r\n" * 100), 431),
    ("head of 16 KiB", plain(b"X: " + b"a" * (16384 - len(plain(b"X: \r\n"))) + b"\r\n"), False),
    ("head of 16 KiB and a byte", plain(b"X: " + b"a" * (16385 - len(plain(b"X: \r\n"))) + b"\r\n"), 431),
    # Bodies and their framing.
    ("body", plain(b"Content-Length: 5\r\n"), False),
    ("chunked body", plain(b"Transfer-Encoding: Chunked\r\n"), False),
    ("length past 64 bits", plain(b"Content-Length: 99999999999999999999999\r\n"), False),
    ("both framings", plain(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 400),
    (
        "both framings, the other way round",
        plain(b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"),
        400,
    ),
    ("two lengths", plain(b"Content-Length: 5\r\nContent-Length: 6\r\n"), 400),
    ("two equal lengths", plain(b"Content-Length: 5\r\nContent-Length: 5\r\n"), 400),
    ("list of lengths", plain(b"Content-Length: 5, 5\r\n"), 400),
    ("signed length", plain(b"Content-Length: +5\r\n"), 400),
    ("negative length", plain(b"Content-Length: -1\r\n"), 400),
    ("hexadecimal length", plain(b"Content-Length: 0x5\r\n"), 400),
    ("empty length", plain(b"Content-Length:\r\n"), 400),
    ("coding that is not ours", plain(b"Transfer-Encoding: gzip, chunked\r\n"), 501),
    ("chunked, hidden", plain(b"Transfer-Encoding: xchunked\r\n"), 501),
    ("chunked with a parameter", plain(b"Transfer-Encoding: chunked;a=b\r\n"), 501),
    ("chunked twice", plain(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400),
    ("identity after chunked", plain(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"), 400),
    ("chunked in HTTP/1.0", b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    # Handshakes that are fine.
    ("Connection is a list", handshake((b"Connection: Upgrade", b"Connection: keep-alive, Upgrade")), True),
    ("lists with holes", handshake((b"Connection: Upgrade", b"connection: ,,\tuPGRADE ,,")), True),
    ("lists over two lines", handshake((b"Connection: ", b"Connection: keep-alive\r\nConnection: ")), True),
    ("Upgrade is a list", handshake((b"websocket\r\n", b"h2c, WebSocket\r\n")), True),
    ("names and values in any case", handshake((b"Upgrade: websocket", b"UPGRADE: WEBSOCKET")), True),
    ("body of no bytes", handshake((b"Origin: ", b"Content-Length: 0\r\nOrigin: ")), True),
    ("white space around the key", handshake((KEY, b"\t " + KEY + b" \t")), True),
    (
        "upgrade to something else",
        handshake((b"websocket\r\n", b"h2c\r\n"), (b"Sec-WebSocket-", b"X-")),
        False,
    ),
    # Handshakes that are not.
    ("POST", handshake(method=b"POST"), 405),
    ("HEAD", handshake(method=b"HEAD"), 405),
    ("lower-case get", handshake(method=b"get"), 405),
    ("longer than GET", handshake(method=b"GETS"), 405),
    ("HTTP/1.0", handshake(version=b"1.0"), 400),
    ("no Upgrade", handshake((b"Upgrade: websocket\r\n", b"")), 400),
    ("other Upgrade", handshake((b"websocket\r\n", b"websocket2\r\n")), 400),
    ("Upgrade with a version", handshake((b"websocket\r\n", b"websocket/13\r\n")), 400),
    ("no Connection", handshake((b"Connection: Upgrade\r\n", b"")), 400),
    ("Connection: close", handshake((b"Connection: Upgrade", b"Connection: close")), 400),
    ("Connection: upgraded", handshake((b"Connection: Upgrade", b"Connection: upgraded, up, grade")), 400),
    ("nothing but Upgrade", plain(b"Upgrade: websocket\r\n"), 400),
    ("nothing but a key", plain(b"Sec-WebSocket-Key: " + KEY + b"\r\n"), 400),
    ("nothing but a version", plain(b"Sec-WebSocket-Version: 13\r\n"), 400),
    ("no version", handshake((b"Sec-WebSocket-Version: 13\r\n", b"")), 426),
    ("version 8", handshake((b"Version: 13", b"Version: 8")), 426),
    ("version 013", handshake((b"Version: 13", b"Version: 013")), 426),
    ("version 130", handshake((b"Version: 13", b"Version: 130")), 426),
    ("list of versions", handshake((b"Version: 13", b"Version: 13, 8")), 426),
    ("empty version", handshake((b"Version: 13", b"Version:")), 426),
    ("two versions", handshake((b"Version: 13", b"Version: 13\r\nSec-WebSocket-Version: 8")), 400),
    ("empty version, then ours", handshake((b"Version: 13", b"Version:\r\nSec-WebSocket-Version: 13")), 400),
    ("no key", handshake((b"Sec-WebSocket-Key: " + KEY + b"\r\n", b"")), 400),
    ("empty key", handshake((KEY, b"")), 400),
    ("two keys", handshake((b"Origin: ", b"Sec-WebSocket-Key: " + KEY + b"\r\nOrigin: ")), 400),
    ("key of 15 bytes", handshake((KEY, base64.b64encode(b"a" * 15))), 400),
    ("key of 17 bytes", handshake((KEY, base64.b64encode(b"a" * 17))), 400),
    ("key of 18 bytes", handshake((KEY, base64.b64encode(b"a" * 18))), 400),
    ("key with a wrong first character", handshake((KEY, b"_" + KEY[1:])), 400),
    ("key with a wrong last character", handshake((KEY, KEY[:21] + b"_==")), 400),
    ("key in another alphabet", handshake((KEY, b"____________________--==")), 400),
    ("key with a hole", handshake((KEY, b"AAAAAAAAAAAA AAAAAAAAA==")), 400),
    ("key with padding inside", handshake((KEY, b"AA==AAAAAAAAAAAAAAAAAA==")), 400),
    ("body", handshake((b"Origin: ", b"Content-Length: 5\r\nOrigin: ")), 400),
    ("chunked body on a handshake", handshake((b"Origin: ", b"Transfer-Encoding: chunked\r\nOrigin: ")), 400),
]


@pytest.mark.parametrize(("data", "outcome"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_form_of_request_has_its_verdict(data: bytes, outcome: bool | int) -> None:
    for parse in (compiled, oracle.parse):
        verdict = parse(data)
        if isinstance(verdict, Refused):
            assert verdict.status == outcome, parse
        else:
            assert isinstance(verdict, Parsed), parse
            assert verdict.upgrade is outcome or (verdict.upgrade == outcome and outcome > 1), parse


@pytest.mark.parametrize("data", [case[1] for case in CASES], ids=[case[0] for case in CASES])
def test_every_beginning_waits_until_the_verdict_is_proven(data: bytes) -> None:
    verdict = oracle.parse(data)
    assert not isinstance(verdict, NeedMore)
    near = range(max(0, verdict.at - 400), min(len(data), verdict.at + 40) + 1)
    assert_agree(data, [*range(0, len(data), 97), *near])


def test_no_control_character_hides_in_a_long_value() -> None:
    # Values are looked through eight bytes at a time: each character at each place, from each start.
    for code in range(256):
        bad = (code < 0x20 and code != 0x09) or code == 0x7F
        for at in range(17):
            value = b"\x80~\t a\xff"[at % 5 :] * 3 + b"x" * at + bytes([code]) + b"y" * (17 - at)
            data = plain(b"X: " + value + b"z\r\n")
            expected = Refused(400, 0) if bad else oracle.parse(data)
            assert compiled(data) == expected, (code, at)


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (b"\n", 400),
        (b"\0", 400),
        (b"GET\t", 400),
        (b"GET *", 400),
        (b"GET /\n", 400),
        (b"GET / HTTP/2", 505),
        (b"GET / HTTP/1.1\n", 400),
        (b"GET / HTTP/1.1\r\nA ", 400),
        (b"GET / HTTP/1.1\r\nA: b\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
    ],
)
def test_an_error_is_answered_at_the_byte_that_proves_it(start: bytes, status: int) -> None:
    assert oracle.parse(start) == Refused(status, len(start))
    assert_agree(start, list(range(len(start) + 1)))


BASES = [UPGRADE, CHROME, PLAIN, POST, handshake((b"/chat ", b"http://h?q "))]
PIECES = [
    *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b"\0", b":", b",", b"=", b"\x7f", b"\xe4", b"a", b"0"),
    *(b"Host: b\r\n", b"Content-Length: 0\r\n", b"Content-Length: 7\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"Transfer-Encoding: gzip\r\n", b"Connection: close\r\n", b"Connection: keep-alive,\r\n", b"X: y\r\n "),
    *(b"Upgrade: h2c\r\n", b"Sec-WebSocket-Version: 13\r\n", b"Sec-WebSocket-Key: " + KEY + b"\r\n"),
    *(
        b"http://",
        b"https://a:1",
        b"?",
        b"/",
        b"HTTP/1.0",
        b"HTTP/2.0",
        b"GET ",
        b"POST ",
        b"websocket",
        b"*",
    ),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid request after a few changes: insert, delete, overwrite, repeat a line, change case."""
    data = draw(st.sampled_from(BASES))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        to = min(len(data), at + draw(st.integers(0, 12)))
        kind = draw(st.sampled_from(["insert", "line", "delete", "overwrite", "byte", "repeat", "case"]))
        if kind == "line":  # an insertion where a field may stand
            at = to = data.find(b"\r\n", at) + 2 if b"\r\n" in data[at:] else 0
            kind = "insert"
        piece = draw(st.sampled_from(PIECES))
        new = {
            "insert": piece + data[at:to],
            "delete": b"",
            "overwrite": piece,
            "byte": bytes([draw(st.integers(0, 255))]) + data[at + 1 : to],
            "repeat": data[at:to] * 2,
            "case": data[at:to].swapcase(),
        }[kind]
        data = data[:at] + new + data[to:]
    return data


@given(mutated(), st.data())
@settings(max_examples=500, deadline=None)
def test_any_request_means_what_the_oracle_says_at_every_split(data: bytes, draw: st.DataObject) -> None:
    verdict = oracle.parse(data)
    at = len(data) if isinstance(verdict, NeedMore) else verdict.at
    splits = draw.draw(st.lists(st.integers(0, len(data)), max_size=8))
    assert_agree(data, [*splits, at - 1, at, len(data)] if at else [0])


@given(
    mutated(),
    st.builds(Limits, st.integers(1, 500), st.integers(1, 60), st.integers(0, 20)),
)
@settings(max_examples=200, deadline=None)
def test_any_limits_hold_at_the_same_byte(data: bytes, limits: Limits) -> None:
    assert_agree(data, list(range(len(data) + 1)), limits)


@given(st.binary(max_size=80))
@settings(max_examples=150, deadline=None)
def test_any_bytes_after_a_good_start_are_judged_alike(tail: bytes) -> None:
    for start in (b"", b"GET /", b"GET http://", b"GET / HTTP/1.1\r\nHost: a\r\nX: "):
        assert_agree(start + tail, list(range(len(start) + len(tail) + 1)))


@given(
    names=st.lists(st.from_regex(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,30}", fullmatch=True), max_size=20),
    value=st.from_regex(
        r"[\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?", fullmatch=True
    ),
)
@settings(max_examples=80, deadline=None)
def test_fields_come_back_as_they_were_sent(names: list[str], value: str) -> None:
    meaning = ("host", "content-length", "transfer-encoding", "sec-websocket-key", "sec-websocket-version")
    fields = [(name, value) for name in names if name.lower() not in meaning]
    lines = "".join(f"{name}: \t{value}\t \r\n" for name, value in fields)
    request = Request.parse(b"GET / HTTP/1.1\r\nHost: a\r\n" + lines.encode("latin-1") + b"\r\n")
    assert request is not None
    assert request.headers == [("Host", "a"), *fields]
    for name, _ in fields:
        repeated = sum(other.lower() == name.lower() for other, _ in fields)
        assert request.header(name.swapcase()) == ", ".join([value] * repeated)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("x-name", "J\xf6rg"),
        ("X-NAME", "J\xf6rg"),
        ("accept", "*/*"),
        ("X-Nam", None),
        ("", None),
        ("accep\x54", "*/*"),
        ("\u0130", None),
        ("ac\u20acept", None),
    ],
)
def test_a_header_is_found_in_any_case_and_only_by_its_name(asked: str, found: str | None) -> None:
    request = Request.parse(PLAIN)
    assert request is not None
    assert request.header(asked) == found


def test_names_that_differ_in_one_bit_are_different_names() -> None:
    # Bit 5 tells A from a, but also ^ from ~ and @ from `.
    request = Request.parse(plain(b"x^: 1\r\nx~: 2\r\nUpgrade: web\x73ocket\r\nUpgrad\x45: h2c\r\n"))
    assert request is not None
    assert (request.header("x^"), request.header("x~")) == ("1", "2")
    assert request.header("x\x7e") == "2"
    assert request.header("upgrade") == "websocket, h2c"


def test_a_pathless_url_asks_for_the_root() -> None:
    request = Request.parse(b"GET http://a:1?x=/ HTTP/1.1\r\nHost: b\r\n\r\n")
    assert request is not None
    assert (request.path, request.query, request.host) == ("/", "x=/", "a:1")  # the target wins over Host


def test_only_the_head_is_taken() -> None:
    request = Request.parse(UPGRADE + b"\x81\x85rest")
    assert request is not None
    assert request.head_bytes == len(UPGRADE)


def test_a_request_is_made_by_parsing_only() -> None:
    with pytest.raises(TypeError):
        Request()


def test_a_refusal_says_why() -> None:
    with pytest.raises(BadRequest, match="400: more than one Host"):
        Request.parse(plain(b"Host: b\r\n"))


# Answers.


def test_the_example_of_the_rfc_is_accepted_as_it_says() -> None:
    assert accept_response(KEY, b"chat") == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    )


@given(st.binary(min_size=24, max_size=24))
def test_the_accept_key_is_what_hashlib_says(key: bytes) -> None:
    expected = base64.b64encode(hashlib.sha1(key + GUID).digest())
    assert f"\r\nSec-WebSocket-Accept: {expected.decode()}\r\n".encode() in accept_response(key)


def test_many_keys_in_a_row_get_their_own_answers() -> None:
    seed = random.randrange(2**32)
    keys = random.Random(seed)
    for _ in range(2000):
        key = base64.b64encode(keys.randbytes(16))
        expected = base64.b64encode(hashlib.sha1(key + GUID).digest())
        assert expected in accept_response(key), f"seed {seed}"


@pytest.mark.parametrize("extensions", [b"", b"permessage-deflate; server_no_context_takeover"])
@pytest.mark.parametrize("subprotocol", [b"", b"realtime.v1.json"])
def test_an_answer_fits_exactly_or_is_not_written(subprotocol: bytes, extensions: bytes) -> None:
    whole = accept_response(KEY, subprotocol, extensions)
    lines = whole.split(b"\r\n")
    assert (b"Sec-WebSocket-Protocol: " + subprotocol in lines) == bool(subprotocol)
    assert (b"Sec-WebSocket-Extensions: " + extensions in lines) == bool(extensions)
    assert lines[-2:] == [b"", b""]
    assert accept_response(KEY, subprotocol, extensions, capacity=len(whole)) == whole
    for capacity in range(len(whole)):
        with pytest.raises(ValueError, match="fit"):
            accept_response(KEY, subprotocol, extensions, capacity=capacity)


@pytest.mark.parametrize(
    ("subprotocol", "extensions"),
    [(b"a\r\nX: y", b""), (b"a b", b""), (b"a,b", b""), (b"", b"a\r\nX: y"), (b"", b"a\nb"), (b"", b"a\0")],
)
def test_nothing_can_be_injected_into_an_answer(subprotocol: bytes, extensions: bytes) -> None:
    with pytest.raises(ValueError, match="header field"):
        accept_response(KEY, subprotocol, extensions)


@pytest.mark.parametrize("key", [b"", KEY[:-1], KEY + b"="])
def test_only_a_key_of_24_characters_is_answered(key: bytes) -> None:
    with pytest.raises(ValueError, match="24"):
        accept_response(key)


@pytest.mark.parametrize(
    ("status", "line", "demanded"),
    [
        (400, b"400 Bad Request", set()),
        (403, b"403 Forbidden", set()),
        (405, b"405 Method Not Allowed", {b"Allow: GET"}),
        (408, b"408 Request Timeout", set()),
        (414, b"414 URI Too Long", set()),
        (426, b"426 Upgrade Required", {b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"}),
        (429, b"429 Too Many Requests", set()),
        (431, b"431 Request Header Fields Too Large", set()),
        (503, b"503 Service Unavailable", set()),
        (599, b"599 ", set()),
    ],
)
def test_a_refusal_is_a_whole_response(status: int, line: bytes, demanded: set[bytes]) -> None:
    before = int(time.time()) - 1  # time(2) reads a coarser clock, which may be a tick behind
    whole = refusal_response(status, b"because\n", b"Retry-After: 3\r\nX: y\r\n")
    head, _, body = whole.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    assert first == b"HTTP/1.1 " + line
    assert body == b"because\n"
    date = next(line for line in lines if line.startswith(b"Date: "))
    assert before <= email.utils.parsedate_to_datetime(date[6:].decode()).timestamp() <= time.time()
    close = b"Connection: close, Upgrade" if status == 426 else b"Connection: close"
    assert set(lines) - {date} == demanded | {
        close,
        b"Content-Type: text/plain; charset=utf-8",
        b"Content-Length: 8",
        b"X-Content-Type-Options: nosniff",
        b"Content-Security-Policy: default-src 'none'; frame-ancestors 'none'",
        b"Cross-Origin-Resource-Policy: same-origin",
        b"Retry-After: 3",
        b"X: y",
    }
    assert refusal_response(status, b"because\n", b"Retry-After: 3\r\nX: y\r\n", capacity=len(whole))
    with pytest.raises(ValueError, match="fit"):
        refusal_response(status, b"because\n", b"Retry-After: 3\r\nX: y\r\n", capacity=len(whole) - 1)


@pytest.mark.parametrize(
    "headers",
    [b"X: y", b"X: y\r\n\r\n", b"X: y\n", b"X y\r\n", b" X: y\r\n", b"X: y\r\n\r\nHTTP/1.1 200", b"\r\n"],
)
def test_a_refusal_carries_whole_field_lines_only(headers: bytes) -> None:
    with pytest.raises(ValueError, match="field lines"):
        refusal_response(400, b"", headers)

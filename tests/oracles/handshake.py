"""The request head parser and the WebSocket upgrade rules in plain Python: what `native/httphead.pyx` means.

Written from RFC 9110, 9112 and 6455 as a grammar and not as a scanner: a regular expression finds how far the
bytes seen can still become a valid line, and the byte after that is the one that proves the error.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field

METHOD_BYTES_MAX = 24
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
TARGET = rb"[!$-;=?-~]"  # visible ASCII without " # < >
HOST = rb"[!$%&'()*+\-.0-9;=A-Z_a-z~]"
VALID_HOST = re.compile(rb"(?:" + HOST + rb"+|\[(?:" + HOST + rb"|:){2,}\])(?::[0-9]{0,5})?")


@dataclass(frozen=True)
class Limits:
    head_bytes: int = 16384
    request_line_bytes: int = 8192
    headers: int = 100


@dataclass(frozen=True)
class NeedMore:
    """Nothing is wrong so far."""


@dataclass(frozen=True)
class Refused:
    """The first `at` bytes prove the error, and no fewer."""

    status: int
    at: int


@dataclass
class Parsed:
    """A whole head, `at` bytes long."""

    at: int
    method: str
    target: str
    path: str
    query: str
    host: str
    version: str
    headers: list[tuple[str, str]]
    content_length: int
    has_body: bool
    keep_alive: bool
    upgrade: bool | int  # an int is the status of a refusal


@dataclass
class Seen:
    """What the fields said so far."""

    version: str
    values: dict[str, list[bytes]] = field(default_factory=dict)

    def elements(self, name: str) -> set[bytes]:
        joined = b",".join(self.values.get(name, []))
        return {element.strip(b" \t").lower() for element in joined.split(b",")}

    def add(self, name: str, value: bytes) -> int:
        """Take down a field and return the status it causes, or 0."""
        again = name in self.values
        self.values.setdefault(name, []).append(value)
        if name in ("host", "sec-websocket-key", "sec-websocket-version", "content-length") and again:
            return 400
        if name == "host" and not VALID_HOST.fullmatch(value):
            return 400
        if "content-length" in self.values and "transfer-encoding" in self.values:
            return 400
        if name == "content-length" and not re.fullmatch(rb"[0-9]+", value):
            return 400
        if name == "transfer-encoding" and (again or self.version == "1.0"):
            return 400
        if name == "transfer-encoding" and value.lower() != b"chunked":
            return 501
        return 0


def prefixes(*parts: bytes) -> bytes:
    """Return an expression for every beginning of the parts' sequence; it matches as far as it can."""
    expression = b""
    for part in reversed(parts):
        expression = b"(?:" + part + expression + b")?"
    return expression


def letters(text: bytes) -> list[bytes]:
    return [re.escape(text[i : i + 1]) for i in range(len(text))]


VERSION_AND_END = [*letters(b" HTTP/1."), rb"[0-9]", rb"\r", rb"\n"]
ORIGIN_FORM = prefixes(b"/", TARGET + b"*", *VERSION_AND_END)
AFTER_AUTHORITY = rb"(?:[/?]" + TARGET + b"*)?" + prefixes(*VERSION_AND_END)
ABSOLUTE_FORM = prefixes(
    *(rb"[hH]", rb"[tT]", rb"[tT]", rb"[pP]", rb"[sS]?", b":", b"/", b"/"),
    b"(?P<authority>(?:" + HOST + rb"|[:\[\]])*)" + AFTER_AUTHORITY,
)
METHOD = TOKEN + b"{1,%d}" % METHOD_BYTES_MAX
REQUEST_LINE = re.compile(prefixes(METHOD, b" ", b"(?:(?=[hH])" + ABSOLUTE_FORM + b"|" + ORIGIN_FORM + b")"))
WHOLE_REQUEST_LINE = re.compile(
    rb"(?P<method>" + TOKEN + rb"+) (?P<target>(?:[hH][tT][tT][pP][sS]?://(?P<authority>[^/? ]*))?"
    rb"(?P<path>[^? ]*)(?:\?(?P<query>[^ ]*))?) HTTP/1\.(?P<minor>[0-9])\r\n"
)
FIELD_LINE = re.compile(prefixes(TOKEN + b"+", b":", rb"[\t\x20-\x7e\x80-\xff]*", rb"\r", rb"\n"))


def parse(data: bytes, limits: Limits = Limits()) -> NeedMore | Refused | Parsed:
    """Judge the head that `data` starts with."""
    cut = data[: limits.head_bytes]
    verdict = parse_cut(cut, limits)
    if isinstance(verdict, NeedMore) and len(data) >= limits.head_bytes:
        return Refused(431, limits.head_bytes)
    return verdict


def parse_cut(data: bytes, limits: Limits) -> NeedMore | Refused | Parsed:
    start = 0
    if data.startswith(b"\r"):
        if data[1:2] not in (b"", b"\n"):
            return Refused(400, 2)
        start = 2
    line = data[start : start + limits.request_line_bytes]
    verdict = judge_request_line(line)
    if isinstance(verdict, Refused):
        return Refused(verdict.status, verdict.at + start)
    if isinstance(verdict, NeedMore):
        if len(line) == limits.request_line_bytes:
            return Refused(414, start + limits.request_line_bytes)
        return verdict
    return parse_fields(data, start + verdict.end(), verdict, limits)


def judge_request_line(line: bytes) -> NeedMore | Refused | re.Match[bytes]:
    """`line` may be the beginning of one, or go on with what comes after it."""
    found = REQUEST_LINE.match(line)
    assert found is not None  # it matches the empty beginning too
    good = found.end()
    authority = found["authority"]
    if authority is not None:
        end = line[found.end("authority") :][:1]
        if end and (end not in b"/? " or not VALID_HOST.fullmatch(authority)):
            return Refused(400, found.end("authority") + 1)
    if whole := WHOLE_REQUEST_LINE.match(line[:good]):
        return whole
    if good == len(line):
        return NeedMore()
    if good == METHOD_BYTES_MAX and re.match(TOKEN, line[good:]) and b" " not in line[:good]:
        return Refused(501, good + 1)
    if line[:good].endswith(b" HTTP/") and line[good : good + 1].isdigit():
        return Refused(505, good + 1)
    return Refused(400, good + 1)


def parse_fields(
    data: bytes, at: int, request_line: re.Match[bytes], limits: Limits
) -> NeedMore | Refused | Parsed:
    seen = Seen("1.0" if request_line["minor"] == b"0" else "1.1")
    headers: list[tuple[str, str]] = []
    while data[at : at + 1] not in (b"", b"\r"):
        if len(headers) == min(limits.headers, 100):
            return Refused(431, at + 1)
        found = FIELD_LINE.match(data, at)
        assert found is not None
        if not found[0].endswith(b"\n"):
            return NeedMore() if found.end() == len(data) else Refused(400, found.end() + 1)
        at = found.end()
        name, _, value = found[0][:-2].partition(b":")
        headers.append((name.decode("ascii"), value.strip(b" \t").decode("latin-1")))
        if status := seen.add(name.decode("ascii").lower(), value.strip(b" \t")):
            return Refused(status, at)
    if len(data) < at + 2:
        return NeedMore()
    if data[at : at + 2] != b"\r\n" or ("host" not in seen.values and seen.version == "1.1"):
        return Refused(400, at + 2)
    return whole_request(at + 2, request_line, seen, headers)


def whole_request(
    at: int, request_line: re.Match[bytes], seen: Seen, headers: list[tuple[str, str]]
) -> Parsed:
    text = {name: (value or b"").decode("ascii") for name, value in request_line.groupdict().items()}
    length = min(int(seen.values.get("content-length", [b"0"])[0]), 2**63)
    connection = seen.elements("connection")
    return Parsed(
        at=at,
        method=text["method"],
        target=text["target"],
        path=text["path"] or "/",
        query=text["query"],
        host=text["authority"] or seen.values.get("host", [b""])[0].decode("ascii"),
        version=seen.version,
        headers=headers,
        content_length=length,
        has_body=length > 0 or "transfer-encoding" in seen.values,
        keep_alive=b"close" not in connection and (seen.version == "1.1" or b"keep-alive" in connection),
        upgrade=judge_upgrade(text["method"], seen, length),
    )


def judge_upgrade(method: str, seen: Seen, content_length: int) -> bool | int:
    """False: plain HTTP. True: a WebSocket handshake to accept. Else the status of its refusal."""
    asked = b"websocket" in seen.elements("upgrade")
    if not asked and "sec-websocket-key" not in seen.values and "sec-websocket-version" not in seen.values:
        return False
    if method != "GET":
        return 405
    if seen.version == "1.0" or content_length or "transfer-encoding" in seen.values:
        return 400
    if not asked or b"upgrade" not in seen.elements("connection"):
        return 400
    if seen.values.get("sec-websocket-version") != [b"13"]:
        return 426
    return True if key_valid(seen.values.get("sec-websocket-key", [b""])[0]) else 400


def key_valid(key: bytes) -> bool:
    try:
        return len(key) == 24 and len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False

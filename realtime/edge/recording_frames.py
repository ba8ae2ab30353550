"""What of a recorded connection may be written down: its frames as lines, without what is secret.

A message is shown where it could be read whole: then every value under the name of a secret is taken out, and
whatever looks like one. What cannot be read (cut, broken, not UTF-8) is searched as text, and left out where
that cannot be relied on. Where the policy encrypts rooms, whatever is not for certain of another room is left
out. All of it happens in a thread of the recorder's: nothing here may touch what the event loop changes.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

from realtime.core.catalog import Catalog
from realtime.core.room_rules import RoomRules
from realtime.errors import BadMessage
from realtime.ids import RoomId, RoomName, TenantId, parse_room
from realtime.protocol.recording import REMOVED, Frame, Op, Way

ENTRY: Final = struct.Struct("=qQIBB2x")
"""What native/recorder.pyx writes before each payload: time, length, bytes kept, kind, first byte."""
IN: Final = 1
OUT: Final = 2
REFUSED: Final = 3

INFLATED_MAX: Final = 16  # times what is recorded of a payload, and a KiB
SECRET_NAMES: Final = (
    *("token", "authorization", "cookie", "password", "secret", "api_key", "apikey", "ticket", "signature"),
    *("credential", "credentials"),
)
"""What the names of secrets end with."""
OPEN_TYPES: Final = frozenset(
    {"connect", "connected", "ping", "pong", "refresh", "refreshed", "token_expiring", "error", "ack"}
)
"""Messages that hold nothing of a room, whichever it is."""
_OPS: Final[dict[int, Op]] = {
    0: "continuation",
    1: "text",
    2: "binary",
    8: "close",
    9: "ping",
    10: "pong",
}
# A value behind such a name, closed or not: in JSON, in JSON within a string, or in a query.
_BY_NAME: Final = re.compile(
    rf'((?:{"|".join(SECRET_NAMES)})(?:\\?")?\s*[:=]\s*)'
    r'("(?:[^"\\]|\\.)*"?|\\"[^"\\]*(?:\\")?|[^\s,}\]&"\\]+)',
    re.IGNORECASE,
)
# Two or three parts of base64url with dots between, as tokens and signed URLs have them; the last may be cut.
_SIGNED: Final = re.compile(r"[\w-]{16,}\.[\w-]{20,}(?:\.[\w-]*)?|\beyJ[\w-]{8,}(?:\.[\w-]*)*")
_TYPE: Final = re.compile(r'"type"\s*:\s*"(\w{1,64})"')

LeftOut = Literal["", "cut", "secret", "encrypted", "unread", "contents"]


class Entry(NamedTuple):
    """One frame as the ring has it."""

    at_ns: int
    length: int
    kind: int
    first: int
    payload: bytes

    @property
    def op(self) -> int:
        return self.first & 0x0F

    @property
    def fin(self) -> bool:
        return self.first >= 0x80

    @property
    def compressed(self) -> bool:
        return self.first & 0x40 != 0

    @property
    def whole(self) -> bool:
        return len(self.payload) == self.length


class Shown(NamedTuple):
    """What may be shown of a message."""

    payload: bytes | None
    types: tuple[str, ...] = ()
    rooms: tuple[str, ...] = ()
    left_out: LeftOut = ""


UNREAD: Final = Shown(None, left_out="unread")


def entries_of(ring: bytes) -> list[Entry]:
    """Return the frames of a ring, as `Connection.recorded` gives it, oldest first."""
    found, at = [], 0
    while at < len(ring):
        at_ns, length, kept, kind, first = ENTRY.unpack_from(ring, at)
        at += ENTRY.size + kept
        found.append(Entry(at_ns, length, kind, first, ring[at - kept : at]))
    return found


class Teller:
    """Tells the frames of one connection. `redact` takes the server's own secrets out of a text."""

    def __init__(
        self,
        tenant: TenantId,
        catalog: Catalog,
        rules: RoomRules,
        redact: Callable[[str], str],
        *,
        contents: bool,
    ) -> None:
        self._tenant = tenant
        self._catalog = catalog
        self._rules = rules
        self._redact = redact
        self._contents = contents
        self._guarded = rules.any_encrypted

    def frames(self, entries: Sequence[Entry]) -> list[Frame]:
        """Return the lines of `entries`."""
        told: dict[int, Frame] = {}
        fragments: list[int] = []
        for number, entry in enumerate(entries):
            if entry.kind == REFUSED:
                told[number] = _frame(entry, op="refused", data=entry.payload)
            elif entry.op >= 8:
                told[number] = self._control(entry)
            elif entry.kind == OUT or (entry.fin and entry.op):
                told[number] = self._message(entry)
            else:
                fragments.append(number)
                if entry.fin:
                    told.update(self._fragmented(fragments, entries))
                    fragments = []
        for number in fragments:  # of a message that has no end
            told[number] = _frame(entries[number], left_out="unread")
        return [told[number] for number in sorted(told)]

    # -- frames ---------------------------------------------------------------------------------------------

    def _control(self, entry: Entry) -> Frame:
        code, said = 0, entry.payload
        if entry.op == 8 and len(said) >= 2:
            code, said = int.from_bytes(said[:2], "big"), said[2:]
        if not said:
            return _frame(entry, code=code)
        if not self._contents and entry.kind == IN:
            return _frame(entry, code=code, left_out="contents")
        try:
            text = said.decode()
        except UnicodeDecodeError:
            return _frame(entry, code=code, left_out="unread")
        return _frame(entry, code=code, text=self._scrub(text))

    def _message(self, entry: Entry) -> Frame:
        payload, whole = _inflated(entry) if entry.compressed else (entry.payload, entry.whole)
        shown = UNREAD if payload is None else self._show(payload, whole, entry.op == 2)
        text, data = _text_or_data(shown.payload, entry.op)
        return _frame(
            entry, types=shown.types, rooms=shown.rooms, text=text, data=data, left_out=shown.left_out
        )

    def _fragmented(self, numbers: Sequence[int], entries: Sequence[Entry]) -> Iterator[tuple[int, Frame]]:
        """Tell the fragments of one message: as they are where nothing had to be taken out, or not at all."""
        parts = [entries[number] for number in numbers]
        op = parts[0].op
        shown = UNREAD
        if op and not parts[0].compressed and all(part.whole for part in parts):
            joined = b"".join(part.payload for part in parts)
            shown = self._show(joined, True, op == 2)
            if shown.payload is not None and shown.payload != joined:
                shown = shown._replace(payload=None, left_out="secret")
        for number, part in zip(numbers, parts, strict=True):
            known: dict[str, Any] = {"types": shown.types, "rooms": shown.rooms}
            known = known if number == numbers[0] else {}
            text, data = _text_or_data(None if shown.payload is None else part.payload, op)
            yield number, _frame(part, text=text, data=data, left_out=shown.left_out, **known)

    # -- messages -------------------------------------------------------------------------------------------

    def _show(self, payload: bytes, whole: bool, binary: bool) -> Shown:
        """Return what may be shown of a message, or of what there is of it."""
        try:
            messages = (_unpacked if binary else _parsed)(payload) if whole else None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            messages = None
        if messages is None:
            shown = Shown(None, left_out="unread" if whole else "cut")
            return shown if binary else self._show_text(payload, shown)
        types = tuple(text for each in messages if isinstance(text := each.get("type"), str))
        try:
            rooms = tuple(dict.fromkeys(room for each in messages for room in self._rooms_in(each)))
            hidden = self._guarded and any(self._may_be_encrypted(each) for each in messages)
            if hidden:
                return Shown(None, types, rooms, "encrypted")
            if not self._contents:
                return Shown(None, types, rooms, "contents")
            clean = [self._without_secrets(each) for each in messages]
        except RecursionError:
            return UNREAD
        if clean != messages:
            payload = _packed(clean) if binary else b"\n".join(map(msgspec.json.encode, clean))
        if not binary:  # of a key that stands there twice only the last was looked at
            payload = self._scrub(payload.decode()).encode()
        return Shown(payload, types, rooms)

    def _show_text(self, payload: bytes, shown: Shown) -> Shown:
        """The same of what is no whole message: searched as text."""
        text = payload.decode(errors="replace")
        types = tuple(_TYPE.findall(text)[:1])
        if self._guarded:
            return Shown(None, types, left_out="encrypted")
        if not self._contents:
            return Shown(None, types, left_out="contents")
        if "\\u" in text:  # a name may be written so that no search finds it
            return shown._replace(types=types)
        clean = self._scrub(text)
        if "\ufffd" in text:  # no UTF-8, or cut within a character: as it is, or not at all
            if clean != text and shown.left_out != "cut":
                return shown._replace(types=types)
            return Shown(payload if clean == text else clean.encode(), types, left_out=_only_cut(shown))
        return Shown(clean.encode(), types, left_out=_only_cut(shown))

    def _rooms_in(self, message: dict[str, Any]) -> Iterator[str]:
        """The room that a message names, or its content."""
        room = message.get("room")
        if not isinstance(room, str):
            try:
                room = self._catalog.room_in(msgspec.json.encode(message.get("content")))
            except (msgspec.MsgspecError, TypeError):
                room = None
        if room is not None:
            yield room

    def _may_be_encrypted(self, message: dict[str, Any]) -> bool:
        named = [*self._rooms_in(message), *_nested_rooms(message.get("content"))]
        if not named:
            return message.get("type") not in OPEN_TYPES
        return any(self._is_encrypted(room) for room in named)

    def _is_encrypted(self, room: str) -> bool:
        try:
            flags = self._rules.of(RoomId(self._tenant, RoomName(parse_room(room))))
        except BadMessage:
            return True  # nobody knows what is meant
        return flags.encrypted or flags.end_to_end

    def _without_secrets(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: REMOVED if _is_secret(key) and each is not None else self._without_secrets(each)
                for key, each in value.items()
            }
        if isinstance(value, list):
            return [self._without_secrets(each) for each in value]
        return self._redact(_SIGNED.sub(REMOVED, value)) if isinstance(value, str) else value

    def _scrub(self, text: str) -> str:
        text = _BY_NAME.sub(_removed, text)
        return self._redact(_SIGNED.sub(REMOVED, text))


def _removed(found: re.Match[str]) -> str:
    """The name with a mark for its value, in the quotes that it had: what was JSON still is."""
    name, value = found.groups()
    if value == "null":
        return found[0]
    quote = '"' if value.startswith('"') else r"\"" if value.startswith(r"\"") else ""
    return f"{name}{quote}{REMOVED}{quote}"


def _is_secret(key: object) -> bool:
    return isinstance(key, str) and key.lower().endswith(SECRET_NAMES)


def _only_cut(shown: Shown) -> LeftOut:
    return "cut" if shown.left_out == "cut" else ""


def _nested_rooms(value: Any) -> Iterator[str]:
    """All that is called `room` within a content."""
    if isinstance(value, dict):
        room = value.get("room")
        if isinstance(room, str):
            yield room
        for each in value.values():
            yield from _nested_rooms(each)
    elif isinstance(value, list):
        for each in value:
            yield from _nested_rooms(each)


def _parsed(payload: bytes) -> list[dict[str, Any]] | None:
    """The messages of a text frame: one, or one a line; None where it holds anything else."""
    try:
        found = [msgspec.json.decode(payload)]
    except msgspec.DecodeError:
        found = [msgspec.json.decode(line) for line in payload.split(b"\n") if line.strip()]
    return _all_messages(found)


def _unpacked(payload: bytes) -> list[dict[str, Any]] | None:
    found = msgspec.msgpack.decode(payload)
    return _all_messages(found if isinstance(found, list) else [found])


def _all_messages(found: list[Any]) -> list[dict[str, Any]] | None:
    return found if all(isinstance(each, dict) for each in found) else None


def _packed(messages: list[dict[str, Any]]) -> bytes:
    return msgspec.msgpack.encode(messages[0] if len(messages) == 1 else messages)


def _inflated(entry: Entry) -> tuple[bytes | None, bool]:
    """Return the payload inflated, up to a bound, and whether that is all of it; None where it is broken."""
    inflater = zlib.decompressobj(-15)
    most = INFLATED_MAX * len(entry.payload) + 1024
    try:
        data = inflater.decompress(entry.payload + b"\x00\x00\xff\xff", most)
    except zlib.error:
        return None, False
    return data, entry.whole and not inflater.unconsumed_tail


def _text_or_data(payload: bytes | None, op: int) -> tuple[str | None, bytes | None]:
    if payload is None:
        return None, None
    try:
        return (payload.decode(), None) if op != 2 else (None, payload)
    except UnicodeDecodeError:
        return None, payload


def _frame(entry: Entry, *, op: Op | None = None, **said: Any) -> Frame:
    way: Way = "out" if entry.kind == OUT else "in"
    return Frame(
        at_ns=entry.at_ns,
        way=way,
        op=op or _OPS.get(entry.op, "reserved"),
        size=entry.length,
        fin=entry.fin,
        compressed=entry.compressed,
        **said,
    )

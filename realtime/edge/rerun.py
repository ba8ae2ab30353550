"""Plays the client's side of a recording against a server, and says where its answers differ in kind.

A bare socket, so that what is sent is what was sent: fragments, pings, heads that a server must refuse. What
others did is not in a recording: their pushes are counted and not judged. An answer is known by the `id` that
it answers, and its kind is its type, of an error with the name.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import ssl
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlsplit

import msgspec

from realtime.errors import RealtimeError
from realtime.protocol.recording import REMOVED, Frame, Head

_OPS: Final = {"continuation": 0, "text": 1, "binary": 2, "close": 8, "ping": 9, "pong": 10}
_OF_OPCODE: Final = {number: op for op, number in _OPS.items()}
_HEAD_BYTES_MAX: Final = 16_384
_FRAME_BYTES_MAX: Final = 64 << 20


class PlayFailed(RealtimeError):  # noqa: N818 - named like its siblings in realtime.errors
    """The recording could not be played."""

    code = "play_failed"
    retryable = False


@dataclass(slots=True)
class Heard:
    """What a server said, in a recording or now."""

    answers: dict[str, str] = field(default_factory=dict)  # their kinds by id
    types: Counter[str] = field(default_factory=Counter)
    pongs: int = 0
    close: int | None = None

    def take(self, op: str, payload: bytes | None, packed: bool, types: Sequence[str] = ()) -> None:
        """Note one frame; of what cannot be read, its `types`."""
        if op == "pong":
            self.pongs += 1
        elif op in ("text", "binary"):
            messages = [] if payload is None else list(_messages(payload, packed))
            self.types.update([_kind(each) for each in messages] or types)
            for each in messages:
                if each.get("id") is not None:
                    self.answers.setdefault(repr(each["id"]), _kind(each))


@dataclass(slots=True)
class Report:
    """What came of it."""

    sent: int
    left_out: Counter[str]
    recorded: Heard
    now: Heard
    asked: set[str]

    def differences(self) -> list[str]:
        """Where the answers differ in kind, in words; empty where they do not."""
        found = []
        for id, kind in self.recorded.answers.items():
            answer = self.now.answers.get(id)
            if id in self.asked and answer != kind:
                found.append(f"answer to {id}: {kind} was recorded, and now {answer or 'there is none'}")
        if self.now.pongs != self.recorded.pongs:
            found.append(f"pongs: {self.recorded.pongs} were recorded, and now {self.now.pongs}")
        if self.now.close != self.recorded.close:
            found.append(f"{_ended(self.recorded.close)} was recorded, and now {_ended(self.now.close)}")
        return found


class Rerun:
    """One playing of one recording. `token` is for the user whose recording it is, None in open mode."""

    def __init__(
        self, head: Head, frames: Sequence[Frame], token: str | None, patience_s: float = 10.0
    ) -> None:
        self._packed = head.encoding == "msgpack"
        self._user = head.user
        self._token = token
        self._patience_s = patience_s
        self._sends = [each for each in frames if each.way == "in"]
        self._by_message = any("connect" in each.types for each in self._sends)
        self._recorded = Heard()
        for each in frames:
            if each.way == "out":
                self._recorded.take(each.op, _payload(each), self._packed, each.types)
        self._recorded.close = next((each.code for each in frames if each.op == "close"), None)
        closes = [each.way for each in frames if each.op == "close"]
        if closes[:1] == ["in"]:
            self._recorded.close = None  # its own; that the server agrees is no answer
        self._leaves = closes[:1] == ["in"]
        self._now = Heard()
        self._asked: set[str] = set()
        self._heard = asyncio.Event()
        self._over = False

    async def play(self, url: str, *, fast: bool) -> Report:
        """Play it at its own pace, or as `fast` as it goes.

        Raises:
            PlayFailed: there is no server, or it refuses the handshake.
        """
        reader, writer = await self._open(url)
        listening = asyncio.create_task(self._listen(reader))
        left_out: Counter[str] = Counter()
        sent = 0
        try:
            began, first_ns = asyncio.get_running_loop().time(), self._sends[0].at_ns if self._sends else 0
            for each in self._sends:
                if not fast:
                    await self._until(began + (each.at_ns - first_ns) / 1e9)
                if self._over:
                    break
                raw = self._raw(each)
                if raw is None:
                    left_out[each.left_out or "secret"] += 1
                    continue
                sent += 1
                writer.write(raw)
                await _drained(writer)
            await self._settle()
            if not self._over and not self._leaves:
                self._leaves = True
                writer.write(_masked(0x88, struct.pack("!H", 1000)))
                await _drained(writer)
        finally:
            writer.close()
            listening.cancel()
            await asyncio.wait([listening])
        return Report(sent, left_out, self._recorded, self._now, self._asked)

    # -- the way out ----------------------------------------------------------------------------------------

    def _raw(self, frame: Frame) -> bytes | None:
        """Return the bytes of a frame; None where they are not known."""
        payload = _payload(frame)
        if frame.op == "refused":
            return None if payload is None else payload + b"\0\0\0\0" * (payload[1:2] >= b"\x80")
        if frame.op == "close" and frame.code:
            payload = struct.pack("!H", frame.code) + (payload or b"")
        if payload is None or frame.left_out:
            if frame.size or frame.left_out:
                return None
            payload = b""
        if REMOVED.encode() in payload:
            payload = self._with_token(payload) or b""
            if not payload:
                return None
        if frame.fin and frame.op in ("text", "binary"):
            ids = (each.get("id") for each in _messages(payload, self._packed))
            self._asked.update(repr(id) for id in ids if id is not None)
        return _masked((0x80 if frame.fin else 0) | _OPS.get(frame.op, 0x0B), payload)

    def _with_token(self, payload: bytes) -> bytes | None:
        """Put our token where the recorded one stood; None where something else was taken out too."""
        messages = list(_messages(payload, self._packed))
        for each in messages:
            content = each.get("content")
            if each.get("type") in ("connect", "refresh") and isinstance(content, dict) and self._token:
                content["token"] = self._token
        if self._packed:
            made = msgspec.msgpack.encode(messages[0] if len(messages) == 1 else messages)
        else:
            made = b"\n".join(map(msgspec.json.encode, messages))
        return None if not messages or REMOVED.encode() in made else made

    async def _until(self, when: float) -> None:
        """Wait until that time of the loop's, or the end of the connection."""
        try:
            async with asyncio.timeout_at(when):
                while not self._over:
                    await self._news()
        except TimeoutError:
            pass

    async def _settle(self) -> None:
        """Wait until all that was recorded has come, or nothing for as long as there is patience."""
        while not self._over and not self._complete():
            try:
                async with asyncio.timeout(self._patience_s):
                    await self._news()
            except TimeoutError:
                return

    def _complete(self) -> bool:
        missing = (self._recorded.answers.keys() & self._asked) - self._now.answers.keys()
        return not missing and self._now.pongs >= self._recorded.pongs and self._recorded.close is None

    async def _news(self) -> None:
        self._heard.clear()
        await self._heard.wait()

    # -- the way in -----------------------------------------------------------------------------------------

    async def _open(self, url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise PlayFailed(f"{url!r} is no ws:// or wss:// URL")
        secure = parts.scheme == "wss"
        path = parts.path or "/ws"
        if self._token is None and self._user and not self._by_message:
            path = f"{path.rstrip('/')}/{quote(self._user, safe='')}"
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {parts.netloc.rpartition('@')[2]}",
            *("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"),
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            f"Sec-WebSocket-Protocol: realtime.v1.{'msgpack' if self._packed else 'json'}",
            *([f"Authorization: Bearer {self._token}"] if self._token and not self._by_message else []),
        ]
        try:
            async with asyncio.timeout(self._patience_s):
                reader, writer = await asyncio.open_connection(
                    parts.hostname,
                    parts.port or (443 if secure else 80),
                    ssl=ssl.create_default_context() if secure else None,
                    limit=_HEAD_BYTES_MAX,
                )
                writer.write("\r\n".join([*lines, "", ""]).encode())
                head = await reader.readuntil(b"\r\n\r\n")
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise PlayFailed(f"{url}: {error or type(error).__name__}") from error
        status = head.split(b"\r\n", 1)[0].decode("latin-1")
        if " 101 " not in f"{status} ":
            writer.close()
            raise PlayFailed(f"{url}: the handshake was refused: {status}")
        return reader, writer

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                first, second = await reader.readexactly(2)
                size = second & 0x7F
                if size >= 126:
                    size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
                if size > _FRAME_BYTES_MAX:
                    raise PlayFailed(f"the server sends a frame of {size} bytes")
                payload = await reader.readexactly(size)
                op = _OF_OPCODE.get(first & 0x0F, "reserved")
                if op == "close":
                    self._now.close = (
                        None if self._leaves else int.from_bytes(payload[:2] or b"\x03\xed", "big")
                    )
                    return
                self._now.take(op, payload, self._packed)
                self._heard.set()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._over = True
            self._heard.set()


async def _drained(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # it has closed: what it said about that is read
        await writer.drain()


def _payload(frame: Frame) -> bytes | None:
    return frame.data if frame.text is None else frame.text.encode()


def _masked(first: int, payload: bytes) -> bytes:
    n, key = len(payload), os.urandom(4)
    size = bytes((0x80 | n,)) if n < 126 else b"\xfe" + struct.pack("!H", n)
    if n > 65_535:
        size = b"\xff" + struct.pack("!Q", n)
    mask = (key * (n // 4 + 1))[:n]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")
    return bytes((first,)) + size + key + masked.to_bytes(n, "big")


def _messages(payload: bytes, packed: bool) -> Iterator[dict[str, Any]]:
    """The messages of a frame; none where it cannot be read."""
    try:
        if packed:
            found = msgspec.msgpack.decode(payload)
        else:
            found = [msgspec.json.decode(line) for line in payload.split(b"\n") if line.strip()]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    for each in found if isinstance(found, list) else [found]:
        if isinstance(each, dict):
            yield each


def _kind(message: dict[str, Any]) -> str:
    """What kind of answer it is: its type, of an error with its name."""
    type, content = str(message.get("type")), message.get("content")
    if type == "error" and isinstance(content, dict):
        return f"error {content.get('name')}"
    return type


def _ended(code: int | None) -> str:
    return "no close by the server" if code is None else f"close {code}"

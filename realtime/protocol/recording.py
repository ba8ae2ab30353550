"""Recordings: the last frames of a connection, as a file for people, for tools, and for playing it again.

Each line is a JSON object. The first says whose frames they are and how it ended, every other one is a frame,
oldest first. docs/recorder.md says what the fields mean to whoever reads them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, TypeVar

import msgspec

from realtime.errors import RealtimeError

FORMAT: Final = "realtime-recording"
VERSION: Final = 1
REMOVED: Final = "[removed]"
"""What stands where a secret was."""

Way = Literal["in", "out"]
Op = Literal["continuation", "text", "binary", "close", "ping", "pong", "reserved", "refused"]


class BadRecording(RealtimeError):  # noqa: N818 - named like its siblings in realtime.errors
    """The file is no recording that this version can read."""

    code = "bad_recording"
    retryable = False


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line. `frames` were noted in all, the oldest `lost` of them are not in the file.

    `monotonic_ns` and `unix_ns` are the same moment: by them the times of frames become times of day.
    """

    format: str
    version: int
    connection: str
    user: str
    tenant: str
    address: str
    encoding: Literal["json", "msgpack"]
    why: str
    code: int  # that it was closed with; 0: it was open
    closed_by: Literal["", "client", "server"]  # who sent the first Close frame
    monotonic_ns: int
    unix_ns: int
    frames: int
    lost: int
    contents: bool  # whether what messages say is in it


class Frame(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A line for a frame. What it holds is `text`, or `data` (base64) where it is none, inflated.

    `left_out` says why that is not all: `cut` (longer than what is recorded), `secret`, `encrypted` (of such
    a room), `unread` (what cannot be read cannot be searched for secrets), `contents` (none are recorded). A
    `refused` frame has its head, without the masking key.
    """

    at_ns: int  # CLOCK_MONOTONIC
    way: Way
    op: Op
    size: int  # bytes of its payload on the wire
    fin: bool = True
    compressed: bool = False
    types: tuple[str, ...] = ()
    rooms: tuple[str, ...] = ()
    code: int = 0  # of a Close frame
    text: str | None = None
    data: bytes | None = None
    left_out: Literal["", "cut", "secret", "encrypted", "unread", "contents"] = ""


class _Version(msgspec.Struct):
    format: str
    version: int


Line = TypeVar("Line")
_encode: Final = msgspec.json.Encoder().encode
_head: Final = msgspec.json.Decoder(Head)
_frame: Final = msgspec.json.Decoder(Frame)
_version: Final = msgspec.json.Decoder(_Version)


def write(head: Head, frames: Iterable[Frame]) -> bytes:
    """Return the file."""
    return b"".join(_encode(each) + b"\n" for each in (head, *frames))


def read(data: bytes) -> tuple[Head, list[Frame]]:
    """Return what a file holds.

    Raises:
        BadRecording: it is none, of another version, or cut or garbled; with the line.
    """
    lines = data.splitlines()
    try:
        said = _version.decode(lines[0] if lines else b"")
    except msgspec.MsgspecError:
        raise BadRecording("this is no recording") from None
    if said.format != FORMAT:
        raise BadRecording("this is no recording")
    if said.version != VERSION:
        raise BadRecording(f"a recording of version {said.version}, and only {VERSION} can be read here")
    return _decoded(_head, lines, 1), [_decoded(_frame, lines, number) for number in range(2, len(lines) + 1)]


def _decoded(decoder: msgspec.json.Decoder[Line], lines: list[bytes], number: int) -> Line:
    try:
        return decoder.decode(lines[number - 1])
    except msgspec.MsgspecError as error:
        raise BadRecording(f"line {number} of the recording: {error}") from None

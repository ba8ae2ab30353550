"""The native blob in plain Python: what it does, without how."""

from __future__ import annotations

import struct

from realtime.native.encode import encode_push

SEALED = 0xFFFF


class SealedRecord(ValueError):  # noqa: N818 - as the compiled one
    """As `realtime.native.blob.SealedRecord`."""


Record = tuple[str, bytes | None, bytes | None, bytes, bytes]


def encode_record(
    type: str, sender: bytes | None, key: bytes | None, timestamp: bytes, content: bytes
) -> bytes:
    name = type.encode()
    sizes = (
        len(name),
        0 if sender is None else len(sender) + 1,
        0 if key is None else len(key) + 1,
        len(timestamp),
    )
    if max(len(name), len(sender or b""), len(key or b""), len(timestamp)) > 65534:
        raise ValueError("type, sender, key and timestamp have at most 65534 bytes each")
    rest = struct.pack("<4H", *sizes) + name + (sender or b"") + (key or b"") + timestamp + content
    return struct.pack("<I", len(rest)) + rest


def records_of(blob: bytes, start: int = 0) -> list[bytes]:
    found = []
    while start < len(blob):
        end, _ = _read(blob, start)
        found.append(blob[start:end])
        start = end
    return found


def decode_records(blob: bytes, start: int = 0) -> list[Record]:
    found = []
    while start < len(blob):
        start, record = _read(blob, start)
        if record is None:
            raise SealedRecord("a record is sealed")
        type, *rest = record
        found.append((type.decode(), *rest))
    return found


def _read(blob: bytes, start: int) -> tuple[int, tuple | None]:
    """Where the next record begins, and this one; None for one that is sealed."""
    if start < 0 or len(blob) - start < 12:
        raise ValueError("a record is cut short")
    size, named, sent, keyed, timed = struct.unpack_from("<I4H", blob, start)
    end = start + 4 + size
    if end > len(blob):
        raise ValueError("a record is cut short")
    if named == SEALED:
        return end, None
    at, parts = start + 12, []
    for length in (named, max(sent - 1, 0), max(keyed - 1, 0), timed):
        parts.append(blob[at : at + length])
        at += length
    if at > end:
        raise ValueError("a record's parts are longer than itself")
    type, sender, key, timestamp = parts
    return end, (type, sender if sent else None, key if keyed else None, timestamp, blob[at:end])


def count_records(blob: bytes, start: int = 0) -> int:
    return len(records_of(blob, start))


def pushes_of(
    blob: bytes, start: int, room_json: bytes, epoch: bytes, first: int, after: int = 0
) -> list[bytes]:
    return [
        encode_push(type, room_json, sender, offset, epoch, content, timestamp)
        for offset, (type, sender, _, timestamp, content) in enumerate(decode_records(blob, start), first)
        if offset > after
    ]

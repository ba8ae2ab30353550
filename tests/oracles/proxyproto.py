"""The PROXY protocol in plain Python, after haproxy's doc/proxy-protocol.txt; and a sender for tests."""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Iterable

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1_BYTES_MAX = 107
V2_BYTES_MAX = 4096
CRC32C = 3
SIZES = {0x00: 0, 0x11: 12, 0x21: 36, 0x31: 216}  # of the addresses, by family and transport
_PORT = r"(0|[1-9][0-9]{0,4})"
_LINE = re.compile(rf"PROXY TCP([46]) (\S+) (\S+) {_PORT} {_PORT}\r\n")

Answer = tuple[int, bytes | None, int] | None


class BrokenHeaderError(Exception):
    """No header, or none that may be taken."""


def parse(data: bytes) -> Answer:
    """Return (bytes used, packed source or None, source port), None where more is needed.

    Raises:
        BrokenHeaderError: it is none, or one that may not be taken.
    """
    if b"PROXY ".startswith(data[:6]):
        return _parse_v1(data) if len(data) >= 6 else None
    if SIGNATURE.startswith(data[:12]):
        return _parse_v2(data) if len(data) >= 16 else None
    raise BrokenHeaderError


def _packed(text: str, version: int) -> bytes:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise BrokenHeaderError from error
    if address.version != version or "%" in text:
        raise BrokenHeaderError
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).packed


def _parse_v1(data: bytes) -> Answer:
    end = data[:V1_BYTES_MAX].find(b"\n") + 1
    if not end:
        if len(data) >= V1_BYTES_MAX:
            raise BrokenHeaderError
        return None
    line = data[:end].decode("latin-1")
    if not line.endswith("\r\n"):
        raise BrokenHeaderError
    if line.startswith(("PROXY UNKNOWN ", "PROXY UNKNOWN\r")):
        return end, None, 0
    found = _LINE.fullmatch(line)
    if not found or max(int(found[4]), int(found[5])) > 65535:
        raise BrokenHeaderError
    source = _packed(found[2], int(found[1]))
    _packed(found[3], int(found[1]))
    return end, source, int(found[4])


def _parse_v2(data: bytes) -> Answer:
    command, family, length = struct.unpack_from("!BBH", data, 12)
    length += 16
    if command not in (0x20, 0x21) or length > V2_BYTES_MAX:
        raise BrokenHeaderError
    if command == 0x21 and (family not in SIZES or length < 16 + SIZES[family]):
        raise BrokenHeaderError
    if len(data) < length:
        return None
    if command == 0x20:
        return length, None, 0
    _attached(data[:length], 16 + SIZES[family])
    if family == 0x11:
        return length, data[16:20], struct.unpack_from("!H", data, 24)[0]
    if family == 0x21:
        return (
            length,
            _packed(str(ipaddress.IPv6Address(data[16:32])), 6),
            struct.unpack_from("!H", data, 48)[0],
        )
    return length, None, 0


def _attached(header: bytes, at: int) -> None:
    while at < len(header):
        if len(header) - at < 3:
            raise BrokenHeaderError
        kind, n = struct.unpack_from("!BH", header, at)
        value = header[at + 3 : at + 3 + n]
        if len(value) < n:
            raise BrokenHeaderError
        if kind == CRC32C and (
            n != 4 or crc32c(header[: at + 3] + bytes(4) + header[at + 7 :]) != int.from_bytes(value, "big")
        ):
            raise BrokenHeaderError
        if (kind == 0x20 and n < 5) or (kind == 0x05 and n > 128):
            raise BrokenHeaderError
        at += 3 + n


def crc32c(data: bytes) -> int:
    """RFC 3720, 12.1, bit by bit."""
    crc = 0xFFFFFFFF
    for each in data:
        crc ^= each
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


# ---------------------------------------------------------------- what proxies send


def v1(source: str, port: int = 56324, destination: str | None = None) -> bytes:
    """Return a line for a client at `source`."""
    version = ipaddress.ip_address(source).version
    to = destination or ("198.51.100.1" if version == 4 else "2001:db8::443")
    return f"PROXY TCP{version} {source} {to} {port} 443\r\n".encode()


def v2(
    source: str = "",
    port: int = 56324,
    *,
    command: int = 0x21,
    family: int | None = None,
    attached: Iterable[tuple[int, bytes]] = (),
    checksum: bool = False,
) -> bytes:
    """Return a block for a client at `source`; without one it has no addresses."""
    addresses = b""
    chosen = 0x00
    if source:
        packed = ipaddress.ip_address(source).packed
        chosen = 0x11 if len(packed) == 4 else 0x21
        addresses = packed + packed + struct.pack("!HH", port, 443)
    body = addresses + b"".join(struct.pack("!BH", kind, len(value)) + value for kind, value in attached)
    if checksum:
        body += struct.pack("!BHI", CRC32C, 4, 0)
    head = SIGNATURE + struct.pack("!BBH", command, chosen if family is None else family, len(body))
    whole = head + body
    return whole[:-4] + struct.pack("!I", crc32c(whole)) if checksum else whole

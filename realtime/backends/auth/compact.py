"""A token taken apart, before anybody has looked for a key: the compact form of RFC 7515, 7.1, strictly.

What two readers could read differently is refused: another base64 of the same bytes, a key that stands twice,
padding. So are all headers that bring keys along or ask for what is not understood.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from realtime.errors import Unauthorized

TOKEN_BYTES_MAX: Final = 8192
KEY_ID_CHARS_MAX: Final = 256
DEPTH_MAX: Final = 32
# Headers that name a key or a place of keys (RFC 7515, 4.1.2 to 4.1.8). Keys come from the configuration: a
# token that brings one is refused rather than read without it, for none of our issuers has reason to send it.
_FOREIGN_KEYS: Final = frozenset({"jku", "jwk", "x5u", "x5c"})
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-]+")
_DEPTH: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


class Parsed(NamedTuple):
    """A token whose signature nobody has looked at yet."""

    algorithm: str
    key_id: str | None
    type: str  # `typ` in lower case, without `application/`; empty where it has none
    claims: Mapping[str, Any]
    signed: bytes
    signature: bytes


def parse(token: str) -> Parsed:
    """Return the parts of `token`.

    Raises:
        Unauthorized: it is no compact JWS with JSON objects as header and claims, is over `TOKEN_BYTES_MAX`,
            or its header asks for something that is not done.
    """
    if len(token) > TOKEN_BYTES_MAX:
        raise Unauthorized(f"token is over {TOKEN_BYTES_MAX} bytes")
    parts = token.split(".")
    if len(parts) == 5:
        raise Unauthorized("token is encrypted (JWE), which is not taken")
    if len(parts) != 3:
        raise Unauthorized("token is malformed: it has not three parts")
    header = _object(parts[0], "header")
    algorithm, key_id = _checked_header(header)
    claims = _object(parts[1], "claims")
    signed = token[: len(token) - len(parts[2]) - 1].encode("ascii")
    return Parsed(algorithm, key_id, _type(header), claims, signed, decode_segment(parts[2], "signature"))


def decode_segment(text: str, what: str) -> bytes:
    """Return the bytes of a base64url text without padding, of which there is one form only (RFC 4648, 3.5).

    Raises:
        Unauthorized: it is no such text.
    """
    if not _SEGMENT.fullmatch(text):
        raise Unauthorized(f"token is malformed: its {what} is no base64url")
    try:
        decoded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise Unauthorized(f"token is malformed: its {what} is no base64url") from None
    if base64.urlsafe_b64encode(decoded).rstrip(b"=").decode() != text:
        raise Unauthorized(f"token is malformed: its {what} has stray bits")
    return decoded


def read_object(raw: bytes, what: str) -> dict[str, Any]:
    """Return a JSON object of a stranger: no key twice at any level, no NaN, at most `DEPTH_MAX` deep.

    Raises:
        Unauthorized: it is none.
    """
    try:
        text = raw.decode()
        _check_depth(text)
        found = _DECODER.decode(text)
    except (ValueError, RecursionError):
        raise Unauthorized(f"token is malformed: its {what} is no plain JSON object") from None
    if not isinstance(found, dict):
        raise Unauthorized(f"token is malformed: its {what} is no JSON object")
    return found


def _object(text: str, what: str) -> dict[str, Any]:
    return read_object(decode_segment(text, what), what)


def _checked_header(header: Mapping[str, Any]) -> tuple[str, str | None]:
    """The algorithm and the id of the key that a header names."""
    if "crit" in header or "b64" in header:
        raise Unauthorized("token: `crit` and `b64` are not understood")
    if "cty" in header:
        raise Unauthorized("token: a token within a token is not taken")
    if not _FOREIGN_KEYS.isdisjoint(header):
        raise Unauthorized("token: keys are never taken from a token")
    if "zip" in header or "enc" in header:
        raise Unauthorized("token: it is neither compressed nor encrypted")
    algorithm, key_id = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str):
        raise Unauthorized("token: alg is missing or no text")
    if key_id is not None and not (
        isinstance(key_id, str) and 0 < len(key_id) <= KEY_ID_CHARS_MAX and key_id.isprintable()
    ):
        raise Unauthorized(f"token: kid is not a text of 1 to {KEY_ID_CHARS_MAX} characters")
    return algorithm, key_id


def _type(header: Mapping[str, Any]) -> str:
    """The header's `typ` (RFC 7515, 4.1.9: letter case and `application/` do not count)."""
    found = header.get("typ", "")
    if not isinstance(found, str) or len(found) > 64:
        raise Unauthorized("token: typ is no short text")
    return found.lower().removeprefix("application/")


def _check_depth(text: str) -> None:
    """Raise ValueError over brackets that nest too deeply: before a parser recurses into them."""
    if text.count("[") + text.count("{") <= DEPTH_MAX:
        return  # as in nearly every token
    depth = 0
    for found in _DEPTH.finditer(text):
        if found[0] in "[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise ValueError("nested too deeply")
        elif found[0] in "]}":
            depth -= 1


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


# One for all: made anew it costs as much as reading a token with it.
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)

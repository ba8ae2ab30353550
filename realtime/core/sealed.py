"""End-to-end rooms: what the server takes there, and that it can tell nothing else of it.

Members seal what they say with a key that the server never has. It orders, keeps and relays the sealed as it
does everything, and refuses what is not sealed: a client that was not told of the key would else say in plain
words what all others keep secret. Whatever would have to read a content is off in these rooms.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from realtime.errors import BadMessage

VERSION: Final = 1

_BASE64URL = r"\A[A-Za-z0-9_-]"  # RFC 4648, 5, without padding


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One sealed content: AES-256-GCM by the key called `kid`; `ct` ends with the tag of 16 bytes."""

    v: Literal[1]
    kid: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9._-]{1,64}\Z")]
    nonce: Annotated[str, Meta(pattern=_BASE64URL + r"{16}\Z")]  # 12 bytes
    ct: Annotated[str, Meta(pattern=_BASE64URL + r"{22,}\Z")]


class Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole content of a message in an end-to-end room."""

    sealed: Envelope


_decode = msgspec.json.Decoder(Sealed).decode


def check_sealed(content: bytes) -> None:
    """Take a content that is sealed, as JSON.

    Raises:
        BadMessage: it is not; it says what is wanted.
    """
    try:
        _decode(content)
    except msgspec.DecodeError as error:
        # The place alone, in our own names: what stands there may be what was to be kept secret.
        place = str(error).partition(" - at ")[2]
        raise BadMessage(
            "this room is sealed end to end: content has to be "
            f'{{"sealed":{{"v":{VERSION},"kid":…,"nonce":…,"ct":…}}}} and nothing beside it'
            + (f" (see {place})" if place else "")
        ) from None


def refuse_reader(what: str) -> BadMessage:
    """Return the error for what would have to read the contents of an end-to-end room."""
    return BadMessage(f"this room is sealed end to end: there is no {what}, for the server cannot read it")

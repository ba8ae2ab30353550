"""What counts as an offence, and how much: by the close code, or HTTP status, that the server answered with.

What an honest client meets by bad luck weighs nothing: an expired token, one connection too many, a server
that is full. Nor does a connection that says nothing, for browsers open some to be quick; nor what a page of
somebody else's can make its visitor's browser ask for: with another Origin (403), a path that is none (404),
an endless URL (414, 431). By these a stranger could have the visitor boxed.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from realtime.errors import CloseCode


class Offence(NamedTuple):
    """One kind, by the name that metrics and the audit log have for it, and its points."""

    name: str
    points: float


BAD_REQUEST: Final = Offence("bad_request", 10.0)
BAD_TOKEN: Final = Offence("bad_token", 5.0)
SLOW_HANDSHAKE: Final = Offence("slow_handshake", 5.0)
BAD_FRAME: Final = Offence("bad_frame", 10.0)
TOO_LARGE: Final = Offence("too_large", 10.0)
FLOOD: Final = Offence("flood", 20.0)
ARRIVALS: Final = Offence("arrivals", 0.5)

ALL: Final = (
    BAD_REQUEST,
    BAD_TOKEN,
    SLOW_HANDSHAKE,
    BAD_FRAME,
    TOO_LARGE,
    FLOOD,
    ARRIVALS,
)

# Codes above 999 are of close frames, those below HTTP's.
BY_CODE: Final = {
    400: BAD_REQUEST,
    401: BAD_TOKEN,
    405: BAD_REQUEST,
    408: SLOW_HANDSHAKE,
    501: BAD_REQUEST,
    505: BAD_REQUEST,
    CloseCode.PROTOCOL_ERROR: BAD_FRAME,
    CloseCode.UNSUPPORTED_DATA: BAD_FRAME,
    CloseCode.INVALID_DATA: BAD_FRAME,
    CloseCode.MESSAGE_TOO_BIG: TOO_LARGE,
    CloseCode.RATE_LIMITED: FLOOD,
    CloseCode.BAD_TOKEN: BAD_TOKEN,
    CloseCode.BAD_FRAME: BAD_FRAME,
    CloseCode.NOT_AUTHENTICATED_IN_TIME: SLOW_HANDSHAKE,
    CloseCode.TOO_MANY_ERRORS: FLOOD,
}
# Of these an operator's hand may be the reason, where the peer had been let in: a revocation, a kick.
OF_STRANGERS: Final = frozenset({CloseCode.BAD_TOKEN})


def offence_of(code: int, is_admitted: bool) -> Offence | None:
    """Return what it is to be ended with `code`, for a peer that had been let in or not; None: no offence."""
    if is_admitted and code in OF_STRANGERS:
        return None
    return BY_CODE.get(code)


class Offences(Counter[str]):
    """How many there were, by name; all names from the start, so that a rate of none is a number too."""

    def __init__(self) -> None:
        super().__init__({offence.name: 0 for offence in ALL})

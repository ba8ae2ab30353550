"""The choice of a subprotocol, and the token that a browser sends beside it."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from websockets.exceptions import InvalidHeaderFormat
from websockets.headers import parse_subprotocol

from realtime.errors import BadMessage

JSON: Final = "realtime.v1.json"
MSGPACK: Final = "realtime.v1.msgpack"
BEARER: Final = "bearer."
"""Prefix of the entry that carries a token: browsers can set no Authorization header."""


class Choice(NamedTuple):
    """What a client's offer comes to.

    `subprotocol` is what the response names (None: no such header); `binary` is true for MessagePack
    in binary frames, false for JSON in text frames; `token` is the one offered, never echoed.
    """

    subprotocol: str | None = None
    binary: bool = False
    token: str | None = None


NONE_OFFERED: Final = Choice()

# What clients send in practice, at half the price of parsing all that the RFC allows (2.7 against 4.8 us, in
# every handshake of a browser). The token makes it another header for each user: no cache would help.
_PLAIN_LIST: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:, ?[!#$%&'*+\-.^_`|~0-9A-Za-z]+)*")


def choose(offers: str | None) -> Choice:
    """Return what a client's Sec-WebSocket-Protocol comes to (None: it sent none, and gets JSON).

    The first one that we know wins. Where there is none, the client gets JSON and no header, as RFC 6455
    (4.2.2) has it; a browser then gives up by itself. The first `bearer.` entry is the token.

    Raises:
        BadMessage: the header is no list of tokens: the handshake gets a 400.
    """
    if offers is None:
        return NONE_OFFERED
    try:
        plain = _PLAIN_LIST.fullmatch(offers) is not None
        names: Sequence[str] = offers.replace(" ", "").split(",") if plain else parse_subprotocol(offers)
    except InvalidHeaderFormat:
        # The header may hold a token, so nothing of it goes into a message.
        raise BadMessage("Sec-WebSocket-Protocol is no list of tokens") from None
    known = next((name for name in names if name in (JSON, MSGPACK)), None)
    bearer = next((name for name in names if name.startswith(BEARER)), None)
    token = None if bearer is None else bearer.removeprefix(BEARER)
    return Choice(known, known == MSGPACK, token)

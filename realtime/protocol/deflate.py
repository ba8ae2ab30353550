"""Negotiation of permessage-deflate (RFC 7692); the compressing itself is `realtime.native.deflate`.

We keep no context between messages, in neither direction: a room's message is compressed once for all its
members, and an idle connection holds no window. Every answer says so.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from websockets.exceptions import InvalidHeaderFormat
from websockets.headers import parse_extension

from realtime.errors import BadMessage

WINDOW_BITS_MIN: Final = 9
"""zlib makes no raw deflate of 8 bits (it silently takes 9), so a client that insists on 8 gets none."""
WINDOW_BITS_MAX: Final = 15

_NAME: Final = "permessage-deflate"
_BITS: Final = {str(bits): bits for bits in range(8, 16)}  # RFC 7692, 7.1.2: no leading zeros


class Agreement(NamedTuple):
    """What was agreed on: the value of the response's header, and the window that we compress with."""

    header: str
    window_bits: int


def negotiate(offers: str) -> Agreement | None:
    """Return the answer to a client's Sec-WebSocket-Extensions, or None where it is to have none.

    The first offer of permessage-deflate that is valid and that we can serve wins; others, and
    other extensions, are passed over, as RFC 7692 (5.1) says. `client_max_window_bits` stands in the
    answer only where the client offered it.

    Raises:
        BadMessage: the header does not have the form of RFC 6455 (9.1): the handshake gets a 400.
    """
    try:
        extensions = parse_extension(offers)
    except InvalidHeaderFormat as error:
        raise BadMessage("Sec-WebSocket-Extensions is not as RFC 6455, 9.1 has it") from error
    for name, parameters in extensions:
        agreement = _accept(parameters) if name == _NAME else None
        if agreement is not None:
            return agreement
    return None


def _accept(parameters: Sequence[tuple[str, str | None]]) -> Agreement | None:
    """Return the answer to one offer; None where it is invalid or asks for what we cannot do."""
    offered = dict(parameters)
    if len(offered) != len(parameters):
        return None  # one of them stands twice
    answer = [_NAME, "server_no_context_takeover", "client_no_context_takeover"]
    window_bits = WINDOW_BITS_MAX
    for parameter, value in parameters:
        if parameter in ("server_no_context_takeover", "client_no_context_takeover"):
            if value is not None:
                return None
        elif parameter == "server_max_window_bits":
            window_bits = _BITS.get(value or "", 0)
            if window_bits < WINDOW_BITS_MIN:
                return None
            answer.append(f"server_max_window_bits={window_bits}")
        elif parameter == "client_max_window_bits":
            # Without a value it only says that the client understands an answer with one.
            bits = WINDOW_BITS_MAX if value is None else _BITS.get(value)
            if bits is None:
                return None
            answer.append(f"client_max_window_bits={bits}")
        else:
            return None
    return Agreement("; ".join(answer), window_bits)

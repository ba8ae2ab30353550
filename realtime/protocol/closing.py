"""Which close codes mean what to the peer, and the reason that goes with them.

The codes themselves stand with the errors, in `realtime.errors`. 4000 to 4499 ask the client to reconnect
with back-off, 4500 to 4999 not to. The codes below 4000 are RFC 6455's and keep its meaning.
"""

import json
from typing import Final

from realtime.errors import CloseCode

__all__ = ["REASON_BYTES_MAX", "CloseCode", "close_reason", "is_for_good", "may_be_sent", "may_reconnect"]

REASON_BYTES_MAX: Final = 123
"""What a close frame leaves for the reason: 125 bytes of a control frame less 2 of code (RFC 6455, 5.5)."""

_MAY_BE_SENT: Final = frozenset({*range(1000, 1004), *range(1007, 1015)})
_RECONNECT: Final = frozenset(
    {
        CloseCode.GOING_AWAY,
        CloseCode.NO_STATUS,
        CloseCode.ABNORMAL,  # the network's doing
        CloseCode.INTERNAL_ERROR,
        CloseCode.SERVICE_RESTART,
        CloseCode.OVERLOADED,
        CloseCode.BAD_GATEWAY,
    }
)


def may_be_sent(code: int) -> bool:
    """Return whether a close frame may carry `code` (RFC 6455, 7.4, with IANA's later ones)."""
    return code in _MAY_BE_SENT or 3000 <= code <= 4999


def may_reconnect(code: int) -> bool:
    """Return whether a client that was closed with `code` should come back, with back-off."""
    return code in _RECONNECT or 4000 <= code <= 4499


def is_for_good(code: int) -> bool:
    """Return whether the server's `code` ends the user's presence too; who was replaced is here already."""
    return code >= CloseCode.BAD_TOKEN and code != CloseCode.REPLACED


def close_reason(
    reason: str,
    *,
    limit: str | None = None,
    allowed: float | None = None,
    min_ms: int | None = None,
    max_ms: int | None = None,
) -> bytes:
    """Return the reason of a close frame: JSON such as `{"r":"drain","min":500,"max":15000}`.

    `min_ms` and `max_ms` are the window from which the client draws its reconnect delay. Where a limit closes
    the connection, `limit` is its name and `allowed` its number. A `reason` that does not fit into 123 bytes
    is cut at a character; the JSON stays whole.

    Raises:
        ValueError: only one end of the window is given, it is not 0 <= min_ms <= max_ms < 2^31, or
            `reason` holds a lone surrogate.
    """
    more: dict[str, str | float] = {}
    if limit is not None:
        more["limit"] = limit
    if allowed is not None:
        more["allowed"] = int(allowed) if allowed == int(allowed) else allowed
    if (min_ms is None) != (max_ms is None):
        raise ValueError("a reconnect window needs both min_ms and max_ms")
    if min_ms is not None and max_ms is not None:
        if not 0 <= min_ms <= max_ms < 2**31:
            raise ValueError(f"reconnect window {min_ms} to {max_ms} ms: need 0 <= min_ms <= max_ms < 2^31")
        more |= {"min": min_ms, "max": max_ms}
    reason = reason[:REASON_BYTES_MAX]  # no character takes less than a byte
    encoded = _encode({"r": reason, **more})
    while len(encoded) > REASON_BYTES_MAX:
        reason = reason[:-1]
        encoded = _encode({"r": reason, **more})
    return encoded


def _encode(reason: dict[str, str | float]) -> bytes:
    return json.dumps(reason, ensure_ascii=False, separators=(",", ":")).encode()

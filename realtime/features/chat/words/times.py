"""Times as clients write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from realtime.errors import BadMessage

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read_time(name: str, text: str) -> int:
    """Return a time of the wire, RFC 3339, as Unix time in ms.

    Raises:
        BadMessage: it is none, or says no offset from UTC.
    """
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is None:
            raise ValueError
        return (time - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        raise BadMessage(f"`{name}`: {text[:40]!r} is no time such as 2026-01-31T09:00:00Z") from None

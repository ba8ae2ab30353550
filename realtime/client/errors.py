# ruff: noqa: N818 - named as the wire names are, like the classes of realtime.errors.
"""What goes wrong on the client's side, and the server's errors by their wire names."""

from __future__ import annotations

from typing import Any

from realtime import errors
from realtime.errors import CloseCode, RealtimeError


class AckTimeout(RealtimeError):
    """The server did not answer in time; whether it did what was asked is not known."""

    code = "ack_timeout"
    number = 504
    retryable = True


class Disconnected(RealtimeError):
    """There is no connection at the moment; the client is on its way back."""

    code = "disconnected"
    number = 503
    retryable = True


class CannotSeal(RealtimeError):
    """The content could not be sealed, so it was not sent."""

    code = "cannot_seal"
    number = 400
    retryable = False


class Closed(RealtimeError):
    """The client has stopped for good: it was closed here, or the server does not want it back.

    `received_code` is the close code of the server, or None; `status` the HTTP status it refused with.
    """

    code = "closed"
    number = 410
    retryable = False

    def __init__(self, message: str = "", *, received_code: int | None = None, status: int | None = None):
        super().__init__(message)
        self.received_code = received_code
        self.status = status


class UnknownError(RealtimeError):
    """An error that this version has no class for; `name` is the server's word for it."""

    code = "unknown"
    retryable = False

    def __init__(
        self,
        message: str = "",
        *,
        name: str,
        retry_after_s: float | None = None,
        limit: str | None = None,
        allowed: float | None = None,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s, limit=limit, allowed=allowed)
        self.name = name


class UnknownTemporaryError(UnknownError):
    """An unknown error that is worth a retry."""

    retryable = True


def _by_wire_name() -> dict[str, type[RealtimeError]]:
    """The class that introduces each name: `unauthorized` is Unauthorized, not its subclass TokenExpired."""
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    return {
        value.code: value
        for value in classes
        if issubclass(value, RealtimeError) and value is not RealtimeError and "code" in vars(value)
    }


_CLASSES = _by_wire_name()


def from_wire(content: Any) -> RealtimeError:
    """Return the content of an `error` message as an exception. Never raises, whatever the server sends."""
    body = content if isinstance(content, dict) else {}
    name, message = str(body.get("name", "internal")), str(body.get("message", ""))
    retry_after, limit, allowed = body.get("retry_after"), body.get("limit"), body.get("allowed")
    retry_after_s = float(retry_after) if isinstance(retry_after, int | float) else None
    limit = limit if isinstance(limit, str) else None
    allowed = allowed if isinstance(allowed, int | float) else None
    known = _CLASSES.get(name)
    if known is not None:
        return known(message, retry_after_s=retry_after_s, limit=limit, allowed=allowed)
    unknown = UnknownTemporaryError if body.get("temporary") is True else UnknownError
    return unknown(message, name=name, retry_after_s=retry_after_s, limit=limit, allowed=allowed)


# The peer finds our frames wrong, or is done with us: the next attempt would end the same way.
_FINAL_CODES = frozenset(
    {
        CloseCode.NORMAL,
        CloseCode.PROTOCOL_ERROR,
        CloseCode.UNSUPPORTED_DATA,
        CloseCode.INVALID_DATA,
        CloseCode.POLICY_VIOLATION,
        CloseCode.MESSAGE_TOO_BIG,
        CloseCode.MANDATORY_EXTENSION,
    }
)


def may_reconnect(code: int) -> bool:
    """Whether a connection that ended with `code` may be followed by another one.

    4500 to 4999 and RFC 6455's verdicts say no. Codes we do not know, such as a proxy's 1011, say yes.
    """
    return code not in _FINAL_CODES and not 4500 <= code <= 4999

# ruff: noqa: N818 - the classes are named as their wire names are: BadMessage is `bad_message`.
"""Every error a peer or the world can cause: one class, one wire name, one close code, one "retry?".

Below all other layers; imports nothing of ours. `assert` is for our own mistakes, `RealtimeError` for a
peer's or the world's. Only the edge turns an error into a reply or a close frame.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class CloseCode(IntEnum):
    """Why a connection ends. 4000-4499: reconnect with back-off; 4500-4999: do not. Below: RFC 6455's."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005  # never on the wire: the peer sent none
    ABNORMAL = 1006  # never on the wire: the connection ended without a close frame
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    OVERLOADED = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015  # never on the wire

    INTERNAL = 4000
    SLOW_CONSUMER = 4001
    NO_HEARTBEAT = 4002
    TOKEN_EXPIRED = 4003
    STATE_LOST = 4004
    RATE_LIMITED = 4005
    REBALANCE = 4006

    BAD_TOKEN = 4500
    BAD_FRAME = 4501
    NOT_AUTHENTICATED_IN_TIME = 4502
    DISCONNECTED_BY_SERVER = 4503
    CONNECTION_LIMIT = 4504
    FORBIDDEN = 4507
    REPLACED = 4508
    TOO_MANY_ERRORS = 4509


class RealtimeError(Exception):
    """A peer or the world did something we answer with a stable name.

    `message` is one sentence for a human and may be shown to the peer: it never holds a secret, another
    user's data or a driver's text. `retry_after_s` says when a retry may succeed, where that is known. An
    error over a limit has its name, which is its setting's, as `limit`, and the number that is `allowed`.
    """

    code: ClassVar[str] = "internal"  # stable: clients match on it; `name` on the wire
    number: ClassVar[int] = 500  # `code` on the wire; the HTTP status of the same meaning where there is one
    close_code: ClassVar[CloseCode] = CloseCode.INTERNAL  # if the connection has to end over it
    retryable: ClassVar[bool] = True  # `temporary` on the wire

    def __init__(
        self,
        message: str = "",
        *,
        retry_after_s: float | None = None,
        limit: str | None = None,
        allowed: float | None = None,
    ) -> None:
        super().__init__(message or type(self).__doc__ or self.code)
        self.retry_after_s = retry_after_s
        self.limit = limit
        self.allowed = allowed

    @property
    def message(self) -> str:
        return str(self.args[0])


class Internal(RealtimeError):
    """The server failed; it has been logged."""

    code = "internal"
    number = 500
    close_code = CloseCode.INTERNAL
    retryable = True


class BadMessage(RealtimeError):
    """The message is not what the protocol says."""

    code = "bad_message"
    number = 400
    close_code = CloseCode.BAD_FRAME
    retryable = False


class Unauthorized(RealtimeError):
    """The token is missing, malformed or not ours."""

    code = "unauthorized"
    number = 401
    close_code = CloseCode.BAD_TOKEN
    retryable = False


class TokenExpired(Unauthorized):
    """The token has expired; fetch a new one and reconnect."""

    close_code = CloseCode.TOKEN_EXPIRED


class Forbidden(RealtimeError):
    """The token does not allow this."""

    code = "forbidden"
    number = 403
    close_code = CloseCode.FORBIDDEN
    retryable = False


class UnknownType(RealtimeError):
    """No handler for this message type."""

    code = "unknown_type"
    number = 404
    close_code = CloseCode.BAD_FRAME
    retryable = False


class Conflict(RealtimeError):
    """Someone else changed it first."""

    code = "conflict"
    number = 409
    close_code = CloseCode.STATE_LOST
    retryable = False


class NotJoined(RealtimeError):
    """The connection has not joined this room."""

    code = "not_joined"
    number = 412
    close_code = CloseCode.BAD_FRAME
    retryable = False


class TooLarge(RealtimeError):
    """The message, or what it asks for, is over a size limit."""

    code = "too_large"
    number = 413
    close_code = CloseCode.MESSAGE_TOO_BIG
    retryable = False


class RoomLimit(RealtimeError):
    """The connection, or its tenant, is in as many rooms as it may be."""

    code = "room_limit"
    number = 422
    close_code = CloseCode.FORBIDDEN
    retryable = False


class QuotaExceeded(RealtimeError):
    """The tenant keeps as much as it may."""

    code = "quota_exceeded"
    number = 507
    close_code = CloseCode.FORBIDDEN
    retryable = False


class RateLimited(RealtimeError):
    """Too many messages; wait `retry_after` seconds."""

    code = "rate_limited"
    number = 429
    close_code = CloseCode.RATE_LIMITED
    retryable = True


class Unavailable(RealtimeError):
    """Something the server depends on gives no answer."""

    code = "unavailable"
    number = 503
    close_code = CloseCode.OVERLOADED
    retryable = True


class BrokerUnavailable(Unavailable):
    """The broker gives no answer; the publication was not accepted."""


class Unreadable(Unavailable):
    """What is kept here is sealed, and its key is missing or it was tampered with."""

    code = "unreadable"
    number = 500
    close_code = CloseCode.INTERNAL
    retryable = False


class ConnectionLimit(RealtimeError):
    """The user, or the tenant, has as many connections open as allowed."""

    code = "connection_limit"
    number = 503
    close_code = CloseCode.CONNECTION_LIMIT
    retryable = False


class SettingsError(RealtimeError):
    """The configuration cannot be used; the message names the setting, its source and what would do."""

    code = "settings"
    number = 500
    retryable = False


class StartupError(RealtimeError):
    """The server cannot start here; the message says what to change."""

    code = "startup"
    number = 500
    retryable = False


def error_codes() -> list[str]:
    """The codes of all classes of errors there are, each once: the bounded set that metrics count by."""
    found, classes = set(), [RealtimeError]
    while classes:
        each = classes.pop()
        found.add(each.code)
        classes += each.__subclasses__()
    return sorted(found)

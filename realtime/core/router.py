"""What becomes of messages that have no handler, that have to wait, or that fail.

An error of one message harms no other: whatever a handler raises becomes an `error` to its sender.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final

from realtime.core.audit import NO_AUDITOR, NO_TENANT, Action, Auditor, Event, Outcome
from realtime.core.auth import Identity
from realtime.core.contracts import Connection
from realtime.core.limits import LIMITS, Limits, Meters, rate_limited
from realtime.core.pending import Debt
from realtime.core.quotas import OF_TENANTS, QuotaRefusals
from realtime.core.session import Handlers, Session
from realtime.errors import (
    BadMessage,
    CloseCode,
    Internal,
    RealtimeError,
    Unauthorized,
    Unavailable,
    UnknownType,
    error_codes,
)
from realtime.native.encode import encode_error, json_string
from realtime.native.message import Envelope, Malformed
from realtime.protocol.closing import close_reason
from realtime.protocol.session import State

log = logging.getLogger("realtime.core")

Spawn = Callable[[Coroutine[Any, Any, None]], object]
"""Runs a coroutine beside the rest. The core's never raise."""

QUOTED_CHARS_MAX: Final = 64  # of a peer's own words in an error


class Router:
    """Answers for all messages that the relay does not take to a handler by itself."""

    def __init__(
        self,
        meters: Meters,
        limits: Limits,
        spawn: Spawn,
        audit: Auditor = NO_AUDITOR,
        quota_refusals: QuotaRefusals | None = None,
    ) -> None:
        self._audit = audit
        self._quota_refusals = quota_refusals
        self._backlog_messages = limits.backlog_messages
        self._errors_per_second = limits.errors_per_second
        self._count_error = meters.count_error
        self._spawn = spawn
        self.meters = meters
        self.pay = meters.pay
        self.errors = dict.fromkeys(error_codes(), 0)  # answered since the start, by their codes
        self.failures = 0  # of them our own
        self.refusals = dict.fromkeys(LIMITS, 0)  # of them those over a limit, by its name
        self.on_failure: Callable[[Session], object] | None = None  # hears of each of our own
        self._owed: set[Debt[Any]] = set()  # acks of what is being kept

    def set_aside(self, session: Session, message: Envelope | Malformed) -> None:
        """Do with a message that has no handler what the session's state says.

        Raises:
            BadMessage: it is malformed.
            Unauthorized: the session is nobody's.
            UnknownType: it is of no type that there is.
            Unavailable: too many wait already.
        """
        if session.state.over:
            return
        if isinstance(message, Malformed):
            over = message.messages_max or None
            raise BadMessage(message.reason, limit="messages_per_frame" if over else None, allowed=over)
        if session.backlog is not None:
            if len(session.backlog) >= self._backlog_messages:
                raise Unavailable(
                    "too many messages wait for one before them",
                    retry_after_s=1.0,
                    limit="backlog_messages",
                    allowed=self._backlog_messages,
                )
            session.backlog.append(message)
        elif session.state is State.NEW:
            raise Unauthorized("not authenticated; send `connect` with a token first")
        else:
            raise UnknownType(f"unknown message type {message.type[:QUOTED_CHARS_MAX]!r}")

    def finish(self, session: Session, message: Envelope, outcome: Awaitable[None]) -> None:
        """Have awaited what a handler returned. An ack that is owed costs a callback, and no task."""
        if isinstance(outcome, Debt):
            self._owed.add(outcome)
            outcome.receipt.then(partial(self._pay, session, message, outcome))
        else:
            self._spawn(self._finish(session, message, outcome))

    async def paid(self) -> None:
        """Wait until the acks that are owed now have been sent, or refused."""
        for owed in tuple(self._owed):
            await owed.receipt.settled()

    def fail(
        self, session: Session, message: Envelope | Malformed, error: Exception, *, taken: bool = False
    ) -> bool:
        """Answer a message with the error it caused; False when the connection is closed over it.

        Without an id the error goes out as a push. All of them are bounded: a peer that causes more than
        the meter allows is closed, with the error's own code where that is temporary, so that it comes back.
        Where its message had been `taken` before what it needs was away, that was nothing that it caused.
        """
        if not isinstance(error, RealtimeError):
            self.failures += 1
            log.error(
                "handler of %r failed",
                getattr(message, "type", None),
                exc_info=error,
                extra={"connection": session.connection.id, "room": getattr(message, "room", None)},
            )
            error = Internal()
            if self.on_failure is not None:
                self.on_failure(session)
        self.errors[error.code] = self.errors.get(error.code, 0) + 1
        if error.limit is not None:
            self.refusals[error.limit] = self.refusals.get(error.limit, 0) + 1
            whose = session.identity
            if error.limit in OF_TENANTS and whose is not None and self._quota_refusals is not None:
                self._quota_refusals.note(whose.tenant, whose.user, error.limit, session.connection.address)
        session.send(error_reply(message.id, error, getattr(message, "room", None)))
        if (taken and isinstance(error, Unavailable)) or self._count_error(session):
            return True
        self.refusals["errors_per_second"] += 1
        code, name = CloseCode.TOO_MANY_ERRORS, "too_many_errors"
        if error.retryable:
            code, name = error.close_code, error.code
        session.close(code, close_reason(name, limit="errors_per_second", allowed=self._errors_per_second))
        self._audit.record(limit_exceeded(session.identity, session.connection, "errors_per_second", code))
        return False

    @property
    def owed(self) -> int:
        """How many acks wait for what they acknowledge to be kept."""
        return len(self._owed)

    def over(self, limit: str, allowed: float, wait_s: float) -> RealtimeError:
        """Return the error for a message over a rate of its user or tenant."""
        return rate_limited(limit, allowed, wait_s)

    def hold(self, session: Session, state: State) -> None:
        """Let the session's messages wait in `state` until `resume`: they find done what they follow."""
        assert state.waits
        session.move(state)
        session.backlog = []

    def resume(self, session: Session, state: State, handlers: Handlers) -> None:
        """Go on to `state` and `handlers`, and handle the messages that waited, in order."""
        waiting, session.backlog = session.backlog or [], None
        if not session.state.over:
            session.move(state, handlers)
        for message in waiting:
            if not session.connection.open:
                return  # whoever is gone must not enter anything any more
            try:
                if (handler := session.handlers.get(message.type)) is None:
                    self.set_aside(session, message)  # perhaps because one of those before holds it again
                elif (outcome := handler(session, message)) is not None:
                    self.finish(session, message, outcome)
            except Exception as error:  # whatever it is, it is this message's alone
                if not self.fail(session, message, error):
                    return

    def _pay(self, session: Session, message: Envelope, owed: Debt[Any], outcome: Any) -> None:
        self._owed.discard(owed)
        if isinstance(outcome, Exception):
            self.fail(session, message, outcome, taken=True)
        else:
            owed.pay(outcome)

    async def _finish(self, session: Session, message: Envelope, outcome: Awaitable[None]) -> None:
        try:
            await outcome
        except Exception as error:  # whatever it is, it is this message's alone
            self.fail(session, message, error, taken=True)


def limit_exceeded(identity: Identity | None, connection: Connection, limit: str, code: int) -> Event:
    """Return the event that a connection ends over a limit."""
    return Event(
        tenant=NO_TENANT if identity is None else identity.tenant,
        action=Action.LIMIT,
        outcome=Outcome.DENIED,
        actor="" if identity is None else identity.user,
        source=connection.address,
        target=limit,
        detail={"code": int(code)},
    )


def error_reason(error: RealtimeError) -> bytes:
    """The reason of a close over `error`."""
    return close_reason(error.code, limit=error.limit, allowed=error.allowed)


def error_reply(id: bytes | None, error: RealtimeError, room: str | None = None) -> bytes:
    """Encode the answer to whoever caused `error`."""
    return encode_error(
        id,
        error.number,
        error.code,
        error.message,
        error.retryable,
        error.retry_after_s,
        None if room is None else json_string(room),
        error.limit,
        error.allowed,
    )

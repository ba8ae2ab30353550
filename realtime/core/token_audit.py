"""What the audit log is told of tokens and their holders: let in, refused, renewed, revoked, put out."""

from __future__ import annotations

from typing import Final

from realtime.core.audit import NO_AUDITOR, NO_TENANT, OPERATOR, SERVER, Action, Auditor, Event, Outcome
from realtime.core.auth import Identity
from realtime.core.contracts import Connection
from realtime.core.users import identity_of
from realtime.errors import RealtimeError, Unavailable
from realtime.ids import TenantId, UserId

NOBODY: Final = "unknown"
"""Who acts where no token has said it."""


class TokenAudit:
    """Tells it. Without an audit log (`wanted` False) it costs a comparison."""

    def __init__(self, audit: Auditor) -> None:
        self._audit = audit
        self.wanted = audit is not NO_AUDITOR

    def entered(self, identity: Identity, source: str, carrier: str) -> None:
        """Somebody is let in, by a token in `carrier`: header, subprotocol, cookie, query or message."""
        self._tell(identity, Action.CONNECT, Outcome.ALLOWED, source, carrier=carrier, jti=identity.token_id)

    def refused(self, error: RealtimeError, source: str, carrier: str) -> None:
        """Somebody is not, over their token or their connections."""
        failed = isinstance(error, Unavailable)
        self._tell(
            None,
            Action.CONNECT,
            Outcome.FAILED if failed else Outcome.DENIED,
            source,
            carrier=carrier,
            reason=error.code,
            close_code=int(error.close_code),
        )

    def refreshed(self, connection: Connection, error: RealtimeError | None = None) -> None:
        """A connection has given a newer token, which was taken unless there is an `error`."""
        identity = identity_of(connection)
        if error is None:
            self._tell(identity, Action.REFRESH, Outcome.ALLOWED, connection.address)
        else:
            failed = isinstance(error, Unavailable)
            outcome = Outcome.FAILED if failed else Outcome.DENIED
            self._tell(identity, Action.REFRESH, outcome, connection.address, reason=error.code)

    def revoked(self, tenant: TenantId, user: UserId | None, token_id: str | None, before: float) -> None:
        """Tokens are refused from now on: one, or those of a user or a whole tenant from `before`."""
        if not self.wanted:
            return
        target = f"jti:{token_id}" if token_id is not None else "everybody" if user is None else user
        self._audit.record(
            Event(
                tenant=tenant,
                action=Action.REVOKE,
                outcome=Outcome.ALLOWED,
                actor=OPERATOR,
                target=target,
                detail={} if token_id is not None else {"issued_before": int(before)},
            )
        )

    def kicked(
        self, tenant: TenantId, user: UserId | None, code: int, closed: int | None, missing: str = ""
    ) -> None:
        """All connections of a user, or of a whole tenant, are to be closed; so many were, None: unknown."""
        if not self.wanted:
            return
        detail: dict[str, str | int] = {"code": int(code)}
        detail |= {"missing": missing} if closed is None else {"connections": closed}
        self._audit.record(
            Event(
                tenant=tenant,
                action=Action.KICK,
                outcome=Outcome.FAILED if closed is None else Outcome.ALLOWED,
                actor=OPERATOR,
                target="everybody" if user is None else user,
                detail=detail,
            )
        )

    def closed(self, connection: Connection, identity: Identity, reason: str) -> None:
        """The server closes a connection over its token."""
        if self.wanted:
            self._audit.record(
                Event(
                    tenant=identity.tenant,
                    action=Action.CLOSE,
                    outcome=Outcome.ALLOWED,
                    actor=SERVER,
                    source=connection.address,
                    target=identity.user,
                    detail={"reason": reason},
                )
            )

    def _tell(
        self, who: Identity | None, action: Action, outcome: Outcome, source: str, **detail: str | int
    ) -> None:
        if self.wanted:
            self._audit.record(
                Event(
                    tenant=NO_TENANT if who is None else who.tenant,
                    action=action,
                    outcome=outcome,
                    actor=NOBODY if who is None else who.user,
                    source=source,
                    detail={name: value for name, value in detail.items() if value != ""},
                )
            )

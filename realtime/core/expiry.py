"""The end of sessions' tokens: said `token_warning_s` before, and then the connection is closed (4003)."""

from __future__ import annotations

from typing import Final

from realtime.core.auth import Identity, warn_at
from realtime.core.contracts import Clock, Connection
from realtime.core.deadlines import Deadlines
from realtime.core.session import Session
from realtime.core.token_audit import TokenAudit
from realtime.errors import CloseCode
from realtime.native.encode import encode_reply
from realtime.protocol.closing import close_reason
from realtime.protocol.codecs import to_msgpack

EXPIRING: Final = "token_expiring"
EXPIRED: Final = close_reason("token_expired")


class TokenEnds:
    """Sessions by when their tokens end. `warning_s` 0 says nothing before."""

    def __init__(self, clock: Clock, audit: TokenAudit, warning_s: float) -> None:
        self._clock = clock
        self._audit = audit
        self._warning_s = warning_s
        self._ending: Deadlines[Session] = Deadlines()
        self._warning: Deadlines[Session] = Deadlines()

    def __len__(self) -> int:
        """How many different seconds there are in which something is due."""
        return len(self._ending) + len(self._warning)

    def add(self, session: Session, identity: Identity, *, warned: bool = False) -> None:
        """Watch over the token that gave `identity`; `warned` where its bearer has been told of its end."""
        if identity.expires_at is None:
            return
        self._ending.add(identity.expires_at, session)
        if self._warning_s and not warned:
            self._warning.add(warn_at(identity, self._warning_s), session)

    def has_warned(self, session: Session, identity: Identity) -> bool:
        """Whether the bearer has been told of its token's end."""
        if identity.expires_at is None or not self._warning_s:
            return False
        return not self._warning.waits(warn_at(identity, self._warning_s), session)

    def forget(self, session: Session, identity: Identity) -> None:
        """Watch over it no longer: it was renewed, or the session has ended."""
        if identity.expires_at is None:
            return
        self._ending.discard(identity.expires_at, session)
        if self._warning_s:
            self._warning.discard(warn_at(identity, self._warning_s), session)

    def tick(self) -> None:
        """Close and warn those for whom it is time."""
        now = self._clock.time()
        for session in self._ending.take(now):
            assert session.identity is not None  # nobody's sessions have no token
            close_expired(session.connection, session.identity, self._audit)
            session.close(CloseCode.TOKEN_EXPIRED, EXPIRED)
        for session in self._warning.take(now):
            identity = session.identity
            if identity is not None and not session.state.over:
                session.send(expiring(identity, now))


def expiring(identity: Identity, now: float) -> bytes:
    """Encode the push that tells when an identity ends."""
    assert identity.expires_at is not None, "it never ends"
    left = max(0, int(identity.expires_at - now))
    content = b'{"expires_at":%d,"expires_in_s":%d}' % (identity.expires_at, left)
    return encode_reply(EXPIRING, None, None, content)


def warn(connection: Connection, identity: Identity, now: float) -> None:
    """Tell a connection without a session that its token ends."""
    told = expiring(identity, now)
    connection.send(to_msgpack(told) if connection.binary else told)


def close_expired(connection: Connection, identity: Identity, audit: TokenAudit) -> None:
    """Close a connection whose token has ended."""
    if connection.open:
        audit.closed(connection, identity, "token_expired")
    connection.close(CloseCode.TOKEN_EXPIRED, EXPIRED)

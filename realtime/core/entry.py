"""Coming and going: who is let in, as whom, for how long, and where they are counted."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final

import msgspec

from realtime.core.auth import Authenticator, Grant, Identity
from realtime.core.cluster import Whereabouts
from realtime.core.contents import decode_token
from realtime.core.contracts import Clock, Connection
from realtime.core.expiry import TokenEnds
from realtime.core.headcount import Headcount
from realtime.core.limits import Allowances, Limits, whole
from realtime.core.membership import Membership
from realtime.core.quotas import CONNECTIONS, QuotaBook, QuotaRefusals
from realtime.core.revocations import Revoked
from realtime.core.router import Router, error_reason
from realtime.core.session import NO_HANDLERS, Handlers, Session
from realtime.core.tenant import Tenants
from realtime.core.token_audit import TokenAudit
from realtime.core.users import Users, user_key
from realtime.errors import (
    ConnectionLimit,
    Forbidden,
    Internal,
    RealtimeError,
    TokenExpired,
    Unauthorized,
)
from realtime.ids import UserId
from realtime.native.encode import encode_reply
from realtime.native.message import Envelope
from realtime.protocol.session import State

Greet = Callable[[int, Identity], bytes]
"""Makes the whole `connected` for a connection by its number, as JSON, without an id."""

ConnectionWatcher = Callable[[Identity, bool], None]
"""Takes (whose, whether it came; else it is gone)."""

log: Final = logging.getLogger("realtime.core")


class SessionState(msgspec.Struct, array_like=True, gc=False):
    """A session, handed over. One that is nobody's may have a user `wanted`; `over`: it is being closed."""

    identity: Identity | None
    wanted: UserId | None
    over: bool
    credit: int
    warned: bool
    grants: list[Grant]


MESSAGE: Final = "message"  # what carries a token that is no handshake's, for the audit log


class Entry:
    """Admits identities, makes and ends sessions, renews and expires them."""

    def __init__(
        self,
        router: Router,
        membership: Membership,
        tenants: Tenants,
        users: Users,
        clock: Clock,
        limits: Limits,
        authenticator: Authenticator | None,
        greet: Greet,
        revoked: Revoked,
        whereabouts: Whereabouts | None,
        audit: TokenAudit,
        token_warning_s: float,
        quotas: QuotaBook,
        refusals: QuotaRefusals,
        headcount: Headcount | None,
    ) -> None:
        self._router = router
        self._membership = membership
        self._tenants = tenants
        self._users = users
        self._clock = clock
        self._quotas = quotas
        self._refusals = refusals
        self._headcount = headcount
        share_of = whole if headcount is None else headcount.share_of
        self.allowances = Allowances(limits, clock, quotas, share_of)
        quotas.watch(self._hold_anew)
        self._authenticator = authenticator
        self._greet = greet
        self._revoked = revoked
        self._whereabouts = whereabouts
        self._ends = TokenEnds(clock, audit, token_warning_s)
        self.expire = self._ends.tick
        self._audit = audit
        self._watchers: list[ConnectionWatcher] = []
        self._handlers = NO_HANDLERS
        self._entrance = self._entrance_of(None)
        self.sessions = 0

    def open(self, handlers: Handlers) -> None:
        """Begin: `handlers` are those of authenticated sessions."""
        self._handlers = handlers

    def admit(self, identity: Identity, number: int = 0) -> int:
        """Let in one more connection of `identity`, until `release` (or the end of its session).

        Return the key that it is to belong to at once: until it does, the next one is not told of it. By its
        `number` it is counted over all workers too, and closed a moment later where it is one too many.

        Raises:
            TokenExpired: the identity's time has passed.
            Unauthorized: its token is revoked.
            ConnectionLimit: the user, or the tenant, has as many connections as allowed.
        """
        if identity.expires_at is not None and identity.expires_at <= self._clock.time():
            raise TokenExpired
        self._check_revoked(identity)
        self._check_quota(identity)
        key = self._users.make_room(identity)
        self._count_in(identity, number)
        return key

    def _count_in(self, identity: Identity, number: int) -> None:
        self._tenants.enter(identity.tenant).connections += 1
        if number:
            if self._whereabouts is not None:
                self._whereabouts.arrived(identity.tenant, identity.user, number)
            if self._headcount is not None:
                self._headcount.arrived(identity.tenant, identity.user, number)
        self._tell(identity, came=True)

    def watch(self, watcher: ConnectionWatcher) -> None:
        """Let `watcher` know of each connection that is admitted, and once when it is gone."""
        self._watchers.append(watcher)

    def release(self, identity: Identity, number: int = 0) -> None:
        """Forget an admitted connection of `identity`, which is gone."""
        self._tell(identity, came=False)
        if number:
            if self._whereabouts is not None:
                self._whereabouts.left(identity.tenant, identity.user, number)
            if self._headcount is not None:
                self._headcount.left(identity.tenant, number)
        tenant = self._tenants[identity.tenant]
        tenant.connections -= 1
        self._tenants.forget_if_idle(tenant)

    def connect(
        self,
        connection: Connection,
        identity: Identity | None,
        user: UserId | None = None,
        *,
        warned: bool = False,
    ) -> Session:
        """Make the session of a connection: of an admitted identity, or nobody's until it sends a token.

        Where `user` is given, only a token of that user will do. `warned`: it knows that its token ends.
        """
        session = Session(connection, self._entrance if user is None else self._entrance_of(user))
        connection.state = session
        if identity is not None:
            self._establish(session, identity, warned=warned)
            session.move(State.READY, self._handlers)
        self.sessions += 1
        return session

    def connect_later(
        self, connection: Connection, pending: Awaitable[Identity], user: UserId | None, carrier: str
    ) -> tuple[Session, Coroutine[Any, Any, None]]:
        """Make the session of a connection whose handshake had a token that is still being judged.

        What it sends meanwhile waits. The awaitable greets it as whoever it is, or closes it.
        """
        session = self.connect(connection, None, user)
        self._router.hold(session, State.AUTHENTICATING)
        return session, self._enter_later(user, session, pending, carrier)

    def export(self, session: Session) -> SessionState:
        """Return a session, for another process; its rooms are theirs to tell."""
        identity = session.identity
        wanted = None
        if identity is None and (entrance := session.handlers.get("connect")) is not None:
            assert isinstance(entrance, partial)  # of `_entrance_of`
            (wanted,) = entrance.args
        warned = identity is not None and self._ends.has_warned(session, identity)
        grants = self._membership.doors.export(session)
        return SessionState(identity, wanted, session.state.over, session.credit, warned, grants)

    def adopt(self, connection: Connection, state: SessionState) -> Session:
        """Make the session that a connection had in another process, without its rooms."""
        identity = state.identity
        if identity is not None:
            self.adopt_silent(connection, identity)
        session = self.connect(connection, identity, state.wanted, warned=state.warned)
        session.credit = state.credit
        if state.grants:
            self._membership.doors.adopt(session, state.grants)
        if state.over:
            session.move(State.CLOSING)
        return session

    def adopt_silent(self, connection: Connection, identity: Identity) -> None:
        """Count a connection that was admitted in another process, and has no session yet."""
        self._count_in(identity, connection.id)
        connection.belong(user_key(identity.tenant, identity.user))

    def disconnect(self, session: Session, *, for_good: bool) -> None:
        """End the session of a connection that is gone; `for_good` where its user is not to come back."""
        session.move(State.CLOSED)
        self.sessions -= 1
        self._membership.leave_all(session, lingers=not for_good)
        if session.identity is not None:
            self.allowances.release(session.allowance)
            self._ends.forget(session, session.identity)
            self.release(session.identity, session.connection.id)

    def authenticate(
        self, user: UserId | None, session: Session, message: Envelope
    ) -> Awaitable[None] | None:
        """Take the token of a first frame, and answer `connected`; close the connection if it is none.

        The token has to be that of `user`, where that is not None.
        """
        token = decode_token(message.content).token
        if self._authenticator is None:
            raise Unauthorized("this server takes no tokens")
        try:
            identity = self._authenticator.authenticate(token)
            if not isinstance(identity, Identity):
                self._router.hold(session, State.AUTHENTICATING)
                return self._authenticate_later(user, session, message, identity, MESSAGE)
            self._enter(user, session, message, identity)
            session.move(State.READY, self._handlers)
        except RealtimeError as error:
            self._turn_away(session, message, error, MESSAGE)
        return None

    def greet_again(self, session: Session, message: Envelope) -> None:
        """Answer a `connect` of whoever is connected: a client that always sends one has done no harm."""
        if message.content is not None and self._authenticator is not None:
            raise Forbidden("authenticated already; `refresh` takes a newer token")
        assert session.identity is not None  # nobody's sessions have another `connect`
        self._send_greeting(session, message, session.identity)

    def refresh(self, session: Session, message: Envelope) -> Awaitable[None] | None:
        """Take a newer token of the same user, and acknowledge it with its `expires_at`.

        Raises:
            Unauthorized, TokenExpired: it is none, or revoked; the session goes on with the one it has.
            Forbidden: it is somebody else's.
        """
        token = decode_token(message.content).token
        if self._authenticator is None:
            raise Unauthorized("this server takes no tokens")
        try:
            identity = self._authenticator.authenticate(token)
            if not isinstance(identity, Identity):
                return self._refresh_later(session, message, identity)
            self._renew(session, message, identity)
        except RealtimeError as error:
            self._audit.refreshed(session.connection, error)
            raise
        return None

    def _tell(self, identity: Identity, *, came: bool) -> None:
        for watcher in self._watchers:
            try:
                watcher(identity, came)
            except Exception:  # whatever it is, it is a feature's alone
                log.exception("a feature failed over a connection that came or went")

    def _entrance_of(self, user: UserId | None) -> Handlers:
        """What nobody may send, where it is to become `user`, or anybody."""
        return {"connect": partial(self.authenticate, user)}

    def _enter(
        self,
        user: UserId | None,
        session: Session,
        message: Envelope | None,
        identity: Identity,
        carrier: str = MESSAGE,
    ) -> None:
        if user is not None and user != identity.user:
            raise Forbidden("the token is another user's than the path names")
        self.admit(identity, session.connection.id)
        self._establish(session, identity)
        session.connection.confirm()
        if self._audit.wanted:
            self._audit.entered(identity, session.connection.address, carrier)
        self._send_greeting(session, message, identity)

    def _send_greeting(self, session: Session, message: Envelope | None, identity: Identity) -> None:
        greeting = self._greet(session.connection.id, identity)
        id = None if message is None else message.id
        session.send(greeting if id is None else b'{"id":%b,%b' % (id, greeting[1:]))

    def _establish(self, session: Session, identity: Identity, *, warned: bool = False) -> None:
        if session.identity is None:  # renewed, it goes on with what it holds
            self._hold(session, identity)
        session.authenticate(identity, self._tenants[identity.tenant])
        session.connection.belong(user_key(identity.tenant, identity.user))
        self._ends.add(session, identity, warned=warned)

    def _renew(self, session: Session, message: Envelope, identity: Identity) -> None:
        former = session.identity
        assert former is not None
        if (identity.user, identity.tenant) != (former.user, former.tenant):
            raise Forbidden("the token is another user's")
        self._check_revoked(identity)
        self._ends.forget(session, former)
        self._establish(session, identity)
        if identity.roles != former.roles:
            self._membership.review(session)
        self._audit.refreshed(session.connection)
        if message.id is not None:
            ends = b"null" if identity.expires_at is None else b"%d" % identity.expires_at
            session.send(encode_reply("ack", message.id, None, b'{"expires_at":%b}' % ends))

    def _check_revoked(self, identity: Identity) -> None:
        if self._revoked and self._revoked.covers(identity):
            raise Unauthorized("the token has been revoked")

    def _check_quota(self, identity: Identity) -> None:
        """Raise ConnectionLimit where the tenant has as many connections as it may, over all workers."""
        tenant = self._tenants.find(identity.tenant)
        allowed = (self._quotas.of(identity.tenant) if tenant is None else tenant.quota).connections
        if not allowed:
            return
        count = 0 if tenant is None else tenant.connections
        if self._headcount is not None:
            count += self._headcount.elsewhere(identity.tenant)
        if count >= allowed:
            self._refusals.note(identity.tenant, identity.user, CONNECTIONS)
            message = f"{allowed} connections of this tenant are open already"
            raise ConnectionLimit(message, limit=CONNECTIONS, allowed=allowed)

    def _hold(self, session: Session, identity: Identity) -> None:
        allowance = self.allowances.hold(identity)
        session.draw_on(allowance, None if allowance is None else self.allowances.of_tenant(identity.tenant))

    def _hold_anew(self) -> None:
        """Let other quotas hold for who is connected. All let go first: what is held hangs together."""
        self.allowances.adjust()
        sessions = self._users.sessions()
        for session in sessions:
            self.allowances.release(session.allowance)
        for session in sessions:
            assert session.identity is not None  # the registry lists whose connections they are
            self._hold(session, session.identity)

    def _turn_away(
        self, session: Session, message: Envelope | None, error: RealtimeError, carrier: str
    ) -> None:
        """Close the connection over its token; an error of another kind is the message's alone, if any's."""
        self._audit.refused(error, session.connection.address, carrier)
        if message is not None:
            if not isinstance(error, Unauthorized | Forbidden | ConnectionLimit):
                raise error
            self._router.fail(session, message, error)
        session.close(error.close_code, error_reason(error))

    async def _authenticate_later(
        self,
        user: UserId | None,
        session: Session,
        message: Envelope | None,
        pending: Awaitable[Identity],
        carrier: str,
    ) -> None:
        """Authenticate when the token is judged. What the connection sent meanwhile waits for it."""
        state, handlers = State.NEW, self._entrance_of(user)
        try:
            identity = await pending
            if session.connection.open:
                self._enter(user, session, message, identity, carrier)
                state, handlers = State.READY, self._handlers
        except RealtimeError as error:
            self._turn_away(session, message, error, carrier)
        finally:
            self._router.resume(session, state, handlers)

    async def _enter_later(
        self, user: UserId | None, session: Session, pending: Awaitable[Identity], carrier: str
    ) -> None:
        """Authenticate as `_authenticate_later` where no message asks for it. It never raises."""
        try:
            await self._authenticate_later(user, session, None, pending, carrier)
        except Exception as error:
            whose = {"connection": session.connection.id}
            log.exception("a connection could not be authenticated", extra=whose)
            session.close(Internal.close_code, error_reason(Internal()))
            self._audit.refused(Internal(type(error).__name__), session.connection.address, carrier)

    async def _refresh_later(self, session: Session, message: Envelope, pending: Awaitable[Identity]) -> None:
        try:
            identity = await pending
            if session.connection.open:
                self._renew(session, message, identity)
        except RealtimeError as error:
            self._audit.refreshed(session.connection, error)
            raise

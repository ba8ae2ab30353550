"""Private rooms: entered with a room token alone, and left when that ends.

Which rooms are private the policy says by their names, so the answers here are the same whether or not there
is such a room. What a token allows narrows what the rules allow, and never adds to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection
from typing import Final, NoReturn

from realtime.core.access import Rights
from realtime.core.audit import Action, Auditor, Event, Outcome
from realtime.core.auth import Authenticator, Grant, Identity
from realtime.core.contracts import Clock
from realtime.core.deadlines import Deadlines
from realtime.core.revocations import Revoked
from realtime.core.room_rules import RoomRules
from realtime.core.session import Session
from realtime.errors import Forbidden, RealtimeError, TokenExpired, Unauthorized
from realtime.ids import RoomId, RoomName

PutOut = Callable[[Session, RoomName, str], None]
"""Lets a session out of a room, if it is in there, and tells it why."""

EXPIRED: Final = "room_token_expired"
REVOKED: Final = "room_token_revoked"
NEEDED: Final = "this room is entered with a room token"
NO_RIGHTS: Final = Rights(join=False, history=False, presence=False, types=frozenset())
# Let out in one tick of 0.1 s, at some 20 us each: a crowd whose tokens end together holds up nobody else.
PUT_OUT_AT_ONCE: Final = 500


class Doors:
    """The grants of sessions in private rooms: at most one a room, for as long as they are in it."""

    def __init__(
        self,
        rules: RoomRules,
        authenticator: Authenticator | None,
        revoked: Revoked,
        clock: Clock,
        audit: Auditor,
        grants_max: int,
    ) -> None:
        self._rules = rules
        self._authenticator = authenticator
        self._revoked = revoked
        self._clock = clock
        self._audit = audit
        self._grants_max = grants_max  # of one session: the rooms it may be in
        self._grants: dict[Session, dict[RoomName, Grant]] = {}
        self._ends: Deadlines[tuple[Session, RoomName]] = Deadlines()
        self._overdue: deque[tuple[Session, RoomName]] = deque()
        self._look = False  # tokens have been revoked since the last look

    def __len__(self) -> int:
        """How many sessions hold grants."""
        return len(self._grants)

    def is_private(self, room: RoomId) -> bool:
        """Whether a room token is needed."""
        return self._rules.of(room).private

    def narrowed(self, session: Session, room: RoomId, rights: Rights) -> Rights:
        """Return what is left of `rights` in a room: all of it where it is not private."""
        if not self._rules.of(room).private:
            return rights
        grant = self._grants.get(session, {}).get(room.room)
        if grant is None:
            return NO_RIGHTS
        return Rights(
            join=rights.join,
            history=rights.history and "history" in grant.actions,
            presence=rights.presence and "presence" in grant.actions,
            types=rights.types if "publish" in grant.actions else frozenset(),
        )

    def knock(self, session: Session, room: RoomId, token: str | None) -> Grant | Awaitable[Grant] | None:
        """Return what lets a session into a private room, to be given to `admit`; None where it is in there.

        Raises (the awaitable too):
            Forbidden: the token will not do, or there is none.
            Unavailable: the token cannot be judged now.
        """
        if token is None:
            if room.room in self._grants.get(session, {}):
                return None
            self._refuse(session, room, "no_token", NEEDED)
        if self._authenticator is None:
            self._refuse(
                session, room, "open_mode", "this server takes no tokens, so nobody enters this room"
            )
        try:
            found = self._authenticator.grant(token)
        except Unauthorized as error:
            self._refuse_token(session, room, error)
        return found if isinstance(found, Grant) else self._judged(session, room, found)

    def admit(self, session: Session, room: RoomId, grant: Grant) -> None:
        """Let a grant hold for a session, instead of one it has for the room already.

        Raises:
            Forbidden: it is for another room, tenant or user, has ended, or is revoked.
        """
        identity = session.identity
        assert identity is not None  # nobody's sessions enter no rooms
        if (grant.user, grant.tenant, grant.room) != (identity.user, identity.tenant, room.room):
            self._refuse(session, room, "another", "the room token is for another room or somebody else")
        if grant.expires_at <= self._clock.time():
            self._refuse_token(session, room, TokenExpired())
        if self._revoked and self._revoked.covers(grant):
            self._refuse(session, room, "revoked", "the room token has been revoked")
        held = self._grants.setdefault(session, {})
        former = held.get(room.room)
        if former is not None:
            self._ends.discard(former.expires_at, (session, room.room))
        elif len(held) >= self._grants_max:  # joins that failed; those it is in are fewer
            within = {each.key.room for each in session.rooms}
            for name in [each for each in held if each not in within]:
                self.left(session, name)
            held = self._grants.setdefault(session, held)
        held[room.room] = grant
        self._ends.add(grant.expires_at, (session, room.room))
        self._tell(session, identity, room.room, Outcome.ALLOWED, grant.token_id)

    def export(self, session: Session) -> list[Grant]:
        """Return what a session holds, for another process."""
        return list(self._grants.get(session, {}).values())

    def adopt(self, session: Session, grants: Collection[Grant]) -> None:
        """Let hold what a session held in another process."""
        for grant in grants:
            self._grants.setdefault(session, {})[grant.room] = grant
            self._ends.add(grant.expires_at, (session, grant.room))

    def left(self, session: Session, room: RoomName) -> None:
        """Forget what let a session into a room: it is out."""
        held = self._grants.get(session)
        grant = None if held is None else held.pop(room, None)
        if grant is not None:
            self._ends.discard(grant.expires_at, (session, room))
        if held is not None and not held:
            del self._grants[session]

    def gone(self, session: Session) -> None:
        """Forget all of a session: its connection is gone."""
        for room in list(self._grants.get(session, ())):
            self.left(session, room)

    def look_again(self) -> None:
        """Look with the next tick whose tokens are revoked."""
        self._look = True

    def tick(self, put_out: PutOut) -> None:
        """Let out those whose grants have ended or are revoked, a bounded number at once."""
        self._overdue.extend(self._ends.take(self._clock.time()))
        for _ in range(min(len(self._overdue), PUT_OUT_AT_ONCE)):
            session, room = self._overdue.popleft()
            self._end(session, room, EXPIRED, put_out)
        if self._look:
            self._look = False
            for session, room in self._covered():
                self._end(session, room, REVOKED, put_out)

    def _covered(self) -> Collection[tuple[Session, RoomName]]:
        return [
            (session, room)
            for session, held in self._grants.items()
            for room, grant in held.items()
            if self._revoked.covers(grant)
        ]

    def _end(self, session: Session, room: RoomName, reason: str, put_out: PutOut) -> None:
        grant = self._grants.get(session, {}).get(room)
        # Renewed or left, while it waited for its turn.
        if grant is None or (reason == EXPIRED and grant.expires_at > self._clock.time()):
            return
        if session.identity is not None:
            self._tell(session, session.identity, room, Outcome.DENIED, grant.token_id, reason)
        self.left(session, room)
        put_out(session, room, reason)

    async def _judged(self, session: Session, room: RoomId, pending: Awaitable[Grant]) -> Grant:
        try:
            return await pending
        except Unauthorized as error:
            self._refuse_token(session, room, error)

    def _refuse_token(self, session: Session, room: RoomId, error: RealtimeError) -> NoReturn:
        # Forbidden, not unauthorized: what the connection came with is as good as it was.
        self._refuse(session, room, "bad_token", f"the room token will not do: {error.message}")

    def _refuse(self, session: Session, room: RoomId, reason: str, message: str) -> NoReturn:
        assert session.identity is not None  # nobody's sessions enter no rooms
        self._tell(session, session.identity, room.room, Outcome.DENIED, "", reason)
        raise Forbidden(message)

    def _tell(
        self,
        session: Session,
        identity: Identity,
        room: RoomName,
        outcome: Outcome,
        token_id: str,
        reason: str = "",
    ) -> None:
        detail = {"jti": token_id, "reason": reason}
        self._audit.record(
            Event(
                tenant=identity.tenant,
                action=Action.JOIN,
                outcome=outcome,
                actor=identity.user,
                source=session.connection.address,
                target=room,
                detail={name: value for name, value in detail.items() if value},
            )
        )

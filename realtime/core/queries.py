"""Commands that only ask: who is here, what was said, are you there."""

from __future__ import annotations

from collections.abc import Awaitable

from realtime.core import audit
from realtime.core.access import HISTORY, PRESENCE
from realtime.core.contents import decode_history
from realtime.core.contracts import Page, Stamp
from realtime.core.history import fitted
from realtime.core.limits import Limits
from realtime.core.membership import Membership
from realtime.core.room import Room
from realtime.core.session import Session
from realtime.native.encode import encode_reply
from realtime.native.message import Envelope


class Queries:
    """Answers `presence`, `history` and `ping`. Without an id nobody waits for an answer."""

    def __init__(self, membership: Membership, stamp: Stamp, limits: Limits) -> None:
        self._membership = membership
        self._stamp = stamp
        self._limits = limits

    def presence(self, session: Session, message: Envelope) -> None:
        """Answer who is in a room that the session is in: `members`, as many as are named, and `count`.

        Raises:
            BadMessage, NotJoined: as `joined_room`.
            Forbidden: the rules do not let it see who is here.
        """
        room = self._membership.joined_room(session, message)
        if not self._membership.rights(session, room).presence:
            said = "you may not see who is in this room"
            self._membership.access.refuse(session, audit.Action.READ, room.key.room, PRESENCE, said)
        if message.id is not None:
            session.send(encode_reply("presence", message.id, room.json, room.roster.content()))

    def history(self, session: Session, message: Envelope) -> Awaitable[None] | None:
        """Answer a page of the history of a room that the session is in; a `limit` too high is lowered.

        Raises:
            BadMessage, NotJoined: as `joined_room`, or the content is not a history's.
            Forbidden: the rules do not let it read what was before.
            Unavailable: the broker gives no answer.
        """
        room = self._membership.joined_room(session, message)
        if not self._membership.rights(session, room).history:
            said = "you may not read the history of this room"
            self._membership.access.refuse(session, audit.Action.READ, room.key.room, HISTORY, said)
        asked = decode_history(message.content)
        limit = min(asked.limit or self._limits.history_page, self._limits.history_page_max)
        page = room.stream.history(asked.before, asked.after, limit)
        newest = asked.after is None
        if not isinstance(page, tuple):
            return self._answer_later(session, message, room, page, newest=newest)
        self._answer(session, message, room, page, newest=newest)
        return None

    def ping(self, session: Session, message: Envelope) -> None:
        """Answer `pong` with the server's time."""
        if message.id is not None:
            content = b'{"server_time":"%b"}' % self._stamp.timestamp
            session.send(encode_reply("pong", message.id, None, content))

    def _answer(self, session: Session, message: Envelope, room: Room, page: Page, *, newest: bool) -> None:
        if message.id is None:
            return
        page = fitted(page, self._limits.answer_bytes, newest=newest)
        more = b"true" if page.more else b"false"
        content = b'{"messages":[%b],"more":%b}' % (b",".join(page.messages), more)
        session.send(encode_reply("history", message.id, room.json, content))

    async def _answer_later(
        self, session: Session, message: Envelope, room: Room, page: Awaitable[Page], *, newest: bool
    ) -> None:
        self._answer(session, message, room, await page, newest=newest)

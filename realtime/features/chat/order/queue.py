"""What waits for a room's moderators: reports, what the server flagged, appeals; and what they decide."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from realtime.core.auth import Identity
from realtime.core.command import Command
from realtime.core.database import Statement
from realtime.core.personal import stamp
from realtime.core.session import Session
from realtime.errors import BadMessage, Conflict, Forbidden, RateLimited, Unavailable
from realtime.features.chat.acts import record
from realtime.features.chat.ids import read_id, text_of
from realtime.features.chat.rooms.state import GONE
from realtime.ids import RoomId, UserId

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat
    from realtime.features.chat.order.order import Order

log: Final = logging.getLogger("realtime.chat")

HIDE: Final = "chat_hide"
STATES: Final = {"dismiss": "dismissed", "hide": "hidden", "delete": "deleted", "ban": "banned"} | {
    "restore": "restored"
}
RETRY_S: Final = 60.0

_MESSAGE = (
    "SELECT m.room AS room, m.sender AS sender, m.hidden_ms AS hidden, m.deleted_ms AS deleted, "
    "h.hidden_by AS hidden_by FROM rooms r JOIN chat_messages m ON m.room = r.id "
    "LEFT JOIN chat_hidden h ON h.room = m.room AND h.id = m.id "
    "WHERE r.tenant = $1 AND r.name = $2 AND m.id = $3"
)
_OPEN = (
    "SELECT count(*) AS waiting FROM chat_reports q JOIN rooms r ON r.id = q.room "
    "WHERE q.reporter = $1 AND q.state = 'open' AND r.tenant = $2"
)
_ADD = (
    "INSERT INTO chat_reports (id, room, message, kind, reporter, reason, at_ms) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7) "
    "ON CONFLICT (room, message, kind, reporter) DO UPDATE SET reason = excluded.reason RETURNING id, state"
)
_FLAG = (
    "INSERT INTO chat_reports (id, room, message, kind, reporter, reason, at_ms) "
    "SELECT CAST($1 AS bigint), id, CAST($4 AS bigint), CAST($5 AS text), '', CAST($6 AS text), "
    "CAST($7 AS bigint) FROM rooms WHERE tenant = $2 AND name = $3 ON CONFLICT DO NOTHING"
)
_LIST = (
    "SELECT q.id AS id, q.message AS message, q.kind AS kind, q.reporter AS reporter, q.reason AS reason, "
    "q.at_ms AS at_ms, q.state AS state, q.decided_by AS decided_by, q.decided_ms AS decided_ms, "
    "m.sender AS sender, coalesce(h.content, m.content) AS content, m.hidden_ms AS hidden, "
    "m.deleted_ms AS deleted FROM chat_reports q JOIN rooms r ON r.id = q.room "
    "LEFT JOIN chat_messages m ON m.room = q.room AND m.id = q.message "
    "LEFT JOIN chat_hidden h ON h.room = q.room AND h.id = q.message "
    "WHERE r.tenant = $1 AND r.name = $2 AND ($3 = '' OR q.state = $3) "
    "AND (q.kind = 'appeal') = ($4 = 'appeal') AND q.id > $5 "
    "AND ($6 = '' OR q.reporter = $6) ORDER BY q.id LIMIT $7"
)
_REPORT = (
    "SELECT q.message AS message, q.kind AS kind, q.state AS state, q.reporter AS reporter "
    "FROM chat_reports q JOIN rooms r ON r.id = q.room WHERE r.tenant = $1 AND r.name = $2 AND q.id = $3"
)
_DECIDE = (
    "UPDATE chat_reports SET state = $4, decided_by = $5, decided_ms = $6 "
    "WHERE message = $3 AND state = 'open' AND (kind = 'appeal') = ($7 = 'appeal') "
    "AND room = (SELECT id FROM rooms WHERE tenant = $1 AND name = $2)"
)
_OTHERS = (
    "SELECT 1 AS other FROM chat_members m JOIN rooms r ON r.id = m.room "
    "WHERE r.tenant = $1 AND r.name = $2 AND m.role >= 3 AND m.user_id <> $3 LIMIT 1"
)


class Queue:
    """Takes reports and decides on them."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._database = chat.services.database
        self.reports = 0

    # -- asked wherever the asker is ------------------------------------------------------------------------

    async def report(self, session: Session, room: RoomId, id: str, reason: str) -> dict[str, Any]:
        """Put a message before the moderators of its room.

        Raises:
            Forbidden: the asker may not read there.
            BadMessage: there is no such message.
            RateLimited: as many of the asker's reports wait as may.
        """
        self._check_legible(room)
        await self._order.check_reader(session, room)
        number, found = await self._message(room, id)
        if found is None or found[2] or found[3]:
            raise BadMessage(f"there is no message {id} in this room")
        return await self._add(_who(session), room, (found[0], number), "report", reason)

    async def appeal(self, session: Session, room: RoomId, id: str, text: str) -> dict[str, Any]:
        """Ask that a message of the asker's own is shown again; they need not be in the room any more.

        Raises:
            Forbidden, BadMessage: no message of theirs by this id is hidden there.
            RateLimited: as `report`.
        """
        self._check_legible(room)
        who = _who(session)
        number, found = await self._message(room, id)
        if found is None or found[1] != who.user or not found[2]:
            if not await self._chat.rooms.admits(who, room):
                raise Forbidden(GONE)
            raise BadMessage(f"no message of yours by the id {id} is hidden in this room")
        return await self._add(who, room, (found[0], number), "appeal", text)

    async def page(
        self, session: Session, room: RoomId, *, appeals: bool, state: str, after: str | None, limit: int
    ) -> dict[str, Any]:
        """Return a page of what waits, oldest first: all of it for moderators; of appeals, their own for
        others.

        Raises:
            Forbidden: the asker may not see it.
        """
        who = _who(session)
        own = ""
        try:
            standing = await self._chat.rooms.read_standing(room, who.user)
            await self._order.check_moderator(who, room, standing)
        except Forbidden:
            if not appeals:
                raise
            own = who.user
        rows = await self._database.read(
            _LIST,
            room.tenant,
            room.room,
            state,
            "appeal" if appeals else "",
            0 if after is None else read_id(after),
            own,
            limit + 1,
        )
        told = [_told(row, own) for row in rows[:limit]]
        if not own:
            record(
                self._chat.core,
                who,
                "chat_appeals" if appeals else "chat_reports",
                room.room,
                shown=len(told),
            )
        answer: dict[str, Any] = {"appeals" if appeals else "reports": told, "more": len(rows) > limit}
        return answer | ({"after": told[-1]["report"]} if told else {})

    # -- at the room's owner --------------------------------------------------------------------------------

    async def hide(self, command: Command, id: str, hidden: bool) -> dict[str, Any]:
        """Hide a message from members, or show it again: the owner's handler of `chat_hide`."""
        await self._check(command)
        await self._hide(command, id, hidden)
        return {}

    async def resolve(self, command: Command, report: str, verdict: str) -> dict[str, Any]:
        """Decide on a report or an appeal: the owner's handler of `chat_resolve`.

        Raises:
            Forbidden: the asker is no moderator; or hid the message that the appeal is about, and there is
                another who can decide.
            BadMessage: there is no such report in this room, or a verdict that is not one on it.
            Conflict: it was decided meanwhile.
        """
        await self._check(command)
        room = command.room
        rows = await self._database.read(_REPORT, room.tenant, room.room, read_id(report))
        if not rows:
            raise BadMessage(f"there is no report {report} in this room")
        message, kind, state, _ = rows[0]
        if state != "open":
            raise Conflict(f"this is decided: {state}")
        appeal = kind == "appeal"
        if (verdict == "restore") != appeal and verdict != "dismiss":
            takes = "dismiss or restore" if appeal else "dismiss, hide, delete or ban"
            raise BadMessage(f"{verdict!r} is no verdict on this; it takes {takes}")
        id = text_of(message)
        _, found = await self._message(room, id)
        if appeal and found is not None:
            await self._check_other(command, str(found[4]))
        await self._carry_out(command, id, verdict, None if found is None else found[1])
        await self._database.write(
            Statement(
                _DECIDE,
                (
                    *(room.tenant, room.room, message, STATES[verdict], command.identity.user),
                    *(self._chat.rooms.now_ms, "appeal" if appeal else ""),
                ),
            )
        )
        record(
            self._chat.core,
            command.identity,
            "chat_resolve",
            room.room,
            report=report,
            verdict=verdict,
            message=id,
        )
        return {"report": report, "state": STATES[verdict]}

    async def flag(self, room: RoomId, id: int, flagged: Sequence[tuple[str, str]]) -> None:
        """Put a message before the moderators, for what filters or the classifier said (kind, why)."""
        now_ms = self._chat.rooms.now_ms
        try:
            await self._database.write(
                *(
                    Statement(
                        _FLAG,
                        (self._chat.ids.new(now_ms), room.tenant, room.room, id, kind, why[:500], now_ms),
                    )
                    for kind, why in flagged
                )
            )
        except Unavailable as error:
            log.error("a message is not put before the moderators of its room: %s", error)
            return
        self.reports += len(flagged)
        for kind, why in flagged:
            server = Identity(UserId(""), room.tenant)
            record(self._chat.core, server, "flag", room.room, kind=kind, message=text_of(id), why=why[:100])

    async def _carry_out(self, command: Command, id: str, verdict: str, author: str | None) -> None:
        if verdict == "hide":
            await self._hide(command, id, True)
        elif verdict == "restore":
            await self._hide(command, id, False)
        elif verdict == "delete":
            await self._perform(command, "chat_delete", {"id": id})
        elif verdict == "ban":
            if author is None:
                raise BadMessage("nobody is known to have written this message")
            await self._perform(command, "chat_ban", {"user": author, "reason": "a report"})

    async def _perform(self, command: Command, type: str, content: dict[str, Any]) -> None:
        """Have another part do what it does when a moderator asks for it."""
        outcome = self._chat.core.order(
            command.room, type, msgspec.json.encode(content), command.identity, trusted=True
        )
        if not isinstance(outcome, bytes):
            await outcome

    async def _hide(self, command: Command, id: str, hidden: bool) -> None:
        async with self._chat.rooms.turn(command.room):
            _, found = await self._message(command.room, id)
            if found is None or found[3]:
                raise BadMessage(f"there is no message {id} in this room")
            if bool(found[2]) == hidden:
                return
            receipt = command.publish(HIDE, msgspec.json.encode({"id": id, "hidden": hidden}))
        offset, _, _ = receipt if isinstance(receipt, tuple) else await receipt
        with contextlib.suppress(Unavailable):  # it is tried again
            await self._chat.core.forget_history(command.room, offset)
        record(self._chat.core, command.identity, HIDE, command.room.room, message=id, hidden=int(hidden))

    async def _check(self, command: Command) -> None:
        if not command.trusted:
            standing = await self._chat.rooms.standing(command.room, command.identity.user)
            await self._order.check_moderator(command.identity, command.room, standing)
        self._check_legible(command.room)

    async def _check_other(self, command: Command, hidden_by: str) -> None:
        """Whoever hid a message does not decide on the appeal where another moderator can."""
        if command.identity.user != hidden_by:
            return
        room = command.room
        if await self._database.read(_OTHERS, room.tenant, room.room, hidden_by):
            raise Forbidden("you hid this message: another moderator of the room decides")

    def _check_legible(self, room: RoomId) -> None:
        flags = self._chat.core.rules.of(room)
        if flags.encrypted or flags.end_to_end:
            raise Forbidden("this room is encrypted: its messages are not kept where they could be looked at")

    async def _message(self, room: RoomId, id: str) -> tuple[int, tuple[Any, ...] | None]:
        """Return (room's number, sender, hidden, deleted, hidden by) of a message, None without one."""
        number = read_id(id)
        rows = await self._database.read(_MESSAGE, room.tenant, room.room, number)
        return number, rows[0] if rows else None

    async def _add(
        self, who: Identity, room: RoomId, place: tuple[int, int], kind: str, reason: str
    ) -> dict[str, Any]:
        allowed = self._chat.services.settings.chat_reports_open
        ((waiting,),) = await self._database.read(_OPEN, who.user, room.tenant)
        if waiting >= allowed:
            raise RateLimited(
                f"{waiting} of your reports wait for moderators; {allowed} may",
                retry_after_s=RETRY_S,
                limit="chat_reports_open",
                allowed=allowed,
            )
        now_ms = self._chat.rooms.now_ms
        id = self._chat.ids.new(now_ms)
        ((added,),) = await self._database.write(
            Statement(_ADD, (id, *place, kind, who.user, reason, now_ms))
        )
        if added[0] == id:
            self.reports += 1
        record(
            self._chat.core,
            who,
            f"chat_{kind}",
            room.room,
            report=text_of(added[0]),
            message=text_of(place[1]),
        )
        return {"report": text_of(added[0]), "state": added[1]}

    @property
    def _order(self) -> Order:
        return self._chat.order


def _who(session: Session) -> Identity:
    assert session.identity is not None  # nobody's sessions have no handlers
    return session.identity


def _told(row: tuple[Any, ...], own: str) -> dict[str, Any]:
    """What moderators are told; whoever appealed is not told who decided."""
    id, message, kind, reporter, reason, at_ms, state, *rest = row
    decided_by, decided_ms, sender, content, hidden, gone = rest
    told: dict[str, Any] = {
        "report": text_of(id),
        "kind": kind,
        "reason": reason,
        "at": stamp(at_ms),
        "state": state,
        "message": {"id": text_of(message), "from": sender},
    }
    if decided_ms:
        told["decided_at"] = stamp(decided_ms)
    if own:
        return told
    told |= {"by": reporter} if reporter else {}
    told |= {"decided_by": decided_by} if decided_by else {}
    said = {} if content is None else msgspec.json.decode(content, type=dict[str, Any])
    told["message"] |= {"text": said.get("text", ""), "hidden": bool(hidden), "deleted": bool(gone)}
    return told

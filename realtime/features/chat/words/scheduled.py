"""What happens later: messages that are sent when they are due, and those that are deleted then.

Both stand in tables, and whoever owns the room does what is due there, once a second: so does the next owner,
and a server that was stopped, when it is up again. A scheduled message goes from its table in the transaction
that keeps the publication, by a trigger, and its publication has a key: it is sent once.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec

from realtime.core.auth import Identity
from realtime.core.command import Command
from realtime.core.database import Statement
from realtime.core.personal import stamp
from realtime.core.sealed import refuse_reader
from realtime.core.session import Session
from realtime.errors import BadMessage, Conflict, RealtimeError
from realtime.features.chat import ids
from realtime.features.chat.asking import identity_of
from realtime.features.chat.rooms.state import check_send
from realtime.features.chat.words.draft import Draft, Nothing, Schedule, Unschedule
from realtime.features.chat.words.said import check_text
from realtime.features.chat.words.times import read_time
from realtime.ids import RoomId, RoomName, TenantId, UserId

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat

log: Final = logging.getLogger("realtime.chat")

LOOK_S: Final = 1.0
DUE_AT_ONCE: Final = 200
AHEAD_S_MAX: Final = 366 * 86_400
LISTED_MAX: Final = 1_000
NOBODY: Final = UserId("")
_STORED_ID: Final = (1 << 62) - 1


class Scheduler:
    """Sends and deletes what is due in the rooms that this worker owns."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._clock = chat.services.clock
        self._next_look = 0.0
        self._looking = False
        self._busy: set[tuple[str, int]] = set()  # what is being done
        self.sent = 0
        self.expired = 0

    def tick(self) -> None:
        """Look what is due, about once a second."""
        now = self._clock.monotonic()
        if now >= self._next_look and not self._looking:
            self._next_look = now + LOOK_S
            self._looking = True
            self._chat.services.spawn(self._look())

    # -- messages that are sent later -----------------------------------------------------------------------

    async def schedule(self, command: Command, asked: Schedule) -> dict[str, Any]:
        """Keep a message until it is due. Its text is looked at now, and its sender's rights again then."""
        room, identity = command.room, command.identity
        flags = self._chat.core.rules.of(room)
        if flags.end_to_end or flags.encrypted:
            raise refuse_reader("scheduled message")
        at_ms, now_ms = read_time("at", asked.at), self._chat.rooms.now_ms
        if not now_ms < at_ms <= now_ms + AHEAD_S_MAX * 1000:
            raise BadMessage("`at` has to be within the next 366 days")
        draft = msgspec.convert(
            {name: getattr(asked, name) for name in Draft.__struct_fields__ if hasattr(asked, name)}, Draft
        )
        async with self._chat.rooms.turn(room) as owned:
            standing = await self._chat.rooms.standing(room, identity.user)
            if not command.trusted:
                check_send(owned.room, msgspec.structs.replace(standing, sent_ms=0), now_ms)
            await self._check_count(identity)
            if self._chat.order.examines(room):
                draft = await self._chat.order.examine(command, owned.room, draft)
            check_text(draft.text, self._chat.services.settings.chat_message_chars, draft.attachments)
            files = await self._chat.files.claim(command, draft.attachments) if draft.attachments else []
            id = _id_by_key(command) if command.key else self._chat.ids.new(now_ms)
            kept = msgspec.to_builtins(draft) | {
                "scheduled": ids.text_of(id),
                "files": files,
                "here": self._chat.words.may_call(command, owned, standing),
            }
            await self._chat.services.database.write(
                Statement(
                    "INSERT INTO chat_scheduled (id, tenant, room, user_id, at_ms, draft) "
                    "VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING",
                    (id, *room, identity.user, at_ms, msgspec.json.encode(kept).decode()),
                )
            )
        return {"id": ids.text_of(id)}

    async def scheduled(self, session: Session, room: RoomId | None, asked: Nothing) -> dict[str, Any]:
        """Return what the asker has scheduled in a room, or in all: what is due first, first."""
        identity = identity_of(session)
        found = await self._chat.services.database.read(
            "SELECT id, room, at_ms, draft, error FROM chat_scheduled WHERE tenant = $1 AND user_id = $2 "
            "AND ($3 = '' OR room = $3) ORDER BY at_ms, id LIMIT $4",
            identity.tenant,
            identity.user,
            "" if room is None else room.room,
            LISTED_MAX,
        )
        return {"scheduled": [_listed(*row) for row in found]}

    async def unschedule(self, session: Session, room: RoomId | None, asked: Unschedule) -> dict[str, Any]:
        """Let a message not be sent. Raises BadMessage: the asker has none of that id."""
        identity, id = identity_of(session), ids.read_id(asked.id)
        (removed,) = await self._chat.services.database.write(
            Statement(
                "DELETE FROM chat_scheduled WHERE id = $1 AND tenant = $2 AND user_id = $3 RETURNING id",
                (id, identity.tenant, identity.user),
            )
        )
        if not removed:
            raise BadMessage(f"no message {asked.id} of yours waits to be sent")
        return {}

    async def _check_count(self, identity: Identity) -> None:
        most = self._chat.services.settings.chat_scheduled_max
        found = await self._chat.services.database.read(
            "SELECT count(*) AS n FROM chat_scheduled WHERE tenant = $1 AND user_id = $2",
            identity.tenant,
            identity.user,
        )
        if found[0][0] >= most:
            raise Conflict(
                f"{most} messages of yours wait to be sent, which is as many as may",
                limit="chat_scheduled_max",
            )

    # -- what is due ----------------------------------------------------------------------------------------

    async def _look(self) -> None:
        try:
            for id, tenant, name, user, draft in await self._due():
                room = RoomId(TenantId(tenant), RoomName(name))
                self._begin(("send", id), room, self._send(room, id, UserId(user), draft))
            for id, tenant, name in await self._over():
                room = RoomId(TenantId(tenant), RoomName(name))
                self._begin(("expire", id), room, self._expire(room, id))
        except RealtimeError as error:
            log.debug("what is due was not found: %s", error.message)
        except Exception:
            log.exception("what is due was not found")
        finally:
            self._looking = False

    async def _due(self) -> list[Any]:
        return await self._chat.services.database.read(
            "SELECT id, tenant, room, user_id, draft FROM chat_scheduled WHERE error = '' AND at_ms <= $1 "
            "ORDER BY at_ms, id LIMIT $2",
            self._chat.rooms.now_ms,
            DUE_AT_ONCE,
        )

    async def _over(self) -> list[Any]:
        return await self._chat.services.database.read(
            "SELECT m.id AS id, r.tenant AS tenant, r.name AS name FROM chat_messages m "
            "JOIN rooms r ON r.id = m.room WHERE m.expires_ms IS NOT NULL AND m.deleted_ms = 0 "
            "AND m.expires_ms <= $1 ORDER BY m.expires_ms, m.id LIMIT $2",
            self._chat.rooms.now_ms,
            DUE_AT_ONCE,
        )

    def _begin(self, what: tuple[str, int], room: RoomId, work: Any) -> None:
        """Do what is due, unless it is being done, or for others to do."""
        if what in self._busy or self._chat.core.cluster.fence(room) is None:
            work.close()
            return
        self._busy.add(what)
        self._chat.services.spawn(self._do(what, work))

    async def _do(self, what: tuple[str, int], work: Any) -> None:
        try:
            await work
        except RealtimeError as error:
            log.debug("%s of %d: %s", *what, error.message)
        except Exception:
            log.exception("%s of %d failed", *what)
        finally:
            self._busy.discard(what)

    async def _send(self, room: RoomId, id: int, user: UserId, draft: str) -> None:
        whose, why = Identity(user, room.tenant), ""
        try:
            outcome = self._chat.core.order(
                room, "chat_message", draft.encode(), whose, trusted=True, key=f"scheduled-{id}"
            )
            if not isinstance(outcome, bytes):
                await outcome
            self.sent += 1
        except RealtimeError as error:
            if error.retryable:
                return  # the next look finds it again
            why = error.message
        # It went with the publication, unless it could not be sent.
        change = "UPDATE chat_scheduled SET error = $2 WHERE id = $1" if why else _SENT
        values = (id, why) if why else (id,)
        await self._chat.services.database.write(Statement(change, values))

    async def _expire(self, room: RoomId, id: int) -> None:
        content = msgspec.json.encode({"id": ids.text_of(id)})
        outcome = self._chat.core.order(
            room, "chat_delete", content, Identity(NOBODY, room.tenant), trusted=True
        )
        if not isinstance(outcome, bytes):
            await outcome
        self.expired += 1


_SENT: Final = "DELETE FROM chat_scheduled WHERE id = $1"


def _id_by_key(command: Command) -> int:
    """The same for a repeat."""
    told = "\0".join((*command.room, command.identity.user, command.key or ""))
    return int.from_bytes(hashlib.sha256(told.encode()).digest()[:8]) & _STORED_ID


def _listed(id: int, room: str, at_ms: int, draft: str, error: str) -> dict[str, Any]:
    said = msgspec.json.decode(draft)
    kept = {
        name: said[name] for name in ("text", "reply_to", "thread", "lang", "expires_s") if said.get(name)
    }
    told = {"id": ids.text_of(id), "room": room, "at": stamp(at_ms), **kept}
    if said.get("files"):
        told["attachments"] = said["files"]
    return told | {"error": error} if error else told

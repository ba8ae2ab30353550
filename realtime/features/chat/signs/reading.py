"""How far users have read: one position a user and room, over all devices, that only rises.

What clients say is gathered, one position a user and room once an interval, and written for all of them
together, at most once a tick. The ack waits for that; then the user's devices are told on all workers, and
the room's members, unless there are too many or the user is invisible.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from realtime.core.contracts import Clock
from realtime.core.core import Core
from realtime.core.database import Database, Statement
from realtime.core.pending import Pending
from realtime.core.router import Spawn
from realtime.core.session import Session
from realtime.errors import BadMessage, RateLimited, RealtimeError, Unavailable
from realtime.features.chat import ids
from realtime.features.chat.signs.positions import Reached, advance, positions
from realtime.ids import RoomId, UserId
from realtime.native.encode import encode_reply, json_string
from realtime.native.message import Envelope

TYPE: Final = "chat_read_receipt"
WRITTEN_MAX: Final = 2_000
"""Positions in one transaction."""
WAITING_MAX: Final = 50_000
"""Positions that wait to be written; above it a reader is refused."""
ASKERS_MAX: Final = 100
"""Acks of one user that wait for one position."""

Key = tuple[RoomId, UserId]


class Unwritten:
    """The furthest that a user said of a room since the last write, and who waits for it to be kept."""

    __slots__ = ("askers", "id", "kept", "offset")

    def __init__(self) -> None:
        self.askers = 0
        self.id = 0
        self.offset = 0
        self.kept: Pending[Reached] = Pending()


class Reading:
    """Positions on their way from clients of this worker to the table, and what members hear of them.

    `is_silent` says of whom nobody is to know.
    """

    def __init__(
        self,
        core: Core,
        database: Database,
        clock: Clock,
        spawn: Spawn,
        *,
        interval_s: float,
        members_max: int,
        is_silent: Callable[[RoomId, UserId], bool | Awaitable[bool]],
    ) -> None:
        self._core = core
        self._database = database
        self._clock = clock
        self._spawn = spawn
        self._interval_s = interval_s
        self._members_max = members_max
        self._is_silent = is_silent
        self._waiting: dict[Key, Unwritten] = {}
        self._written_at: dict[Key, float] = {}  # monotonic s, within the last interval; oldest first
        self._writing = False
        self.written = 0

    def __len__(self) -> int:
        return len(self._waiting)

    async def read(self, session: Session, message: Envelope, *, id: str | None, offset: int | None) -> None:
        """Keep that a user has read up to a message, and acknowledge it once it is kept, with the position.

        Raises:
            BadMessage: it names no room, or not one of a message id and an offset.
            NotJoined, Forbidden: this session may not say so there.
            RateLimited: too many of this user's wait for the same room.
            Unavailable: it is not kept, or nobody knows; a repeat does no harm.
        """
        if (id is None) == (offset is None):
            raise BadMessage(f"{TYPE!r} says one of `id` and `offset`: up to which message you have read")
        up_to = 0 if id is None else ids.read_id(id)
        room = self._core.membership.joined_room(session, message)
        self._core.permit(session, message)
        identity = session.identity
        assert identity is not None  # nobody's sessions are in no rooms
        reached = await self._note((room.key, identity.user), up_to, offset or 0)
        if message.id is not None:
            session.send(encode_reply("ack", message.id, room.json, msgspec.json.encode(reached.shown())))

    def tick(self) -> None:
        """Write what is due."""
        now = self._clock.monotonic()
        for key in tuple(self._written_at):
            if self._written_at[key] + self._interval_s > now:
                break
            del self._written_at[key]
        if self._waiting and not self._writing:
            due = [key for key in self._waiting if key not in self._written_at][:WRITTEN_MAX]
            if due:
                self._spawn(self._write_due(due))

    async def settle(self) -> None:
        """Write all that waits."""
        while self._waiting:
            await self._write(list(self._waiting)[:WRITTEN_MAX])

    def _note(self, key: Key, id: int, offset: int) -> Pending[Reached]:
        unwritten = self._waiting.get(key)
        if unwritten is None:
            if len(self._waiting) >= WAITING_MAX:
                raise Unavailable("too many positions wait to be kept", retry_after_s=self._interval_s)
            unwritten = self._waiting[key] = Unwritten()
        if unwritten.askers >= ASKERS_MAX:
            said = f"{ASKERS_MAX} positions of yours in this room wait to be kept: one in a second is enough"
            raise RateLimited(said, retry_after_s=self._interval_s)
        unwritten.askers += 1
        unwritten.id = max(unwritten.id, id)
        unwritten.offset = max(unwritten.offset, offset)
        return unwritten.kept

    async def _write_due(self, keys: list[Key]) -> None:
        self._writing = True
        try:
            await self._write(keys)
        finally:
            self._writing = False

    async def _write(self, keys: list[Key]) -> None:
        """Write these in one transaction; it never raises."""
        taken = {key: self._waiting.pop(key) for key in keys}
        given = msgspec.json.encode(
            [(room.tenant, room.room, user, each.id, each.offset) for (room, user), each in taken.items()]
        ).decode()
        now_ms = int(self._clock.time() * 1000)
        dialect = self._database.dialect
        try:
            risen, found = await self._database.write(
                Statement(advance(dialect), (given, now_ms)), Statement(positions(dialect), (given,))
            )
        except RealtimeError as error:
            for each in taken.values():
                each.kept.settle(error)
            return
        except Exception as error:  # a mistake of ours; nobody is to wait for ever
            for each in taken.values():
                each.kept.settle(Unavailable("the position is not kept", retry_after_s=1.0))
            raise error
        self.written += len(risen)
        now = self._clock.monotonic()
        known = {(tenant, room, user): Reached(id, offset) for tenant, room, user, id, offset in found}
        news = {(tenant, room, user) for tenant, room, user in risen}
        for (room, user), each in taken.items():
            name = (room.tenant, room.room, user)
            reached = known.get(name, Reached(0, 0))
            self._written_at.pop((room, user), None)
            self._written_at[room, user] = now
            each.kept.settle(reached)
            if name in news:
                self._spawn(self._tell(room, user, reached))

    async def _tell(self, room: RoomId, user: UserId, reached: Reached) -> None:
        """Tell the user's devices, then the room."""
        content = msgspec.json.encode({"user": user, **reached.shown()})
        whose = json_string(user)
        push = self._core.signals.push(room.room, TYPE, content, whose)
        await self._core.notifications.push(room.tenant, user, push)
        silent = self._is_silent(room, user)
        if not (silent if isinstance(silent, bool) else await silent):
            live = self._core.membership.find(room)
            if live is not None and len(live.roster) <= self._members_max:
                self._core.signals.send(room, TYPE, content, whose)

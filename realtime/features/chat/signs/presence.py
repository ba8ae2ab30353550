"""Presence with a status: kept for each user, told to the rooms that they are in, and to whoever shares one.

All devices of a user have one status. Each worker knows that of its own users, so that signs of invisible
ones are held back there without a question; a change is acknowledged when all workers have heard it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Collection, Iterable
from typing import Any, Final

import msgspec

from realtime.core.auth import Identity
from realtime.core.cluster import WorkerId
from realtime.core.contracts import Clock
from realtime.core.control import ask_all
from realtime.core.core import Core
from realtime.core.database import Database
from realtime.core.pending import Pending
from realtime.core.rosters import Spans
from realtime.core.router import Spawn
from realtime.core.session import Session
from realtime.errors import BadMessage, RateLimited, RealtimeError, Unavailable
from realtime.features.chat.rules import KIND
from realtime.features.chat.signs import people
from realtime.features.chat.signs.people import INVISIBLE, NOTHING, Key, People, Person, Said
from realtime.features.chat.signs.people_table import PeopleTable
from realtime.ids import RoomName, TenantId, UserId
from realtime.native.encode import json_string

log: Final = logging.getLogger("realtime.chat")

TYPE: Final = "chat_presence"
VERB: Final = "chat_presence"
SEEN_S: Final = 300.0
"""So often it is kept of all who are here that they are: a worker that dies loses no more of `last_seen`."""
AGAIN_S: Final = 1.0
ASKERS_MAX: Final = 100
"""Acks of one user that wait for a status."""
AT_ONCE: Final = 500
"""Users in one question to the table, and in one transaction."""


class Change(msgspec.Struct, frozen=True, array_like=True):
    """What workers are told: a user says this of themselves now."""

    tenant: TenantId
    user: UserId
    said: Said


class PresenceState(msgspec.Struct, array_like=True):
    """`Presence`, handed over; who is leaving with the end of it (monotonic seconds)."""

    known: list[tuple[TenantId, UserId, Said, int]]
    seen: list[tuple[TenantId, UserId, int]]
    leaving: list[tuple[TenantId, UserId, float]]


_decode = msgspec.msgpack.Decoder(Change).decode
_decode_rooms = msgspec.msgpack.Decoder(list[RoomName]).decode


class Unkept:
    """The newest that a user said of themselves since it was kept last, and who waits for it."""

    __slots__ = ("askers", "kept", "status", "text")

    def __init__(self) -> None:
        self.askers = 0
        self.status = people.ONLINE
        self.text = ""
        self.kept: Pending[Said] = Pending()


class Presence:
    """The presence of this worker's users."""

    def __init__(
        self,
        core: Core,
        database: Database,
        clock: Clock,
        spawn: Spawn,
        *,
        interval_s: float,
        grace_s: float,
        members_max: int,
    ) -> None:
        self.table = PeopleTable(database)
        self._core = core
        self._clock = clock
        self._spawn = spawn
        self._members_max = members_max
        self._people = People()
        self._new: dict[Key, None] = {}  # of whom the table is to be asked
        self._seen: dict[Key, int] = {}  # when who was last here, as it is still to be kept
        self._unkept: dict[Key, Unkept] = {}
        self._told: Spans[Key] = Spans(clock, interval_s)  # whose status was kept and told just now
        self._leaving: Spans[Key] = Spans(clock, grace_s)
        self._next_seen = clock.monotonic() + SEEN_S
        self._again_at = 0.0  # after the table gave no answer
        self._busy = False
        self._meeting = False
        core.cluster.answer(VERB, self._on_change)
        core.watch_connections(self._on_connection)

    def __len__(self) -> int:
        return len(self._people)

    def is_silent(self, tenant: TenantId, user: UserId) -> bool | Awaitable[bool]:
        """Whether nobody is to see signs of a user of this worker; to be awaited of one who has just come."""
        person = self._people.find((tenant, user))
        if person is None or person.said is not None:
            return person is None or person.silent
        return self._is_silent(person)

    async def _is_silent(self, person: Person) -> bool:
        await person.known
        return person.silent

    def set(self, key: Key, status: str, text: str) -> Pending[Said]:
        """Have it kept and told what a user says of themselves; at most once an interval, the newest.

        Raises:
            RateLimited: too many of this user's wait to be kept.
        """
        unkept = self._unkept.get(key)
        if unkept is None:
            unkept = self._unkept[key] = Unkept()
        if unkept.askers >= ASKERS_MAX:
            said = f"{ASKERS_MAX} statuses of yours wait to be kept: one in a second is enough"
            raise RateLimited(said, retry_after_s=self._told.span_s)
        unkept.askers += 1
        unkept.status, unkept.text = status, text
        return unkept.kept

    async def seen_by(self, session: Session, users: Collection[UserId]) -> dict[str, Any]:
        """Return what a session may see of `users`; nothing of those with whom it shares no room, whether
        they are there or not.

        Raises:
            Unavailable: the table, or who knows who is connected, gives no answer.
        """
        identity = session.identity
        assert identity is not None  # nobody's sessions have no questions
        tenant, asker = identity.tenant, identity.user
        live = _here_with(session)
        rest = [user for user in users if user not in live and user != asker]
        shared = await self._sharing(session, rest) if rest else frozenset[UserId]()
        visible = [user for user in users if user in live or user in shared or user == asker]
        said = await self.table.read([(tenant, user) for user in visible])
        connected = await asyncio.gather(*(self._core.signals.is_connected(tenant, each) for each in visible))
        found: dict[str, Any] = {}
        for user, is_connected in zip(visible, connected, strict=True):
            known = said.get((tenant, user), NOTHING)
            if user == asker:
                found[user] = people.shown_to_self(known)
            else:
                found[user] = people.shown(known, connected=is_connected)
        return found

    def tick(self) -> None:
        """Begin what is due; one thing at a time waits for the table."""
        now = self._clock.monotonic()
        if now >= self._next_seen:
            self._next_seen = now + SEEN_S
            at_ms = self._now_ms
            self._seen.update(dict.fromkeys(self._people.connected(), at_ms))
        for _ in self._told.over():
            pass
        if now < self._again_at:
            return
        if self._new and not self._meeting:  # the table gave no answer before
            self._meeting = True
            self._spawn(self._meet_all())
        if self._busy:
            return
        gone = list(self._leaving.over())
        due = [key for key in self._unkept if key not in self._told][:AT_ONCE]
        if gone or due or self._seen:
            self._busy = True
            self._spawn(self._work(gone, due))

    async def settle(self) -> None:
        """Keep and tell what users have said, however short ago they did so before."""
        await self._keep_said(list(self._unkept), tell=True)

    def export(self) -> PresenceState:
        """Return what is known of whom, for another process."""
        known = [(*key, said, went_ms) for key, (said, went_ms) in self._people.said().items()]
        seen = [(*key, at_ms) for key, at_ms in self._seen.items()]
        return PresenceState(known, seen, [(*key, end) for key, end in self._leaving.export()])

    def adopt(self, state: PresenceState) -> None:
        """Take over what another process knew, before anybody is here."""
        for tenant, user, said, went_ms in state.known:
            self._people.adopt((tenant, user), said, went_ms)
        self._seen.update({(tenant, user): at_ms for tenant, user, at_ms in state.seen})
        for tenant, user, end in state.leaving:
            self._leaving.adopt((tenant, user), end)

    async def close(self) -> None:
        """Keep who was here, and what they said."""
        at_ms = self._now_ms
        self._seen.update(dict.fromkeys(self._people.connected(), at_ms))
        try:
            while self._seen:
                await self._keep_seen(AT_ONCE)
        except Unavailable as error:
            log.warning("presence: when users were last seen is not kept: %s", error.message)
        await self._keep_said(list(self._unkept), tell=False)

    @property
    def _now_ms(self) -> int:
        return int(self._clock.time() * 1000)

    # -- who comes and goes ---------------------------------------------------------------------------------

    def _on_connection(self, identity: Identity, came: bool) -> None:
        key = (identity.tenant, identity.user)
        if came:
            person = self._people.came(key)
            if person.said is None:
                self._new[key] = None
                if not self._meeting:
                    self._meeting = True
                    self._spawn(self._meet_all())
            if key in self._leaving:
                self._leaving.cancel(key)
            return
        person_gone = self._people.went(key, self._now_ms)
        if person_gone is not None and not person_gone.connections:
            self._seen[key] = person_gone.went_ms
            self._leaving.begin(key)

    async def _work(self, gone: list[Key], due: list[Key]) -> None:
        """Do what is due; whatever fails is tried again or forgotten, and ends nothing."""
        try:
            await self._keep_seen(AT_ONCE)
            await self._keep_said(due, tell=True)
            await self._part(gone)
        except Unavailable as error:
            self._rest(error)
        except Exception:  # whatever it is, it is a mistake of ours, and presence's alone
            log.exception("presence failed")
        finally:
            for key in gone:
                self._forget(key)
            self._busy = False

    async def _meet_all(self) -> None:
        """Get to know who has come, at once, and all together who comes meanwhile."""
        try:
            while self._new:
                await self._meet(list(self._new)[:AT_ONCE])
        except Unavailable as error:
            self._rest(error)
        except Exception:  # a mistake of ours, and presence's alone
            log.exception("presence failed")
        finally:
            self._meeting = False

    def _rest(self, error: Unavailable) -> None:
        log.warning("presence: %s", error.message)
        self._again_at = self._clock.monotonic() + AGAIN_S

    async def _meet(self, keys: list[Key]) -> None:
        """Ask the table of who has come, and let the others know."""
        found = await self.table.read(keys)
        arrived = []
        for key in keys:
            self._new.pop(key, None)
            person = self._people.find(key)
            if person is not None and person.said is None:  # else it was told meanwhile, which is newer
                person.learn(found.get(key, NOTHING))
                if person.connections and not person.silent:
                    arrived.append(key)
        rooms = await self.table.rooms(arrived, self._now_ms)
        for key in await self._only_here(arrived):
            person = self._people.find(key)
            if person is not None:
                self._tell(key, person, rooms.get(key, ()))

    async def _part(self, keys: list[Key]) -> None:
        """Let the others know who has gone for good."""
        away = [
            (key, person) for key in keys if (person := self._people.find(key)) and not person.connections
        ]
        seen = [(key, person) for key, person in away if not person.silent]
        rooms = await self.table.rooms([key for key, _ in seen], self._now_ms)
        alone = await self._only_here([key for key, _ in seen])
        for key, person in seen:
            if key in alone and not person.connections:
                person.said = msgspec.structs.replace(person.said or NOTHING, seen_ms=person.went_ms)
                self._tell(key, person, rooms.get(key, ()))

    async def _only_here(self, keys: list[Key]) -> list[Key]:
        """Return those who are on no other worker."""
        elsewhere = await asyncio.gather(*(self._core.signals.is_elsewhere(*key) for key in keys))
        return [key for key, is_elsewhere in zip(keys, elsewhere, strict=True) if not is_elsewhere]

    def _forget(self, key: Key) -> None:
        person = self._people.find(key)
        if person is not None and not person.connections and key not in self._leaving:
            self._people.forget(key)

    async def _keep_seen(self, at_most: int) -> None:
        seen = dict(list(self._seen.items())[:at_most])
        if seen:
            await self.table.see(seen)
            for key, at_ms in seen.items():
                if self._seen.get(key) == at_ms:
                    del self._seen[key]

    # -- what they say --------------------------------------------------------------------------------------

    async def _keep_said(self, keys: Iterable[Key], *, tell: bool) -> None:
        taken = {key: self._unkept.pop(key) for key in keys if key in self._unkept}
        if not taken:
            return
        try:
            said = await self.table.say(
                {key: (each.status, each.text) for key, each in taken.items()}, self._now_ms
            )
        except RealtimeError as error:
            for each in taken.values():
                each.kept.settle(error)
            return
        for key in taken:
            self._told.begin(key)
        if tell:
            try:
                rooms = await self.table.rooms(list(taken), self._now_ms)
            except Unavailable as error:
                self._rest(error)
                rooms = {}  # who is in a room now is told; it is kept, so it is acknowledged
            await asyncio.gather(
                *(self._let_know(key, said[key], each, rooms.get(key, ())) for key, each in taken.items())
            )

    async def _let_know(self, key: Key, said: Said, unkept: Unkept, rooms: Collection[RoomName]) -> None:
        """Let all workers know, then the rooms that the user is in, then who has said it."""
        try:
            answers = await ask_all(
                self._core.cluster, VERB, msgspec.msgpack.encode(Change(key[0], key[1], said))
            )
        except RealtimeError as error:
            unkept.kept.settle(error)
            return
        live = [room for answer in answers for room in _decode_rooms(answer)]
        self._send(key, people.shown(said, connected=True), {*rooms, *live})
        own = msgspec.json.encode({"user": key[1], **people.shown_to_self(said)})
        push = b'{"type":"%b","from":%b,"content":%b}' % (TYPE.encode(), json_string(key[1]), own)
        unkept.kept.settle(said)
        await self._core.notifications.push(*key, push)

    def _on_change(self, teller: WorkerId, body: bytes) -> bytes:
        try:
            change = _decode(body)
        except msgspec.MsgspecError as error:
            raise BadMessage(f"{VERB}: {error}") from error
        key = (change.tenant, change.user)
        person = self._people.find(key)
        if person is None:
            return msgspec.msgpack.encode([])
        person.learn(change.said)
        if change.said.status == INVISIBLE:
            self._seen.pop(key, None)
        return msgspec.msgpack.encode(self._rooms_here(key))

    def _rooms_here(self, key: Key) -> list[RoomName]:
        names = self._core.signals.rooms_here(*key)
        return [room for room in names if room.startswith(f"{KIND}:")]

    def _tell(self, key: Key, person: Person, rooms: Collection[RoomName]) -> None:
        """Tell of one who has come or gone. In rooms that have no members but those who are there now, their
        rosters do.
        """
        self._send(key, people.shown(person.said or NOTHING, connected=bool(person.connections)), rooms)

    def _send(self, key: Key, shown: dict[str, Any], rooms: Collection[RoomName]) -> None:
        content = msgspec.json.encode({"user": key[1], **shown})
        self._core.signals.tell_presence(key[0], rooms, TYPE, content, members_max=self._members_max)

    # -- who may see them -----------------------------------------------------------------------------------

    async def _sharing(self, session: Session, users: list[UserId]) -> frozenset[UserId]:
        """Return which of `users` are members of a room that the session's user is a member of too, and may
        see who is in.
        """
        assert session.identity is not None
        tenant, asker = session.identity.tenant, session.identity.user
        now_ms = self._now_ms
        kind, rights_in = self._core.catalog.kinds[KIND], self._core.membership.rights_in
        rooms = await self.table.numbered_rooms(tenant, asker, now_ms)
        seen = [number for number, name in rooms if rights_in(session, kind, name).presence]
        return await self.table.members(seen, users, now_ms)


def _here_with(session: Session) -> frozenset[UserId]:
    """Return who is in a chat room now that the session is in too, and may see who is there."""
    found: set[UserId] = set()
    for room in session.rooms:
        if room.kind.name == KIND and session not in room.blind:
            found.update(UserId(msgspec.json.decode(each, type=str)) for each in room.roster.users)
    return frozenset(found)

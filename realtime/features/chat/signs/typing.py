"""Who types. Clients say it as often as they like; a room's owner tells its members, once an interval.

The worker of whoever types passes on one word an interval, and that they stop or are gone; the room's owner
puts together who types there, ends what is not said again, and tells all of it at once. What is told holds
for `expires_s`, and is told again within it: a worker that dies leaves nobody typing for ever.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import msgspec

from realtime.core.cluster import WorkerId, room_slot
from realtime.core.contracts import Clock
from realtime.core.core import Core
from realtime.core.room import Room
from realtime.core.session import Session
from realtime.errors import BadMessage
from realtime.ids import RoomId, RoomName, TenantId, UserId
from realtime.native.encode import encode_reply, json_string
from realtime.native.message import Envelope

TYPE: Final = "chat_typing"
VERB: Final = "chat_typing"
NAMED_MAX: Final = 20


class Word(msgspec.Struct, frozen=True, array_like=True):
    """What a user's worker lets the owner of a room know."""

    tenant: TenantId
    room: RoomName
    user: UserId
    typing: bool


_decode = msgspec.msgpack.Decoder(Word).decode


class Typists:
    """Who types in one room, as its owner knows it. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._ends: dict[UserId, float] = {}
        self._changed = False
        self._told_at = float("-inf")

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def idle(self) -> bool:
        """Whether nobody types, and everybody knows."""
        return not self._ends and not self._changed

    def begin(self, user: UserId, until: float) -> None:
        """Let a user type until then."""
        self._changed = self._changed or user not in self._ends
        self._ends[user] = until

    def end(self, user: UserId) -> None:
        """Let a user type no longer. One who does not type is no error."""
        self._changed = self._ends.pop(user, None) is not None or self._changed

    def due(self, now: float, interval_s: float, again_s: float) -> dict[str, Any] | None:
        """Return what is to be told now, which counts as told; None where nothing is.

        That is a change, an interval after the last, and after `again_s` all of it again.
        """
        for user in [each for each, until in self._ends.items() if until <= now]:
            self.end(user)
        again = bool(self._ends) and now >= self._told_at + again_s
        if not again and not (self._changed and now >= self._told_at + interval_s):
            return None
        self._changed, self._told_at = False, now
        return {"users": list(self._ends)[:NAMED_MAX], "count": len(self._ends)}


class Typing:
    """Both sides on one worker: of users that are here, and of rooms that are owned here."""

    def __init__(
        self, core: Core, clock: Clock, *, typing_s: float, interval_s: float, members_max: int
    ) -> None:
        self._core = core
        self._clock = clock
        self._typing_s = typing_s
        self._interval_s = min(interval_s, typing_s / 2)
        self._members_max = members_max
        self._said: dict[tuple[RoomId, UserId], float] = {}  # when it was passed on last
        self._rooms: dict[RoomId, Typists] = {}
        core.cluster.answer(VERB, self._on_word)

    def say(self, session: Session, message: Envelope, *, typing: bool, silent: bool) -> None:
        """Take it from a client, and acknowledge it; `silent`: nobody is to know.

        Raises:
            BadMessage: it names no room.
            NotJoined, Forbidden: this session may not say so there.
            RateLimited: its user or tenant may not cause as many deliveries now.
        """
        room = self._core.membership.joined_room(session, message)
        identity = session.identity
        assert identity is not None  # nobody's sessions are in no rooms
        key, now = (room.key, identity.user), self._clock.monotonic()
        if not typing or now >= self._said.get(key, float("-inf")) + self._interval_s:
            self._core.permit(session, message)
            if not typing:
                self._stop(key)
            elif not silent and len(room.roster) <= self._members_max:
                self._said[key] = now
                self._pass_on(key, typing=True)
        if message.id is not None:
            session.send(encode_reply("ack", message.id, room.json, b"{}"))

    def end(self, room: RoomId, user: UserId) -> None:
        """A message of the user has been sent to a room that is owned here: whoever sent it types no more."""
        typists = self._rooms.get(room)
        if typists is not None:
            typists.end(user)

    def tick(self) -> None:
        """Pass on who is gone, end what is over, and tell what is due."""
        now = self._clock.monotonic()
        for key, at in tuple(self._said.items()):
            if now >= at + self._typing_s:
                del self._said[key]  # the owner ends it by itself
            elif not _is_in(self._core.membership.find(key[0]), key[1]):
                self._stop(key)
        for room, typists in tuple(self._rooms.items()):
            told = typists.due(now, self._interval_s, self._typing_s / 2)
            if told is not None:
                content = msgspec.json.encode(told | {"expires_s": self._typing_s})
                self._core.signals.send(room, TYPE, content)
            if typists.idle:
                del self._rooms[room]

    def disown(self, slots: Collection[int]) -> None:
        """Drop who types in rooms that others own now: they hear it within an interval."""
        gone = frozenset(slots)
        for room in [each for each in self._rooms if room_slot(each) in gone]:
            del self._rooms[room]

    @property
    def typists(self) -> int:
        """How many type, counted in each room that is owned here."""
        return sum(map(len, self._rooms.values()))

    def _stop(self, key: tuple[RoomId, UserId]) -> None:
        if self._said.pop(key, None) is not None:
            self._pass_on(key, typing=False)

    def _pass_on(self, key: tuple[RoomId, UserId], *, typing: bool) -> None:
        room, user = key
        owner = self._core.cluster.owner(room)
        if owner is None:
            return  # for a moment nobody is; it is said again
        word = Word(room.tenant, room.room, user, typing)
        self._core.cluster.tell(VERB, msgspec.msgpack.encode(word), owner)

    def _on_word(self, teller: WorkerId, body: bytes) -> None:
        try:
            word = _decode(body)
        except msgspec.MsgspecError as error:
            raise BadMessage(f"{VERB}: {error}") from error
        room = RoomId(word.tenant, word.room)
        if self._core.cluster.fence(room) is None:
            return
        if word.typing:
            typists = self._rooms.setdefault(room, Typists())
            typists.begin(word.user, self._clock.monotonic() + self._typing_s)
        else:
            self.end(room, word.user)


def _is_in(room: Room | None, user: UserId) -> bool:
    """Whether a user has a session in a room on this worker."""
    return room is not None and room.roster.users.get(json_string(user), 0) > 0

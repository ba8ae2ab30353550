"""What becomes of messages: edited, deleted, reacted to, pinned. Each is one more publication of the room.

A change is decided on what the tables have and on what is on its way there: a change that is being kept
counts from the moment on that it was published.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Collection
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from realtime.core.cluster import room_slot
from realtime.core.command import Command
from realtime.core.personal import stamp
from realtime.core.sealed import refuse_reader
from realtime.errors import BadMessage, Conflict, Forbidden, Unavailable
from realtime.features.chat import ids
from realtime.features.chat.rooms.rooms import Owned
from realtime.features.chat.rooms.state import DIRECT, Role, check_send
from realtime.features.chat.words import said as saying
from realtime.features.chat.words.draft import Delete, Draft, Edit, Pin, React
from realtime.features.chat.words.entities import find
from realtime.features.chat.words.said import Said, check_emoji, check_text
from realtime.features.chat.words.shown import Row
from realtime.ids import RoomId

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat

EDIT: Final = "chat_edit"
DELETE: Final = "chat_delete"
REACT: Final = "chat_react"
PIN: Final = "chat_pin"

Answer = dict[str, Any]
Key = tuple[RoomId, int]


class Change(NamedTuple):
    """One that is being kept: its type, and the content of the push."""

    type: str
    content: dict[str, Any]


class Seen(NamedTuple):
    """A message as it is with what is on its way, and what is: oldest first."""

    row: Row
    under_way: tuple[Change, ...]

    @property
    def deleted(self) -> bool:
        """Whether it is deleted, or going to be."""
        return bool(self.row.deleted_ms) or any(each.type == DELETE for each in self.under_way)


class Changes:
    """The owner's handlers of changes."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._under_way: dict[Key, list[Change]] = {}

    async def edit(self, command: Command, asked: Edit) -> Answer:
        """Say something else: its author may."""
        settings, identity = self._chat.services.settings, command.identity
        async with self._chat.rooms.turn(command.room) as owned:
            role = await self._role(command, owned)
            seen = await self._see(command, asked.id)
            self._check_editable(command, seen)
            await self._check_edits(owned, seen, settings.chat_edits_max)
            was = self._said(seen)
            draft = Draft(text=asked.text, lang=asked.lang)
            if self._chat.order.examines(command.room):
                draft = await self._chat.order.examine(command, owned.room, draft)
            check_text(draft.text, settings.chat_message_chars, was.attachments or ())
            standing = await self._chat.rooms.standing(command.room, identity.user)
            may_call = was.here or (
                "@here" in draft.text and self._chat.words.may_call(command, owned, standing)
            )
            found = find(draft.text, may_call=may_call and role > Role.NONE)
            said = replace(
                was,
                text=draft.text,
                lang=draft.lang.lower() if draft.lang else self._chat.search.language(draft.text),
                entities=found.entities or None,
                mentions=found.mentions or None,
                here=found.here,
                edited_at=stamp(self._chat.rooms.now_ms),
                scheduled="",
            )
            self._chat.order.sent(command, seen.row.id, draft)
            answer = self._publish(command, EDIT, seen.row.id, said)
        answered = await answer
        called = [user for user in found.mentions if user not in (was.mentions or ())]
        if called and "duplicate" not in answered:
            self._chat.words.mentions.notify(command, replace(said, here=False), called)
        return answered

    async def delete(self, command: Command, asked: Delete) -> Answer:
        """Leave a tombstone: its author may, and a moderator. Where it is one already nothing is done."""
        async with self._chat.rooms.turn(command.room) as owned:
            role = await self._role(command, owned)
            seen = await self._see(command, asked.id, deleted_too=True)
            if role < Role.MODERATOR and seen.row.sender != command.identity.user:
                raise Forbidden("only its author and moderators may delete a message")
            if seen.deleted:
                return {}
            said = {"id": asked.id, "by": command.identity.user or None}
            answer = self._publish(command, DELETE, seen.row.id, said)
        try:
            return await answer
        finally:
            await self._forget(command)

    async def _forget(self, command: Command) -> None:
        """Have all workers forget what was said: with the deletion the store has written over it."""
        with contextlib.suppress(Unavailable):  # it is tried again
            position, _ = await command.newest()
            await self._chat.core.forget_history(command.room, position.offset)

    async def react(self, command: Command, asked: React) -> Answer:
        """Give a message an emoji, or take it back: one of each is a user's. What is so already is left."""
        check_emoji(asked.emoji)
        user = command.identity.user
        if not user:
            raise BadMessage("a reaction is a user's: the server has none")
        async with self._chat.rooms.turn(command.room) as owned:
            await self._role(command, owned)
            seen = await self._see(command, asked.id)
            given, kinds = await self._reactions(command.room, seen, asked.emoji, user)
            if given is not asked.remove:
                return {}
            most = self._chat.services.settings.chat_reaction_kinds
            if not asked.remove and asked.emoji not in kinds and len(kinds) >= most:
                raise Conflict(
                    f"a message has {most} different reactions at most", limit="chat_reaction_kinds"
                )
            said = {"id": asked.id, "emoji": asked.emoji, "user": user, "remove": asked.remove}
            answer = self._publish(command, REACT, seen.row.id, said)
        return await answer

    async def pin(self, command: Command, asked: Pin) -> Answer:
        """Pin a message, or unpin it: moderators may, and who is in a direct room."""
        async with self._chat.rooms.turn(command.room) as owned:
            role = await self._role(command, owned)
            if role < Role.MODERATOR and owned.room.visibility != DIRECT:
                raise Forbidden("only moderators pin messages")
            seen = await self._see(command, asked.id)
            pinned = bool(seen.row.pinned)
            for change in seen.under_way:
                if change.type == PIN:
                    pinned = change.content["pinned"]
            if pinned is asked.pinned:
                return {}
            if asked.pinned:
                await self._check_pins(command.room, owned)
            said = {"id": asked.id, "pinned": asked.pinned, "by": command.identity.user or None}
            answer = self._publish(command, PIN, seen.row.id, said)
        return await answer

    def disown(self, slots: Collection[int]) -> None:
        """Forget what is under way in rooms of these slots: others look at the tables."""
        for key in [each for each in self._under_way if room_slot(each[0]) in slots]:
            del self._under_way[key]

    # -- what is asked first --------------------------------------------------------------------------------

    async def _role(self, command: Command, owned: Owned) -> Role:
        """Return what the sender counts as, who may say something here now.

        Raises:
            BadMessage: nobody reads the room's messages at the server.
            Forbidden: as `check_send`. How often one may send does not bind changes.
        """
        flags = self._chat.core.rules.of(command.room)
        if flags.end_to_end:
            raise refuse_reader(f"{command.type!r}")
        if flags.encrypted:
            raise BadMessage(f"this room is encrypted where it is kept: there is no {command.type!r}")
        if command.trusted:
            return Role.OWNER
        identity = command.identity
        standing = await self._chat.rooms.standing(command.room, identity.user)
        check_send(owned.room, replace(standing, sent_ms=0), self._chat.rooms.now_ms)
        return self._chat.rooms.role_of(identity, command.room.room, owned.room, standing)

    async def _see(self, command: Command, id: str, *, deleted_too: bool = False) -> Seen:
        """Return a message of the command's room.

        Raises:
            BadMessage: there is none, or it is deleted.
        """
        number = ids.read_id(id)
        # Before the tables are asked: what is kept meanwhile is in both, and counts once.
        under_way = tuple(self._under_way.get((command.room, number), ()))
        row = await self._chat.words.find(command.room, number, command.identity.user)
        if row is None:
            raise BadMessage(f"there is no message {id} in this room")
        seen = Seen(row, under_way)
        if seen.deleted and not deleted_too:
            raise BadMessage(f"message {id} is deleted")
        return seen

    def _said(self, seen: Seen) -> Said:
        """Return what a message says."""
        edits = [change.content["said"] for change in seen.under_way if change.type == EDIT]
        if edits:
            last: Said = edits[-1]
            return last
        try:
            return saying.decode(seen.row.content)
        except msgspec.MsgspecError as error:
            raise BadMessage("this message is none that can be edited") from error

    def _check_editable(self, command: Command, seen: Seen) -> None:
        """Raise Forbidden where the sender of a command may not edit a message, or not any more."""
        if seen.row.hidden_ms:
            raise Forbidden("this message is hidden by a moderator")
        if command.trusted:
            return
        if seen.row.sender != command.identity.user:
            raise Forbidden("only its author may edit a message")
        within_s = self._chat.services.settings.chat_edit_s
        if within_s and self._chat.rooms.now_ms - ids.at_ms(seen.row.id) > within_s * 1000:
            raise Forbidden(f"a message may be edited for {within_s} s")

    async def _check_edits(self, owned: Owned, seen: Seen, most: int) -> None:
        found = await self._chat.services.database.read(
            "SELECT count(*) AS n FROM chat_edits WHERE room = $1 AND message = $2",
            owned.room.number,
            seen.row.id,
        )
        if found[0][0] + sum(each.type == EDIT for each in seen.under_way) >= most:
            raise Conflict(f"a message is edited {most} times at most", limit="chat_edits_max")

    async def _reactions(self, room: RoomId, seen: Seen, emoji: str, user: str) -> tuple[bool, set[str]]:
        """Return whether a user has given an emoji, and all that were given."""
        found = await self._chat.services.database.read(
            "SELECT x.emoji AS emoji, max(CASE WHEN x.user_id = $4 THEN 1 ELSE 0 END) AS mine "
            "FROM rooms r JOIN chat_reactions x ON x.room = r.id "
            "WHERE r.tenant = $1 AND r.name = $2 AND x.message = $3 GROUP BY x.emoji",
            *room,
            seen.row.id,
            user,
        )
        kinds = {each for each, _ in found}
        given = any(each == emoji and mine for each, mine in found)
        for change in seen.under_way:
            if change.type == REACT:
                kinds.add(change.content["emoji"])
                if (change.content["emoji"], change.content["user"]) == (emoji, user):
                    given = not change.content["remove"]
        return given, kinds

    async def _check_pins(self, room: RoomId, owned: Owned) -> None:
        most = self._chat.services.settings.chat_pins_max
        found = await self._chat.services.database.read(
            "SELECT count(*) AS n FROM chat_pins WHERE room = $1", owned.room.number
        )
        under_way = sum(
            change.type == PIN and change.content["pinned"]
            for (each, _), changes in self._under_way.items()
            if each == room
            for change in changes
        )
        if found[0][0] + under_way >= most:
            raise Conflict(f"a room has {most} pinned messages at most", limit="chat_pins_max")

    # -- and then -------------------------------------------------------------------------------------------

    def _publish(
        self, command: Command, type: str, id: int, said: Said | dict[str, Any]
    ) -> Awaitable[Answer]:
        """Publish a change, which is under way from then on; return the awaitable of the answer."""
        receipt = command.publish(type, saying.encode(said), key=command.key)
        change = Change(type, {"said": said} if isinstance(said, Said) else said)
        key = command.room, id
        self._under_way.setdefault(key, []).append(change)
        return self._answer(key, change, receipt)

    async def _answer(self, key: Key, change: Change, receipt: Any) -> Answer:
        try:
            offset, epoch, duplicate = receipt if isinstance(receipt, tuple) else await receipt
        finally:
            left = self._under_way.get(key, [])
            if change in left:
                left.remove(change)
            if not left:
                self._under_way.pop(key, None)
        answer: Answer = {"offset": offset, "epoch": epoch.decode()}
        return answer | {"duplicate": True} if duplicate else answer

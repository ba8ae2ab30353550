"""Messages: sent, edited, answered, and what became of them.

What has to look nothing up is published at once, without a task: the room and its sender's standing are in
memory, and the text alone decides. All else waits for its turn, and whatever comes after it in that room
does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from realtime.core.cluster import room_slot
from realtime.core.command import Command
from realtime.core.contents import decode
from realtime.core.contracts import Receipt
from realtime.core.database import Statement
from realtime.core.pending import Pending
from realtime.core.personal import stamp
from realtime.errors import BadMessage
from realtime.features.chat import ids
from realtime.features.chat.part import Part
from realtime.features.chat.rooms.rooms import Owned
from realtime.features.chat.rooms.state import Role, Standing, check_send
from realtime.features.chat.words import said as saying
from realtime.features.chat.words.changes import Changes
from realtime.features.chat.words.draft import Draft, Due
from realtime.features.chat.words.importing import Importer
from realtime.features.chat.words.mentions import Mentions
from realtime.features.chat.words.said import Said, check_text, say
from realtime.features.chat.words.scheduled import Scheduler
from realtime.features.chat.words.sent_keys import SentKeys
from realtime.features.chat.words.shown import Row, columns
from realtime.ids import RoomId, UserId

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat

MESSAGE: Final = "chat_message"
HERE: Final = "chat_here"
"""The permission to call all members of a room by @here; moderators have it, and whom a rule grants it."""
NEWEST_KNOWN: Final = 50_000
ERASED_AT_ONCE: Final = 500
NOBODY: Final = UserId("")

_drafts = msgspec.json.Decoder(Draft)
_due = msgspec.json.Decoder(Due)


TURN_MESSAGES: Final = 64
"""Messages that are sent in one turn, before others have theirs."""

Queue = deque[tuple[Command, Pending[bytes]]]


class Made(NamedTuple):
    """A message that may be published; without an `id` it is sealed, and nobody reads it here."""

    id: int | None
    content: bytes
    said: Said | None


class Words(Part):
    """What is said in rooms that this worker owns."""

    def __init__(self, chat: Chat) -> None:
        super().__init__(chat)
        self.changes = Changes(chat)
        self.scheduler = Scheduler(chat)
        self.importer = Importer(chat)
        self.mentions = Mentions(chat)
        self._keys = SentKeys(self.clock, self.settings.recovery_window_s)
        self._newest: dict[RoomId, int] = {}  # the last id of each room, oldest first
        self._waiting: dict[RoomId, Queue] = {}  # what waits for its turn, or has it
        self._sent = 0

    # -- chat_message ---------------------------------------------------------------------------------------

    def send(self, command: Command) -> bytes | Awaitable[bytes]:
        """Publish a message and return its place as JSON: the owner's handler of `chat_message`.

        Raises (the awaitable too):
            BadMessage: it is empty, too long, or speaks of messages or attachments that there are not.
            Forbidden, RateLimited: as `check_send` and the room's filters.
        """
        if command.key is not None and (known := self._keys.find(command)) is not None:
            return known
        room = command.room
        if room not in self._waiting:
            at_once = self.chat.rooms.at_once(room, command.identity.user)
            if at_once is not None:
                owned, standing = at_once
                made = self._made_at_once(command, owned, standing)
                if made is not None:
                    return self._publish(command, made, standing)
        answer: Pending[bytes] = Pending()
        waiting = self._waiting.get(room)
        if waiting is None:
            waiting = self._waiting[room] = deque()
            self.chat.services.spawn(self._work_off(room, waiting))
        waiting.append((command, answer))
        return answer

    async def _work_off(self, room: RoomId, waiting: Queue) -> None:
        """Send what waits in a room, in its order, until nothing does."""
        try:
            while waiting:
                async with self.chat.rooms.turn(room) as owned:
                    for _ in range(min(len(waiting), TURN_MESSAGES)):
                        command, answer = waiting[0]
                        await self._send_in_turn(command, owned, answer)
                        waiting.popleft()
        except Exception as error:  # the tables gave no answer, say
            for _, answer in waiting:
                answer.settle(error)
        finally:
            del self._waiting[room]

    async def _send_in_turn(self, command: Command, owned: Owned, answer: Pending[bytes]) -> None:
        try:
            standing = await self.chat.rooms.standing(command.room, command.identity.user)
            made = await self._made(command, owned, standing)
            outcome = self._publish(command, made, standing)
        except Exception as error:  # it is this message's alone
            answer.settle(error)
            return
        if isinstance(outcome, Pending):
            outcome.then(answer.settle)
        elif isinstance(outcome, bytes):
            answer.settle(outcome)
        else:
            self.chat.services.spawn(_settle_by(outcome, answer))

    def _made_at_once(self, command: Command, owned: Owned, standing: Standing) -> Made | None:
        """Return a message that nothing has to be looked up for, else None."""
        flags = self.chat.core.rules.of(command.room)
        if not command.trusted:
            check_send(owned.room, standing, self.chat.rooms.now_ms)
        elif b'"scheduled"' in command.content:
            return None
        if flags.end_to_end:
            return Made(None, command.content, None)
        if command.room not in self._newest or self.chat.order.examines(command.room):
            return None
        draft = decode(_drafts, command.content)
        if draft.attachments or draft.reply_to or draft.thread:
            return None
        return self._composed(command, owned, standing, draft, ())

    async def _made(self, command: Command, owned: Owned, standing: Standing) -> Made:
        """The same for any message, in its turn."""
        flags = self.chat.core.rules.of(command.room)
        due = None
        if command.trusted and b'"scheduled"' in command.content and not flags.end_to_end:
            due = decode(_due, command.content)
        if not command.trusted or due is not None:
            check_send(owned.room, standing, self.chat.rooms.now_ms)
        if flags.end_to_end:
            return Made(None, command.content, None)
        draft = decode(_drafts, command.content)
        if self.chat.order.examines(command.room):
            draft = await self.chat.order.examine(command, owned.room, draft)
        check_text(draft.text, self.settings.chat_message_chars, draft.attachments)
        if not flags.encrypted:  # what is sealed where it is kept is in no table
            await self._check_references(command, draft)
        if command.room not in self._newest:
            await self._learn_newest(command.room)
        files = due.files if due is not None else ()
        if draft.attachments and due is None:
            files = await self.chat.files.claim(command, draft.attachments)
        return self._composed(command, owned, standing, draft, files, due)

    def _composed(
        self,
        command: Command,
        owned: Owned,
        standing: Standing,
        draft: Draft,
        files: Sequence[dict[str, Any]],
        due: Due | None = None,
    ) -> Made:
        check_text(draft.text, self.settings.chat_message_chars, files)
        now_ms = self.chat.rooms.now_ms
        id = self._new_id(command.room, now_ms)
        if due is not None:
            may_call = due.here
        else:
            may_call = "@here" in draft.text and self.may_call(command, owned, standing)
        lang = draft.lang.lower() if draft.lang else self.chat.search.language(draft.text)
        said = say(draft, ids.text_of(id), lang, files, may_call=may_call)
        if draft.expires_s is not None:
            said.expires_at = stamp(now_ms + draft.expires_s * 1000)
        if due is not None:
            said.scheduled = due.scheduled
        self.chat.order.sent(command, id, draft)
        return Made(id, saying.encode(said), said)

    def may_call(self, command: Command, owned: Owned, standing: Standing) -> bool:
        """Whether the sender of a command may call all of its room by @here."""
        identity, room = command.identity, command.room.room
        return (
            command.trusted
            or self.chat.rooms.role_of(identity, room, owned.room, standing) >= Role.MODERATOR
            or self.chat.core.access.grants(identity, HERE, room)
        )

    def _publish(self, command: Command, made: Made, standing: Standing) -> bytes | Awaitable[bytes]:
        receipt = command.publish(MESSAGE, made.content, key=command.key)
        standing.sent_ms = self.chat.rooms.now_ms
        self._sent += 1
        self.chat.signs.said(command.room, command.identity.user)
        if isinstance(receipt, tuple) or not isinstance(receipt, Pending):
            return self._answered(command, made, receipt)
        answer: Pending[bytes] = Pending()
        if command.key is not None:
            self._keys.add(command, answer)
        receipt.then(partial(self._settle, command, made, answer))
        return answer

    def _settle(
        self, command: Command, made: Made, answer: Pending[bytes], outcome: Receipt | Exception
    ) -> None:
        if isinstance(outcome, Exception):
            self._keys.forget(command)
            answer.settle(outcome)
        elif outcome[2]:
            self.chat.services.spawn(_settle_by(self._first_answer(command, made, outcome), answer))
        else:
            self._tell(command, made)
            answer.settle(_placed(outcome, made.id))

    async def _answered(self, command: Command, made: Made, receipt: Receipt | Awaitable[Receipt]) -> bytes:
        place = receipt if isinstance(receipt, tuple) else await receipt
        if place[2]:
            return await self._first_answer(command, made, place)
        self._tell(command, made)
        return _placed(place, made.id)

    def _tell(self, command: Command, made: Made) -> None:
        said = made.said
        if said is not None and (said.mentions or said.here):
            self.mentions.notify(command, said)

    async def _first_answer(self, command: Command, made: Made, receipt: Receipt) -> bytes:
        """Return the answer to a repeat: the id is that of the first."""
        id = None
        if made.id is not None:
            found = await self.database.read(
                "SELECT m.id AS id FROM rooms r JOIN chat_messages m ON m.room = r.id "
                'WHERE r.tenant = $1 AND r.name = $2 AND m."offset" = $3 AND m.epoch = $4',
                *command.room,
                receipt[0],
                receipt[1].decode(),
            )
            id = found[0][0] if found else None
        return _placed(receipt, id)

    # -- ids ------------------------------------------------------------------------------------------------

    def _new_id(self, room: RoomId, now_ms: int) -> int:
        """Return an id above all that the room has: clocks may be set back, and others may be fast."""
        last = self._newest.pop(room, 0)
        id = max(self.chat.ids.new(max(now_ms, ids.at_ms(last))), last + 1)
        self._newest[room] = id
        return id

    async def _learn_newest(self, room: RoomId) -> None:
        found = await self.database.read(
            "SELECT max(m.id) AS id FROM rooms r JOIN chat_messages m ON m.room = r.id "
            "WHERE r.tenant = $1 AND r.name = $2",
            *room,
        )
        self._newest[room] = found[0][0] or 0
        while len(self._newest) > NEWEST_KNOWN:
            del self._newest[next(iter(self._newest))]

    # -- what is there --------------------------------------------------------------------------------------

    async def find(self, room: RoomId, id: int, user: UserId = NOBODY) -> Row | None:
        """Return a message of `room` as its table has it, deleted and hidden ones too; None where there is
        none. What is `mine` of its reactions is `user`'s.
        """
        found = await self.database.read(
            f"SELECT {columns(self.database.dialect, '$4')} FROM rooms r "
            "JOIN chat_messages m ON m.room = r.id WHERE r.tenant = $1 AND r.name = $2 AND m.id = $3",
            *room,
            id,
            user,
        )
        return Row(*found[0]) if found else None

    async def _check_references(self, command: Command, draft: Draft) -> None:
        """Raise BadMessage where a draft answers what is not there, or is in a thread that is none."""
        for name, text in (("reply_to", draft.reply_to), ("thread", draft.thread)):
            if text is None:
                continue
            message = await self.find(command.room, ids.read_id(text))
            if message is None or message.deleted_ms:
                raise BadMessage(f"`{name}`: there is no message {text} in this room")
            if name == "thread" and message.thread is not None:
                raise BadMessage(f"`thread`: {text} is in thread {ids.text_of(message.thread)} itself")

    # -- as a part ------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """As `Part.tick`."""
        self.scheduler.tick()

    def erasure(self, room: int) -> Sequence[Statement]:
        """As `Part.erasure`. What hangs on messages goes with them, by triggers."""
        return (
            Statement(
                "DELETE FROM chat_messages WHERE room = $1 AND id IN (SELECT m.id FROM chat_messages m "
                f"WHERE m.room = $1 ORDER BY m.id LIMIT {ERASED_AT_ONCE}) RETURNING id",
                (room,),
            ),
            Statement(
                "DELETE FROM chat_scheduled WHERE id IN (SELECT s.id FROM chat_scheduled s JOIN rooms r "
                f"ON r.tenant = s.tenant AND r.name = s.room WHERE r.id = $1 LIMIT {ERASED_AT_ONCE}) "
                "RETURNING id",
                (room,),
            ),
        )

    def disown(self, slots: Collection[int]) -> None:
        """As `Part.disown`."""
        gone = frozenset(slots)
        for room in [each for each in self._newest if room_slot(each) in gone]:
            del self._newest[room]
        self._keys.disown(gone)
        self.changes.disown(gone)

    def stats(self) -> dict[str, int]:
        """As `Part.stats`."""
        return {
            "chat_messages_total": self._sent,
            "chat_messages_waiting": sum(map(len, self._waiting.values())),
            "chat_mentions_told_total": self.mentions.told,
            "chat_scheduled_sent_total": self.scheduler.sent,
            "chat_expired_total": self.scheduler.expired,
            "chat_imported_total": self.importer.imported,
        }


async def _settle_by(outcome: Awaitable[bytes], answer: Pending[bytes]) -> None:
    try:
        answer.settle(await outcome)
    except Exception as error:  # whoever waits for it is told
        answer.settle(error)


def _placed(receipt: Receipt, id: int | None) -> bytes:
    offset, epoch, duplicate = receipt
    named = b"" if id is None else b',"id":"%019d"' % id
    return b'{"offset":%d,"epoch":"%b"%b%b}' % (
        offset,
        epoch,
        named,
        b',"duplicate":true' if duplicate else b"",
    )

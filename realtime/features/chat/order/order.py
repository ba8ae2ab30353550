"""Keeping order: what may be said, moderation, retention, holds, export."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from realtime.core.auth import Identity
from realtime.core.command import Command
from realtime.core.database import Statement
from realtime.core.session import Session
from realtime.errors import Forbidden, RateLimited, SettingsError, Unavailable
from realtime.features.chat.ids import text_of
from realtime.features.chat.order import holds
from realtime.features.chat.order.classifier import Classifier
from realtime.features.chat.order.filters import Filter, Filters
from realtime.features.chat.order.floods import Floods
from realtime.features.chat.order.folding import Reading
from realtime.features.chat.order.queue import Queue
from realtime.features.chat.order.retention import Retention
from realtime.features.chat.order.wordlist import masked
from realtime.features.chat.part import Part
from realtime.features.chat.rooms.powers import MODERATE
from realtime.features.chat.rooms.state import GONE, Role, RoomState, Standing
from realtime.features.chat.words.draft import Draft
from realtime.ids import RoomId, TenantId, UserId
from realtime.policy import Policy

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat

_number: Final = id  # of a command, while it is at work
FLAGGED_MAX: Final = 1_000
FOREVER_S: Final = float(1 << 40)


class Order(Part):
    """Looks at what is to be sent, and leaves the rest to those who know: `queue`, `retention`, `holds`."""

    def __init__(self, chat: Chat) -> None:
        super().__init__(chat)
        self.queue = Queue(chat)
        self.retention = Retention(chat)
        self._filters = Filters(Policy().chat)
        self._classifier: Classifier | None = None
        self._floods = Floods()
        self._flagged: dict[int, list[tuple[str, str]]] = {}  # (kind, why) by id(command): until it is sent
        self._refused = 0
        self._masked = 0
        self._flags = 0

    # -- what may be said -----------------------------------------------------------------------------------

    def examines(self, room: RoomId) -> bool:
        """Whether anything looks at what is sent to a room."""
        return bool(self._filters.of(room)) or (
            self._classifier is not None and self._classifier.speaks_of(room)
        )

    async def examine(self, command: Command, room: RoomState, draft: Draft) -> Draft:
        """Return a draft as it may be sent, with what filters have changed.

        Raises:
            Forbidden: it may not be sent; the message says which rule it breaks.
            RateLimited: its sender has sent too much just now.
            Unavailable: it has to be shown to the classifier, which gives no answer.
        """
        self._flagged.pop(_number(command), None)
        if command.trusted:
            return draft
        filters = self._filters.of(command.room)
        if filters:
            draft = await self._filtered(command, draft, filters)
        classifier = self._classifier
        if (
            classifier is not None
            and classifier.named.when == "before"
            and classifier.speaks_of(command.room)
        ):
            await self._ask_before(classifier, command, draft)
        return draft

    def sent(self, command: Command, id: int, draft: Draft) -> None:
        """Take note that what was examined is sent as message `id`: what was flagged goes to the moderators.
        In the same turn as `examine`; it does not wait.
        """
        flagged = self._flagged.pop(_number(command), None)
        if flagged:
            self._flags += 1
            self.chat.services.spawn(self.queue.flag(command.room, id, flagged))
        classifier = self._classifier
        if classifier is None or classifier.named.when != "after" or command.trusted:
            return
        if draft.text and classifier.speaks_of(command.room):
            self.chat.services.spawn(self._ask_after(classifier, command, id, draft.text))

    async def _filtered(self, command: Command, draft: Draft, filters: Sequence[Filter]) -> Draft:
        reading: Reading | None = None
        user = command.identity.user
        standing = await self.chat.rooms.standing(command.room, user)
        for each in filters:
            rule = each.rule
            if command.identity.roles & frozenset(rule.except_roles):
                continue
            if rule.except_moderators and standing.role >= Role.MODERATOR:
                continue
            if rule.counts:
                self._count(command, each, draft.text)
            if reading is None or reading.text != draft.text:
                reading = Reading(draft.text)
            found = each.find(reading, self._member_for_s(standing))
            if found is None:
                continue
            if rule.then == "refuse":
                self._refused += 1
                raise Forbidden(f"the rule {rule.name!r} refuses this message: {found.why}")
            if rule.then == "mask":
                self._masked += 1
                draft = replace(draft, text=masked(draft.text, found.spans))
            else:
                self._flag(command, "filter", f"{rule.name}: {found.why}")
        return draft

    def _count(self, command: Command, filter: Filter, text: str) -> None:
        rule = filter.rule
        who = command.room, command.identity.user
        bounds = rule.messages, rule.repeats, rule.in_s
        much = self._floods.take(rule.name, who, text, self.clock.monotonic(), bounds)
        if much is None:
            return
        if rule.then == "flag":
            self._flag(command, "filter", f"{rule.name}: over {much.allowed} {much.what} in {rule.in_s:g} s")
            return
        self._refused += 1
        raise RateLimited(
            f"the rule {rule.name!r} takes {much.allowed} {much.what} in {rule.in_s:g} s",
            retry_after_s=max(0.001, much.wait_s),
            limit=rule.name,
            allowed=much.allowed,
        )

    def _member_for_s(self, standing: Standing) -> float:
        if standing.role >= Role.MODERATOR:
            return FOREVER_S
        return (self.chat.rooms.now_ms - standing.since_ms) / 1000 if standing.since_ms else 0.0

    def _flag(self, command: Command, kind: str, why: str) -> None:
        if len(self._flagged) >= FLAGGED_MAX:  # of what was examined and never sent
            del self._flagged[next(iter(self._flagged))]
        self._flagged.setdefault(_number(command), []).append((kind, why))

    async def _ask_before(self, classifier: Classifier, command: Command, draft: Draft) -> None:
        try:
            answer = await classifier.ask(command.room, command.identity.user, draft.text)
        except Unavailable:
            if classifier.named.on_failure == "closed":
                raise
            return
        if answer.verdict == "refuse":
            self._refused += 1
            raise Forbidden(f"the classifier refuses this message: {answer.reason or 'no reason given'}")
        if answer.verdict == "flag":
            self._flag(command, "classifier", answer.reason)

    async def _ask_after(self, classifier: Classifier, command: Command, id: int, text: str) -> None:
        try:
            answer = await classifier.ask(command.room, command.identity.user, text, text_of(id))
        except Unavailable:
            return  # it is counted; the message is sent
        if answer.verdict != "pass":
            self._flags += 1
            await self.queue.flag(command.room, id, [("classifier", answer.reason)])

    def prepare(self, policy: Policy) -> Callable[[], None]:
        """As `Running.prepare`."""
        filters = Filters(policy.chat)
        classifier, post = None, self.chat.services.post
        if policy.chat.classifier is not None:
            if post is None:
                raise SettingsError("policy: chat.classifier: this server asks nobody")
            classifier = Classifier(policy.chat.classifier, post, self.clock)

        def commit() -> None:
            self._filters, self._classifier = filters, classifier

        return commit

    # -- who may keep order ---------------------------------------------------------------------------------

    def grants(self, identity: Identity, room: RoomId) -> bool:
        """Whether the policy makes somebody a moderator of a room, member or not."""
        return self.chat.core.access.grants(identity, MODERATE, room.room)

    async def check_moderator(self, identity: Identity, room: RoomId, standing: Standing) -> None:
        """Raise Forbidden where somebody may not moderate a room: of one that is hidden from them, or absent,
        word for word as whoever joins it gets.
        """
        if self.grants(identity, room):
            return
        if not await self.chat.rooms.admits(identity, room):
            raise Forbidden(GONE)
        if standing.role < Role.MODERATOR:
            raise Forbidden("only moderators of this room may do this")

    async def check_reader(self, session: Session, room: RoomId) -> None:
        """Raise Forbidden where somebody may not read a room's history."""
        assert session.identity is not None  # nobody's sessions have no handlers
        if not await self.chat.rooms.admits(session.identity, room) or not self.chat.may_read(session, room):
            raise Forbidden(GONE)

    # -- holds ----------------------------------------------------------------------------------------------

    async def held(self, room: RoomId) -> bool:
        """Whether something of a room may not be deleted: it is held, or somebody who wrote in it is."""
        return await holds.room_held(self.database, room)

    async def user_held(self, tenant: TenantId, user: UserId) -> bool:
        """Whether what somebody wrote may not be deleted, wherever it is."""
        return await holds.user_held(self.database, tenant, user)

    # -- as `Part` ------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """As `Part.tick`."""
        self.retention.tick()

    def disown(self, slots: Collection[int]) -> None:
        """As `Part.disown`."""
        self._floods.forget(slots)

    def erasure(self, room: int) -> Sequence[Statement]:
        """As `Part.erasure`. What was held stays until the hold ends."""
        return [
            Statement(
                f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE room = $1 LIMIT 500) "
                f"AND room = $1 RETURNING {key} AS gone",
                (room,),
            )
            for table, key in (("chat_reports", "id"), ("chat_hidden", "id"))
        ]

    def stats(self) -> dict[str, int]:
        """As `Part.stats`."""
        classifier = self._classifier
        return {
            "chat_filter_refused_total": self._refused,
            "chat_filter_masked_total": self._masked,
            "chat_flagged_total": self._flags,
            "chat_classifier_asked_total": 0 if classifier is None else classifier.asked,
            "chat_classifier_failed_total": 0 if classifier is None else classifier.failed,
            "chat_reports_total": self.queue.reports,
            "chat_retention_deleted_total": self.retention.deleted,
        }

    async def close(self) -> None:
        """As `Part.close`."""
        await self.retention.close()

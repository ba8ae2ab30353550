"""Owners: which worker handles a room's commands, how they get there, and who is told what moves.

A command runs at the owner of its room. While that is being settled (a worker has died, another one came) it
waits, bounded in time and number. It is given to another owner only where nothing was done with it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from realtime.core.catalog import Catalog
from realtime.core.cluster import BODY_BYTES_MAX, Change, Cluster, NotServed, WorkerId, room_slot
from realtime.core.command import Command, Order, Publish, Visit, decode_order, encode_order
from realtime.core.contracts import Clock
from realtime.core.feature import OnSlots
from realtime.core.pending import OwedAnswer, Pending
from realtime.core.router import Spawn
from realtime.core.session import Session
from realtime.core.verbs import fitting, too_large
from realtime.errors import TooLarge, Unavailable, UnknownType
from realtime.ids import RoomId
from realtime.native.encode import encode_reply, json_string
from realtime.native.message import Envelope

if TYPE_CHECKING:
    from realtime.core.core import Core

log: Final = logging.getLogger("realtime.core")

VERB: Final = "command"
# A dead worker's rooms have an owner again within the ring's TTL, a beat, and a moment: 2.1 s as set.
PATIENCE_S: Final = 2.5
# Looked again, though the ring has not changed: an inbox that was away for a moment is there again.
AGAIN_S: Final = 0.5
WAITING_MAX: Final = 10_000
# Of a command's content, wherever its owner is; with all that goes along it fits what workers say at once.
CONTENT_BYTES_MAX: Final = 64 * 1024

Permit = Callable[[Session, Envelope], RoomId]
"""Returns the room that a session may send a command to, or raises."""


class Owners:
    """Takes commands to the owners of their rooms, and runs those of the rooms that are owned here.

    `core` is what handlers and features' hooks are given.
    """

    def __init__(
        self,
        core: Core,
        catalog: Catalog,
        cluster: Cluster,
        clock: Clock,
        permit: Permit,
        publish: Publish,
        visit: Visit,
        spawn: Spawn,
    ) -> None:
        self._core = core
        self._spawn = spawn
        self._handlers = {
            message.name: message.owner for message in catalog.messages.values() if message.owner is not None
        }
        self._features = catalog.features
        self._cluster = cluster
        self._clock = clock
        self._permit = permit
        self._publish = publish
        self._visit = visit
        self._version = 0  # of the ring
        self._running: set[Command] = set()  # whose handlers wait
        self._waiting: deque[tuple[float, Pending[bool]]] = deque()  # (until when, for a change), in order
        self._forwarded = 0
        self._taken = 0
        self._again = 0
        cluster.answer(VERB, self._take)

    def command(self, session: Session, message: Envelope) -> Awaitable[None] | None:
        """Have the owner of the message's room handle it, and send its answer as `ack`.

        Raises:
            BadMessage, NotJoined, Forbidden, TooLarge, RateLimited: as `Publisher.publish`.
            Unavailable: there is no owner, for a while now; or it gave no answer, and may have done it.
            RealtimeError: what the handler answers with.
        """
        room = self._permit(session, message)
        identity = session.identity
        assert identity is not None  # nobody's sessions have no commands
        content = message.content or b"null"
        if len(content) > CONTENT_BYTES_MAX:
            raise TooLarge(f"a command's content has {len(content)} bytes; {CONTENT_BYTES_MAX} are taken")
        order = Order(self._version, room.tenant, room.room, message.type, content, message.key, identity)
        outcome = self.perform(order)
        if isinstance(outcome, Pending):
            return OwedAnswer(session, message.id, json_string(order.room), outcome)
        if not isinstance(outcome, bytes):
            return _acknowledge_later(session, message, order, outcome)
        _acknowledge(session, message, order, outcome)
        return None

    def perform(self, order: Order) -> bytes | Awaitable[bytes]:
        """Have the owner of its room do what is ordered, and return what it answers.

        Raises (the awaitable too):
            Unavailable: there is no owner, for a while now; or it gave no answer, and may have done it.
            RealtimeError: what the handler answers with.
        """
        try:
            outcome = self._run(order)
        except NotServed:
            return self._see_through(order, None)
        if isinstance(outcome, Pending):
            done: Pending[bytes] = Pending()
            outcome.then(partial(self._see_done, order, done))
            return done
        return outcome if isinstance(outcome, bytes) else self._see_through(order, outcome)

    @property
    def version(self) -> int:
        """The ring's, as it is known here."""
        return self._version

    def on_change(self, change: Change) -> None:
        """Take a new ring: no command goes on in a room that is not ours any more, features drop and take
        over, and the commands that wait look again.
        """
        self._version = change.version
        if change.disowned:
            gone = frozenset(change.disowned)
            for command in self._running:
                command.over = command.over or room_slot(command.room) in gone
            for feature in self._features:
                self._tell(feature.name, feature.disown, change.disowned)
        if change.owned:
            for feature in self._features:
                self._tell(feature.name, feature.own, change.owned)
        waiting, self._waiting = self._waiting, deque()
        for _, waits in waiting:
            waits.settle(True)

    def tick(self) -> None:
        """Let look again whoever has waited for long enough."""
        now = self._clock.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            self._waiting.popleft()[1].settle(True)

    @property
    def busy(self) -> int:
        """How many commands are being done here, or wait for an owner."""
        return len(self._running) + len(self._waiting)

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics; nothing where no feature has commands."""
        if not self._handlers:
            return {}
        return {
            "commands_forwarded_total": self._forwarded,
            "commands_again_total": self._again,
            "commands_total": self._taken,
            "commands_running": len(self._running),
            "commands_waiting": len(self._waiting),
        }

    def _tell(self, feature: str, hook: OnSlots | None, slots: Collection[int]) -> None:
        if hook is None:
            return
        try:
            hook(self._core, slots)
        except Exception:  # whatever it is, it is this feature's alone
            log.exception("feature %r failed over a change of the ring", feature)

    # -- on the worker of the sender ------------------------------------------------------------------------

    async def _see_through(self, order: Order, outcome: Awaitable[bytes] | None) -> bytes:
        until = self._clock.monotonic() + PATIENCE_S
        while True:
            version = self._version
            try:
                return await (outcome or self._done(order))
            except NotServed as error:
                outcome = None
                if self._clock.monotonic() >= until:
                    raise Unavailable("the room has no owner now", retry_after_s=1.0) from error
            self._again += 1
            if version == self._version:
                await self._another_look()

    def _see_done(self, order: Order, done: Pending[bytes], outcome: bytes | Exception) -> None:
        """Settle `done` by what came of an order, or see it through where nothing was done with it."""
        if isinstance(outcome, NotServed):
            self._spawn(_settle(done, self._see_through(order, None)))
        else:
            done.settle(outcome)

    async def _done(self, order: Order) -> bytes:
        """Have whoever owns the room now do it, and return what it answers."""
        owner = self._cluster.owner(order.room_key)
        if owner is None:
            raise NotServed("the room has no owner now")
        if owner == self._cluster.worker:
            outcome = self._run(order)
            return outcome if isinstance(outcome, bytes) else await outcome
        self._forwarded += 1
        return await self._cluster.ask(owner, VERB, encode_order(replace(order, version=self._version)))

    def _another_look(self) -> Pending[bool]:
        """Return what is settled when the ring changes, or after a while.

        Raises:
            Unavailable: too many wait.
        """
        if len(self._waiting) >= WAITING_MAX:
            raise Unavailable("too many commands wait for the owners of their rooms", retry_after_s=1.0)
        waits = Pending[bool]()
        self._waiting.append((self._clock.monotonic() + AGAIN_S, waits))
        return waits

    # -- on the worker of the owner -------------------------------------------------------------------------

    def _take(self, worker: WorkerId, body: bytes) -> bytes | Awaitable[bytes]:
        order = decode_order(body)
        if order.version > self._version and self._cluster.fence(order.room_key) is None:
            return self._take_later(order)
        return self._run(order)

    async def _take_later(self, order: Order) -> bytes:
        """Run what came with news of the ring that this worker has not heard yet: give it a moment."""
        await self._another_look()
        outcome = self._run(order)
        return outcome if isinstance(outcome, bytes) else await outcome

    def _run(self, order: Order) -> bytes | Awaitable[bytes]:
        """Run the handler.

        Raises (the awaitable too):
            NotServed: the room is not owned here, and nothing was done.
            TooLarge: the answer has over `BODY_BYTES_MAX`, which other workers could not be given.
            RealtimeError: what the handler raises.
        """
        fence = self._cluster.fence(order.room_key)
        handler = self._handlers.get(order.type)
        if fence is None:
            raise NotServed("this worker does not own the room")
        if handler is None:
            raise UnknownType(f"the owner of the room does not know {order.type!r}")
        self._taken += 1
        command = Command(order, fence, self._cluster, self._publish, self._visit)
        try:
            outcome = handler(self._core, command)
        except NotServed as error:
            raise _told_apart(command, error) from error
        if isinstance(outcome, bytes):
            return fitting(outcome)
        if not isinstance(outcome, Pending):
            return self._run_on(command, outcome)
        # What tells by callbacks costs no task, as publications do not (`core.pending`).
        self._running.add(command)
        done: Pending[bytes] = Pending()
        outcome.then(partial(self._ran, command, done))
        return done

    def _ran(self, command: Command, done: Pending[bytes], outcome: bytes | Exception) -> None:
        self._running.discard(command)
        if isinstance(outcome, NotServed):
            outcome = _told_apart(command, outcome)
        elif isinstance(outcome, bytes) and len(outcome) > BODY_BYTES_MAX:
            outcome = too_large(outcome)
        done.settle(outcome)

    async def _run_on(self, command: Command, outcome: Awaitable[bytes]) -> bytes:
        self._running.add(command)
        try:
            return fitting(await outcome)
        except NotServed as error:
            raise _told_apart(command, error) from error
        finally:
            self._running.discard(command)


def _told_apart(command: Command, error: NotServed) -> Unavailable:
    """Return what is to be raised where a handler found that it does not own the room any more."""
    if not command.published:
        return error
    # Given to the next owner it might be done twice.
    return Unavailable("the room's owner has changed; it may have been done", retry_after_s=1.0)


async def _settle(done: Pending[bytes], outcome: Awaitable[bytes]) -> None:
    try:
        done.settle(await outcome)
    except Exception as error:  # whoever waits for it is told
        done.settle(error)


async def _acknowledge_later(
    session: Session, message: Envelope, order: Order, outcome: Awaitable[bytes]
) -> None:
    _acknowledge(session, message, order, await outcome)


def _acknowledge(session: Session, message: Envelope, order: Order, content: bytes) -> None:
    if message.id is not None:
        session.send(encode_reply("ack", message.id, json_string(order.room), content))

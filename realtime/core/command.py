"""A command: one message that the owner of its room handles, on whichever worker its sender is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

import msgspec

from realtime.core.auth import Identity
from realtime.core.cluster import Cluster, NotServed
from realtime.core.contracts import Position, Receipt, Terms
from realtime.core.pending import Pending
from realtime.errors import BadMessage, Conflict, RealtimeError
from realtime.ids import RoomId, RoomName, TenantId
from realtime.native.encode import json_string

Publish = Callable[[RoomId, str, "bytes | None", bytes, Terms], "Receipt | Awaitable[Receipt]"]
"""Takes (room, type, sender as JSON, content as JSON, terms)."""

Visit = Callable[[RoomId, int], Awaitable[tuple[Position, Collection[bytes]]]]
"""Takes (room, limit) and gives where it is, and its last publications."""


class Order(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A command on its way between workers; `version` is of the ring as its sender's worker knows it.

    A `trusted` one is the server's own or a back-end's, in the name of `identity` (of nobody, where its user
    is empty): what members may do does not bind it.
    """

    version: int
    tenant: TenantId
    room: RoomName
    type: str
    content: bytes
    key: str | None
    identity: Identity
    trusted: bool = False

    @property
    def room_key(self) -> RoomId:
        """The room that it is for."""
        return RoomId(self.tenant, self.room)


encode_order = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Order)


def decode_order(body: bytes) -> Order:
    """Return what another worker has encoded.

    Raises:
        BadMessage: it is none.
    """
    try:
        return _decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise BadMessage(f"a worker of another version has sent a command: {error}") from error


class Command:
    """What an owner's handler gets: `identity` has sent `content` (JSON) as `type` to `room`; `trusted` as in
    `Order`.

    `key` is the envelope's: a publication that carries it is made once, however often the command comes.
    `fence` is the ring version under which the room is owned.
    """

    __slots__ = (
        "_cluster",
        "_publish",
        "_visit",
        "content",
        "fence",
        "identity",
        "key",
        "over",
        "published",
        "room",
        "trusted",
        "type",
    )

    def __init__(self, order: Order, fence: int, cluster: Cluster, publish: Publish, visit: Visit) -> None:
        self.identity = order.identity
        self.room = order.room_key
        self.type = order.type
        self.content = order.content
        self.key = order.key
        self.trusted = order.trusted
        self.fence = fence
        self.over = False  # the room has been disowned since
        self.published = 0  # times that it was, or may have been
        self._cluster = cluster
        self._publish = publish
        self._visit = visit

    async def newest(self, limit: int = 1) -> tuple[Position, Collection[bytes]]:
        """Return where the room is, and its last `limit` (1 or more) pushes as JSON, oldest first: as many as
        its kind keeps. Somebody may publish meanwhile; `expect` tells.

        Raises:
            Unavailable: the broker gives no answer.
        """
        return await self._visit(self.room, limit)

    def publish(
        self,
        type: str,
        content: bytes,
        *,
        sender: bytes | None = None,
        key: str | None = None,
        expect: int | None = None,
        as_server: bool = False,
    ) -> Receipt | Awaitable[Receipt]:
        """Publish `content` (JSON) to the command's room as its owner.

        `sender` is a user id as JSON, None the command's sender, or with `as_server` nobody; `key` and
        `expect` are as in `Terms`.

        Raises (the awaitable too):
            NotServed: the room is not owned here any more.
            Conflict: `expect` no longer holds, or there is a newer owner that this worker has not heard of.
            Unavailable: not accepted; whether it was, where an answer got lost, a repeat with the key tells.
        """
        fence = self._cluster.fence(self.room)
        if self.over or fence is None:
            raise NotServed("this worker does not own the room any more")
        self.published += 1
        if sender is None and self.identity.user and not as_server:
            sender = json_string(self.identity.user)
        terms = Terms(key=key, expect=expect, fence=fence)
        try:
            receipt = self._publish(self.room, type, sender, content, terms)
        except Conflict as error:
            raise self._refused(error) from error
        if isinstance(receipt, tuple):
            return receipt
        if isinstance(receipt, Pending):
            known: Pending[Receipt] = Pending()
            receipt.then(lambda outcome: known.settle(self._judged(outcome)))
            return known
        return self._later(receipt)

    async def _later(self, receipt: Awaitable[Receipt]) -> Receipt:
        try:
            return await receipt
        except Conflict as error:
            raise self._refused(error) from error

    def _judged(self, outcome: Receipt | Exception) -> Receipt | Exception:
        return self._refused(outcome) if isinstance(outcome, Conflict) else outcome

    def _refused(self, error: Conflict) -> RealtimeError:
        """Return what to say of a publication that certainly was not made: the next owner may make it."""
        self.published -= 1
        if self.over or self._cluster.fence(self.room) is None:
            return NotServed("this worker did not own the room any more")
        return error

"""What processes outside of the ring ask of a worker: publish for the server, look into a room.

They may do so because they reach the workers at all: nobody's permissions are asked, but the names, types and
sizes are what they are for everybody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec

from realtime.core.catalog import Catalog
from realtime.core.cluster import BODY_BYTES_MAX, Cluster, WorkerId
from realtime.core.contents import decode
from realtime.core.contracts import Receipt, Terms
from realtime.core.history import fitted
from realtime.core.kinds import RoomKind
from realtime.core.limits import Limits
from realtime.core.membership import Membership
from realtime.core.room_rules import RoomRules
from realtime.core.sealed import check_sealed
from realtime.errors import BadMessage, Forbidden, TooLarge
from realtime.ids import RoomId, RoomName, TenantId, UserId
from realtime.native.encode import json_string

PUBLISH: Final = "publish"
MEMBERS: Final = "members"
HISTORY: Final = "history"
KEY_BYTES_MAX: Final = 64  # as in an envelope
PAGE_BYTES_MAX: Final = BODY_BYTES_MAX - 8 * 1024  # of messages in an answer; the rest is for their lengths

Asked = TypeVar("Asked")


class Publication(msgspec.Struct, frozen=True, array_like=True):
    """Publish this. `content` is JSON; `user` None publishes as the server."""

    tenant: TenantId
    room: RoomName
    type: str
    user: UserId | None
    content: bytes
    key: str | None


class Published(msgspec.Struct, frozen=True, array_like=True):
    """The answer: a receipt."""

    offset: int
    epoch: bytes
    duplicate: bool


class Look(msgspec.Struct, frozen=True, array_like=True):
    """Show me this room: its members, or a page of its history."""

    tenant: TenantId
    room: RoomName
    before: int | None = None
    after: int | None = None
    limit: int = 100


class Members(msgspec.Struct, frozen=True, array_like=True):
    """The answer of one worker: the users, as a JSON array, as many as are named, and how many there are."""

    users: bytes
    count: int


class Pages(msgspec.Struct, frozen=True, array_like=True):
    """The answer: where the room is, and messages as JSON, oldest first."""

    offset: int
    epoch: bytes
    messages: list[bytes]
    more: bool


class Outside:
    """Answers it."""

    def __init__(
        self,
        catalog: Catalog,
        membership: Membership,
        publish: Callable[[RoomId, str, bytes | None, bytes, Terms], Receipt | Awaitable[Receipt]],
        cluster: Cluster,
        limits: Limits,
        command: Callable[[Publication], bytes | Awaitable[bytes] | None],
    ) -> None:
        """`command` has an owner do what is asked, and is None for a type that is published as it stands."""
        self._command = command
        self._catalog = catalog
        self._membership = membership
        self._publish = publish
        self._page_max = limits.history_page_max
        self._page_bytes = min(limits.answer_bytes, PAGE_BYTES_MAX)
        cluster.answer(PUBLISH, self._on_publish)
        cluster.answer(MEMBERS, self._on_members)
        cluster.answer(HISTORY, self._on_history)

    def _on_publish(self, asker: WorkerId, body: bytes) -> bytes | Awaitable[bytes]:
        asked = _read(Publication, body)
        check_publication(self._catalog, self._membership.rules, asked)
        outcome = self._command(asked)
        if outcome is not None:
            return _placed(outcome) if isinstance(outcome, bytes) else _placed_later(outcome)
        sender = None if asked.user is None else json_string(asked.user)
        key = RoomId(asked.tenant, asked.room)
        receipt = self._publish(key, asked.type, sender, asked.content, Terms(key=asked.key))
        return _receipt(receipt) if isinstance(receipt, tuple) else _receipt_later(receipt)

    def _on_members(self, asker: WorkerId, body: bytes) -> bytes:
        asked = _read(Look, body)
        room = self._membership.find(RoomId(asked.tenant, asked.room))
        found = Members(b"[]", 0) if room is None else Members(room.roster.listed(), len(room.roster))
        return msgspec.msgpack.encode(found)

    async def _on_history(self, asker: WorkerId, body: bytes) -> bytes:
        asked = _read(Look, body)
        limit = max(1, min(asked.limit, self._page_max))
        key = RoomId(asked.tenant, asked.room)
        position, page = await self._membership.page(key, asked.before, asked.after, limit)
        page = fitted(page, self._page_bytes, newest=asked.after is None)
        if sum(map(len, page.messages)) > self._page_bytes:  # one message, longer than workers hand on
            raise TooLarge("the publication is larger than what a worker may answer")
        found = Pages(position.offset, position.epoch, list(page.messages), page.more)
        return msgspec.msgpack.encode(found)


def check_publication(
    catalog: Catalog, rules: RoomRules, asked: Publication, *, ephemeral: bool = False
) -> RoomKind:
    """Return the kind of the room that a publication, or else a signal of an `ephemeral` type, is for.

    Raises:
        BadMessage: it names no room, its type is not published, its content or key will not do, or the room
            is sealed end to end and the content is not.
        Forbidden: rooms of the kind take no such type.
    """
    kind = catalog.kind_of(asked.room)
    if asked.type not in catalog.types_by_kind[kind.name]:
        raise Forbidden(f"rooms of kind {kind.name!r} take no {asked.type!r}")
    message = catalog.messages[asked.type]
    if message.owner is not None and not message.plain:
        raise BadMessage(f"{asked.type!r} is not published: members send it to the room's owner")
    if message.ephemeral != ephemeral:
        raise BadMessage(f"{asked.type!r} is {'kept: publish' if ephemeral else 'not kept: signal'} it")
    if asked.key is not None and not 0 < len(asked.key.encode()) <= KEY_BYTES_MAX:
        raise BadMessage(f"a key has 1 to {KEY_BYTES_MAX} bytes")
    if rules.of(RoomId(asked.tenant, asked.room)).end_to_end:
        check_sealed(asked.content)
        return kind
    # What is plain may be meant as it stands: where its feature runs, the owner looks what is in it.
    as_it_stands = message.content is None or message.plain
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Any if as_it_stands else message.content)
    try:
        decode(decoder, asked.content)
    except msgspec.DecodeError as error:
        raise BadMessage(f"content is no JSON: {error}") from error
    return kind


def _read(type: type[Asked], body: bytes) -> Asked:
    try:
        return msgspec.msgpack.decode(body, type=type)
    except msgspec.MsgspecError as error:
        raise BadMessage(f"a process of another version asks: {error}") from error


class _Placed(msgspec.Struct, frozen=True):
    """What an owner's answer to a plain type says of its publication."""

    offset: int
    epoch: str
    duplicate: bool = False


def _placed(answer: bytes) -> bytes:
    found = msgspec.json.decode(answer, type=_Placed)
    return msgspec.msgpack.encode(Published(found.offset, found.epoch.encode(), found.duplicate))


async def _placed_later(answer: Awaitable[bytes]) -> bytes:
    return _placed(await answer)


def _receipt(receipt: Receipt) -> bytes:
    return msgspec.msgpack.encode(Published(*receipt))


async def _receipt_later(receipt: Awaitable[Receipt]) -> bytes:
    return _receipt(await receipt)

"""A room as one member sees it: its order, what is missing, who is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec

from realtime.client.errors import CannotSeal
from realtime.client.inbox import Inbox, Item
from realtime.client.link import Token
from realtime.client.order import Order
from realtime.client.seal import Keyring, Place
from realtime.client.wire import Gap, MembersChanged, Message, Page, Position, Unread, user_ids
from realtime.errors import RealtimeError

if TYPE_CHECKING:
    from realtime.client.client import Client


class Room:
    """A joined room; `Client.join` makes it. Iterate over it for its messages:

        async for message in room:
            if isinstance(message, Gap): ...

    Messages come by offset and once, over any number of reconnects; what was missed is fetched as fast as
    it is read. One reader at a time.

    With `keys` all that it says is sealed, and all that it hears is opened, whatever the server wants. What
    cannot be opened comes with an `Unreadable` in place of its content.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        inbox_limit: int,
        token: Token = None,
        keys: Keyring | None = None,
    ) -> None:
        self.name = name
        self.token = token
        self.keys = keys
        self.end_to_end = False  # the server takes here only what is sealed
        self.members: tuple[str, ...] = ()
        self.member_count = 0  # may be more than are named
        self.joined = False
        self.is_passive = False
        self.unread = 0  # publications since it turned passive
        self.inbox = Inbox(inbox_limit)
        self.order = Order(self.inbox)
        self.fetch: asyncio.Task[None] | None = None  # what brings the order what it lacks
        self._client = client

    def __repr__(self) -> str:
        return f"Room({self.name!r}, joined={self.joined}, position={self.position})"

    @property
    def position(self) -> Position | None:
        """The last message that the iteration got, or where the room was joined."""
        return self.order.position

    async def publish(self, type_: str, content: object, *, key: str | None = None) -> Position | None:
        """Publish, and return the message's place once the server keeps it; None where it names none.

        What is not kept at all, such as typing, is for `signal`.

        While there is no connection it waits for one. Over reconnects it is sent again under the same
        idempotency key; give your own `key` (at most 64 bytes) to be able to repeat it yourself, too.

        Raises:
            AckTimeout: connected, and no answer within `ack_timeout_s`. A repeat with the key is safe.
            TooLarge: it is over the server's limit, and was not sent.
            CannotSeal: the room is sealed end to end and we have no key, or it is used up. It was not sent.
            Closed: the client has stopped; whether it was kept is not known if it had been sent.
            RealtimeError: the server's answer, as the class of its name.
        """
        return await self._client.publish(self, type_, self._seal(type_, content), key)

    async def ask(self, type_: str, content: object = None, *, key: str | None = None) -> Any:
        """Send a command of any type to the room's owner, and return the content of its `ack`.

            id = (await room.ask("chat_message", {"text": "hi"}))["id"]

        It waits, and is sent again over reconnects under one key, as `publish`: what it publishes is
        published once. Its content is never sealed: a room that is sealed end to end has no such commands.

        Raises:
            AckTimeout, TooLarge, Closed, RealtimeError: as `publish`.
        """
        return await self._client.ask_in(self, type_, {} if content is None else content, key)

    def signal(self, type_: str, content: object) -> None:
        """Send without an answer, now or never: for typing indicators and cursors.

        Raises:
            CannotSeal: as `publish`.
        """
        self._client.signal(self, type_, self._seal(type_, content))

    async def history(self, *, before: int | None = None, after: int | None = None, limit: int = 50) -> Page:
        """Return at most `limit` messages before or after an offset (exclusive), or the newest ones.

        Raises:
            Disconnected: there is no connection now, or it broke meanwhile.
            AckTimeout: no answer within `ack_timeout_s`.
        """
        wanted: dict[str, int] = {"limit": limit}
        if before is not None:
            wanted["before"] = before
        if after is not None:
            wanted["after"] = after
        found = await self._client.history(self, wanted)
        return self.on_page(found)

    async def presence(self) -> tuple[str, ...]:
        """Ask who is in the room, and return their user ids. Raises as `history`."""
        return await self._client.presence(self)

    async def passive(self) -> None:
        """Get `Unread` with a count, about once a second, instead of messages; until `active`.

        For a window that nobody looks at. We stay a member. After a reconnect what was missed comes as
        messages, and the count begins anew. Without a connection it is passive from the next one on.

        Raises:
            AckTimeout: no answer within `ack_timeout_s`.
            RealtimeError: the server's answer, as the class of its name. After any error it is active.
        """
        await self._client.passive(self)

    async def active(self) -> None:
        """Get messages again, those that were missed first. Without a connection, from the next one on."""
        await self._client.active(self)

    async def leave(self) -> None:
        """Leave; iteration ends after what has arrived already. Raises as `history`."""
        await self._client.leave(self)

    async def events(self) -> AsyncIterator[Item]:
        """Everything that happens here: Message, Gap, MembersChanged, Resumed, Unread.

        Raises:
            Forbidden: the server has put us out.
            RealtimeError: the server does not let us in again, or the client stopped because of an error.
        """
        while (item := await self.inbox.get()) is not None:
            yield item

    async def __aiter__(self) -> AsyncIterator[Message | Gap]:
        async for item in self.events():
            if isinstance(item, Message | Gap):
                yield item

    # -- called by Client ---------------------------------------------------------------------------------

    def end(self, error: RealtimeError | None = None) -> None:
        """Nothing more will come."""
        self.joined = False
        self.inbox.end(error)

    def on_joined(self, content: dict[str, Any]) -> None:
        """The answer to a join: the first one, or one with `since` after a reconnect or to be active."""
        self.joined = True
        self.unread = 0
        self._set_members(user_ids(content.get("members")))
        self._set_count(content)
        self.end_to_end = content.get("end_to_end") is True
        messages = [self._open(_message(push)) for push in content.get("messages") or ()]
        self.order.joined(_place(content), content.get("recovered") is True, messages)

    def on_push(self, push: Message) -> None:
        """Take one push: in order, without what was here already."""
        if push.type == "gap":
            self._on_gap(push.content)
        elif push.type == "presence":
            self._on_presence(push.content)
        elif push.type == "unread":
            self._on_unread(push.content)
        elif push.offset is None or push.epoch is None:
            self.inbox.put(self._open(push))  # half a place is none
        else:
            self.order.push(self._open(push))

    def on_page(self, found: Page) -> Page:
        """Take a page of history for the order."""
        return found._replace(messages=[*map(self._open, found.messages)])

    def _seal(self, type_: str, content: object) -> object:
        """Return what is sent in place of a content.

        Raises:
            CannotSeal: it has to be sealed, and cannot be.
        """
        if self.keys is not None:
            return self.keys.seal(content, Place(self._client.tenant, self.name, self._client.user, type_))
        if self.end_to_end:
            raise CannotSeal(f"{self.name} is sealed end to end: join it with keys")
        return content

    def _open(self, message: Message) -> Message:
        if self.keys is None:
            return message
        place = Place(self._client.tenant, self.name, message.sender, message.type)
        content = self.keys.open(message.content, place)
        return msgspec.structs.replace(message, content=content)

    def _on_gap(self, content: Any) -> None:
        if not isinstance(content, dict):
            return
        first, last = content.get("from"), content.get("to", "")
        if isinstance(last, int | None):
            reason = str(content.get("reason", "dropped"))
            known = isinstance(first, int) and last is not None
            self.order.gap(Gap(first if known else None, last, reason))

    def _on_unread(self, content: Any) -> None:
        at = _place(content) if isinstance(content, dict) else None
        if at is None or not isinstance(content.get("count"), int) or not self.is_passive:
            return  # on its way when we turned active
        self.unread = content["count"]
        self.inbox.put(Unread(self.unread, at))

    def _on_presence(self, content: Any) -> None:
        if not isinstance(content, dict):
            return
        if "members" in content:
            self._set_members(user_ids(content["members"]))
        elif "joined" in content or "left" in content:
            left = set(user_ids(content.get("left")))
            stayed = [user for user in self.members if user not in left]
            self._set_members(tuple(dict.fromkeys([*stayed, *user_ids(content.get("joined"))])))
        self._set_count(content)

    def _set_count(self, content: dict[str, Any]) -> None:
        count = content.get("count")
        self.member_count = count if isinstance(count, int) else len(self.members)

    def _set_members(self, members: tuple[str, ...]) -> None:
        before, after = set(self.members), set(members)
        joined = tuple(user for user in members if user not in before)
        left = tuple(user for user in self.members if user not in after)
        self.members = members
        if joined or left:
            self.inbox.put(MembersChanged(joined, left))


def _place(content: dict[str, Any]) -> Position | None:
    """Where an answer says that the room is; an offset without an epoch, or the reverse, is nowhere."""
    offset, epoch = content.get("offset"), content.get("epoch")
    if isinstance(offset, int) and isinstance(epoch, str):
        return Position(offset, epoch)
    return None


def _message(push: dict[str, Any]) -> Message:
    """A push inside another message's content, which the decoder left as plain data."""
    return Message(
        type=push["type"],
        content=push.get("content"),
        room=push.get("room"),
        sender=push.get("from"),
        offset=push.get("offset"),
        epoch=push.get("epoch"),
        timestamp=push.get("timestamp"),
    )


def page(content: dict[str, Any]) -> Page:
    """Read the content of a `history` answer."""
    return Page([_message(push) for push in content.get("messages") or ()], content.get("more") is True)

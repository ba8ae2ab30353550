"""The client: rooms, requests and what users call, over a Link that comes back by itself."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import quote, urlsplit, urlunsplit

from realtime.client.errors import Closed, Disconnected, from_wire
from realtime.client.inbox import Inbox
from realtime.client.link import Link, State, Token, fetched
from realtime.client.options import Options
from realtime.client.requests import Request, Requests
from realtime.client.room import Room, page
from realtime.client.wire import JsonCodec, Message, MsgpackCodec, Page, Ping, Position, unix_s, user_ids
from realtime.errors import Forbidden, RealtimeError, TooLarge

if TYPE_CHECKING:
    from realtime.client.seal import Keyring

logger = logging.getLogger("realtime.client")


def connect(
    url: str,
    *,
    user: str | None = None,
    token: Token = None,
    codec: Literal["json", "msgpack"] = "json",
    options: Options | None = None,
    on_state: Callable[[State], None] | None = None,
) -> Client:
    """Return a client for `async with`: it connects on entry and comes back by itself until the exit.

    `url` is the endpoint, such as wss://example.org/ws. `user` is appended to its path and must be the
    token's subject. `token` may be a coroutine function that brings a new one: it is asked before every
    attempt to connect, and when the server says that the present one ends soon.
    """
    return Client(url, user=user, token=token, codec=codec, options=options, on_state=on_state)


class Client:
    """`connect()` makes one."""

    def __init__(
        self,
        url: str,
        *,
        user: str | None,
        token: Token,
        codec: Literal["json", "msgpack"],
        options: Options | None,
        on_state: Callable[[State], None] | None,
    ) -> None:
        self.user = user
        self.greeting: dict[str, Any] = {}
        self.round_trip_s: float | None = None
        self.clock_offset_s = 0.0
        self.reconnects = 0
        self._options = options or Options()
        self._clock = self._options.clock
        self._on_state = on_state
        chosen = MsgpackCodec() if codec == "msgpack" else JsonCodec()
        self._link = Link(_with_user(url, user), token, chosen, self._options, self)
        self._encode = chosen.encode
        self._requests = Requests(self._clock, self._options.ack_timeout_s, chosen.encode)
        self._slots = asyncio.Semaphore(self._options.pending_limit)
        self._rooms: dict[str, Room] = {}
        self._joins: dict[str, asyncio.Future[Room]] = {}
        self._pushes = Inbox(self._options.inbox_limit)
        self._first: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._end: Closed | None = None

    @property
    def tenant(self) -> str:
        """Our tenant, as the server greeted us."""
        return str(self.greeting.get("tenant", ""))

    @property
    def state(self) -> State:
        """CONNECTING, ONLINE, WAITING or CLOSED."""
        return self._link.state

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            Disconnected: no connection within `open_timeout_s`.
            Closed: the server refuses us.
        """
        self._first = asyncio.get_running_loop().create_future()
        # Whoever gave up waiting does not ask any more how it ended.
        self._first.add_done_callback(lambda first: first.cancelled() or first.exception())
        self._task = asyncio.create_task(self._link.run(), name="realtime.client")
        try:
            async with asyncio.timeout(self._options.open_timeout_s):
                await asyncio.shield(self._first)
        except TimeoutError as error:
            await self.close()
            waited = f"no connection in {self._options.open_timeout_s:g} s"
            raise Disconnected(f"{self._link.url}: {waited}") from error
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Messages that belong to no joined room, such as notifications and errors that answer nothing."""
        while (item := await self._pushes.get()) is not None:
            if isinstance(item, Message):
                yield item

    async def join(self, name: str, *, token: Token = None, keys: Keyring | None = None) -> Room:
        """Join a room, such as "chat:lobby", and return it; the same Room for the same name.

        While there is no connection it waits for one. The client joins again after every reconnect. A
        private room asks for a room token: `token`, or a coroutine function that brings a new one each time
        that the room is joined, which is then done again when the one before has ended. With `keys` all that
        is said there is sealed, and all that is heard is opened.

        Raises:
            Closed: the client has stopped.
            RealtimeError: the server's answer, as the class of its name.
        """
        if self._end is not None:
            raise self._end
        joining = self._joins.get(name)
        if joining is None:
            room = self._rooms[name] = Room(self, name, self._options.inbox_limit, token, keys)
            joining = self._joins[name] = asyncio.get_running_loop().create_future()
            joining.add_done_callback(lambda done: done.cancelled() or done.exception())
            if self.state is State.ONLINE:
                self._link.spawn(self._join(room))
        elif keys is not None:
            self._rooms[name].keys = keys
        # Shielded: who else waits for the same join must not be cancelled with us.
        return await asyncio.shield(joining)

    async def ping(self) -> Ping:
        """Measure the round trip, and how far the server's clock is from ours.

        Raises:
            Disconnected: there is no connection now, or it broke meanwhile.
            AckTimeout: no answer within `ack_timeout_s`.
        """
        sent, wall = self._clock.monotonic(), self._clock.time()
        answer = await self.request("ping", None, {})
        round_trip_s = self._clock.monotonic() - sent
        server_s = unix_s(answer.content.get("server_time"))
        if server_s is not None:
            self.clock_offset_s = server_s - (wall + round_trip_s / 2)
        self.round_trip_s = round_trip_s
        return Ping(round_trip_s, self.clock_offset_s)

    async def refresh(self, token: str) -> None:
        """Hand the server a newer token before the present one ends. Raises as `ping`."""
        if not callable(self._link.token):
            self._link.token = token
        await self.request("refresh", None, {"token": token})

    async def ask(self, type_: str, content: object = None, *, room: str | None = None) -> Any:
        """Send a command or a question of any type, and return the content of its answer.

            unread = await client.ask("chat_unread")

        `room` is the name of the one that it speaks of, joined or not. What is to be done once, and over
        reconnects, is for `Room.ask`.

        Raises:
            Disconnected: there is no connection now, or it broke meanwhile: it may have been done.
            AckTimeout: no answer within `ack_timeout_s`: it may have been done.
            TooLarge: it is over the server's limit, and was not sent.
            RealtimeError: the server's answer, as the class of its name.
        """
        return (await self.request(type_, room, {} if content is None else content)).content

    async def close(self) -> None:
        """Send what is queued, leave, and stay away. Idempotent.

        Publishes without an ack yet fail with Closed.
        """
        await self._link.flush()
        self._stop(Closed("the client was closed"), shown=None)
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def request(self, type_: str, room: str | None, content: object) -> Message:
        """Send one request over the present connection and return its answer. Raises as `ping`."""
        if self._end is not None:
            raise self._end
        if self.state is not State.ONLINE:
            raise Disconnected
        request = self._requests.add(type_, room, content)
        self._check_size(request)
        self._transmit(request)
        return await request.future

    # -- for rooms ----------------------------------------------------------------------------------------

    async def publish(self, room: Room, type_: str, content: object, key: str | None) -> Position | None:
        """See Room.publish."""
        ack = await self.ask_in(room, type_, content, key)
        if "offset" not in ack or "epoch" not in ack:
            return None
        return Position(ack["offset"], ack["epoch"], ack.get("duplicate") is True)

    async def ask_in(self, room: Room, type_: str, content: object, key: str | None) -> Any:
        """See Room.ask."""
        async with self._slots:
            if self._end is not None:
                raise self._end
            if self._rooms.get(room.name) is not room:
                raise Closed(f"{room.name} was left")
            request = self._requests.add(type_, room.name, content, key=key or secrets.token_urlsafe(12))
            self._check_size(request)
            if room.joined:
                self._transmit(request)
            return (await request.future).content

    def signal(self, room: Room, type_: str, content: object) -> None:
        """See Room.signal."""
        if room.joined and self._link.queued < self._options.pending_limit:
            self._link.send(self._encode({"type": type_, "room": room.name, "content": content}))

    async def history(self, room: Room, wanted: dict[str, int]) -> Page:
        """See Room.history."""
        return page((await self.request("history", room.name, wanted)).content)

    async def presence(self, room: Room) -> tuple[str, ...]:
        """See Room.presence."""
        answer = await self.request("presence", room.name, {})
        return user_ids(answer.content.get("members"))

    async def passive(self, room: Room) -> None:
        """See Room.passive."""
        room.is_passive = True
        if room.joined:
            await self._rest(room)

    async def active(self, room: Room) -> None:
        """See Room.active."""
        room.is_passive, room.unread = False, 0
        if room.joined:
            await self._join(room)

    async def leave(self, room: Room) -> None:
        """See Room.leave."""
        if self._rooms.get(room.name) is not room:
            return
        was_joined = room.joined
        self._drop_room(room, None)
        if was_joined:
            await self.request("leave", room.name, {})

    # -- called by Link -----------------------------------------------------------------------------------

    def on_state(self, state: State) -> None:
        """Tell the user."""
        if self._on_state is None:
            return
        try:
            self._on_state(state)
        except Exception:
            # The callback is the user's; its failure must not cost them the connection.
            logger.exception("on_state(%s)", state)

    def on_greeting(self, greeting: dict[str, Any]) -> None:
        """A connection stands: join every room again."""
        if self.greeting:
            self.reconnects += 1
        self.greeting = greeting
        self.user = greeting.get("user_id") or self.user
        for room in list(self._rooms.values()):
            self._link.spawn(self._join(room))
        if self._first is not None and not self._first.done():
            self._first.set_result(None)

    def on_message(self, message: Message) -> None:
        """Hand one message to whom it is for."""
        if message.id is not None:
            self._requests.answer(message)
            return
        if message.type == "token_expiring" and callable(self._link.token):
            self._renew()
            return
        room = self._rooms.get(message.room) if message.room is not None else None
        if room is not None and message.type == "left":
            self._on_left(room, message)
            return
        if room is not None and message.type != "error":
            room.on_push(message)
            self._catch_up(room)
            return
        if message.type == "error":
            logger.warning("server: %s", from_wire(message.content))
        self._pushes.put(message)

    def on_offline(self) -> None:
        """The connection is lost."""
        for room in self._rooms.values():
            room.joined = False
        self._requests.disconnected(Disconnected("the connection broke before the answer"))

    def on_end(self, reason: Closed) -> None:
        """There will be no other connection."""
        self._stop(reason, shown=reason)

    async def probe(self) -> None:
        """Ping for the link's heartbeat."""
        await self.ping()

    # -- tokens -------------------------------------------------------------------------------------------

    def _renew(self) -> None:
        if self._renewal is None or self._renewal.done():
            self._renewal = self._link.spawn(self._refresh_anew())

    async def _refresh_anew(self) -> None:
        """Fetch a newer token and hand it over. Failing that the server closes, and the next one is fresh."""
        try:
            await self.refresh(await fetched(self._link.token) or "")
        except RealtimeError as error:
            logger.warning("the token could not be renewed: %s", error)
        except Exception:
            # The callback is the user's; until the old token ends nothing is lost.
            logger.exception("no newer token")

    def _on_left(self, room: Room, message: Message) -> None:
        """The server has put us out of a room: join again where that takes no more than a new room token."""
        reason = message.content.get("reason") if isinstance(message.content, dict) else None
        room.joined = False
        if reason == "room_token_expired" and callable(room.token):
            self._link.spawn(self._join(room))
        else:
            self._drop_room(room, Forbidden(f"the server let us out of {room.name}: {reason}"))

    # -- joins and ends -----------------------------------------------------------------------------------

    async def _join(self, room: Room) -> None:
        """Join where we were; try again what is temporary, and give the room up for what is not."""
        while self._rooms.get(room.name) is room:
            since = room.position
            content: dict[str, Any] = {}
            if since:
                content["since"] = {"offset": since.offset, "epoch": since.epoch}
            try:
                token = await fetched(room.token)
            except Exception as error:
                # The callback is the user's; without a token there is no way in.
                self._drop_room(room, Forbidden(f"no room token for {room.name}: {error!r}"))
                return
            if token is not None:
                content["token"] = token
            request = self._requests.add("join", room.name, content)
            request.on_answer = lambda answer: self._on_joined(room, answer)
            self._transmit(request)
            try:
                await request.future
                return
            except Disconnected:
                return  # the next connection joins again
            except RealtimeError as error:
                if not error.retryable:
                    self._drop_room(room, error)
                    return
                logger.info("%s: %s; trying again", room.name, error)
                await self._clock.sleep(error.retry_after_s or 1.0)

    def _on_joined(self, room: Room, answer: Message) -> None:
        """Take the room's state, then send what waits for it, in its old order."""
        joining = self._joins.get(room.name)
        if self._rooms.get(room.name) is not room or joining is None:
            return  # left meanwhile
        was_joined = room.joined
        room.on_joined(answer.content)
        self._catch_up(room)
        if not joining.done():
            joining.set_result(room)
        if was_joined:
            return  # it only turned active: what waits is on its way
        if room.is_passive:
            self._link.spawn(self._rest_again(room))
        for request in self._requests.durable_of(room.name):
            self._transmit(request)

    async def _rest(self, room: Room) -> None:
        """Ask the server for counts alone. Refused, the room is active, and misses nothing.

        A lost connection refuses nothing: the next one asks again.
        """
        try:
            await self.request("passive", room.name, {})
        except Disconnected:
            return
        except RealtimeError:
            room.is_passive = False
            if room.joined:  # whatever became of the request, after this it is active
                self._link.spawn(self._join(room))
            raise

    async def _rest_again(self, room: Room) -> None:
        try:
            await self._rest(room)
        except RealtimeError as error:
            logger.warning("%s is active again: %s", room.name, error)

    def _catch_up(self, room: Room) -> None:
        """Fetch what the room is missing, if it is; one fetch at a time."""
        if room.order.wanted is not None and (room.fetch is None or room.fetch.done()):
            room.fetch = self._link.spawn(self._fetch(room))

    async def _fetch(self, room: Room) -> None:
        """Page through the history until nothing is missing, no faster than the room is read.

        A lost connection ends it where it is, and the next one goes on from there.
        """
        while self._rooms.get(room.name) is room:
            await room.inbox.half_empty()
            ask = room.order.wanted
            if ask is None:
                return
            try:
                answer = await self.request("history", room.name, ask.content)
                room.order.page(ask, room.on_page(page(answer.content)))
            except Disconnected:
                return
            except RealtimeError as error:
                if error.retryable:
                    await self._clock.sleep(error.retry_after_s or 1.0)
                elif self._rooms.get(room.name) is room:
                    logger.warning("%s: what was missed is not to be had: %s", room.name, error)
                    room.order.give_up(ask)

    def _check_size(self, request: Request) -> None:
        """Fail here what the server would close the connection for."""
        limit = (self.greeting.get("limits") or {}).get("message_bytes")
        if isinstance(limit, int) and len(request.payload) > limit:
            request.future.cancel()
            raise TooLarge(f"{len(request.payload)} bytes are more than the {limit} that the server takes")

    def _transmit(self, request: Request) -> None:
        self._requests.sent(request)
        self._link.send(request.payload)

    def _drop_room(self, room: Room, error: RealtimeError | None) -> None:
        if self._rooms.get(room.name) is room:
            del self._rooms[room.name]
        joining = self._joins.pop(room.name, None)
        reason = error or Closed(f"{room.name} was left")
        if joining is not None and not joining.done():
            joining.set_exception(reason)
        self._requests.fail(lambda request: request.durable and request.room == room.name, reason)
        room.end(error)

    def _stop(self, end: Closed, *, shown: Closed | None) -> None:
        """Fail what waits with `end`; iterations end with `shown`, or quietly without one. Idempotent."""
        if self._end is not None:
            return
        self._end = end
        self._link.ended()
        for room in list(self._rooms.values()):
            self._drop_room(room, shown)
        self._requests.fail(lambda _: True, end)
        self._pushes.end(shown)
        if self._first is not None and not self._first.done():
            self._first.set_exception(end)


def _with_user(url: str, user: str | None) -> str:
    if user is None:
        return url
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(user, safe='')}"))

"""The connection that comes back: connect, greet, watch, wait, and again, until told to stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum
from typing import Any, Protocol

from realtime.client.backoff import Backoff, read_close_reason, window_ms
from realtime.client.connection import Connection, Lost, Target
from realtime.client.errors import Closed, Disconnected, may_reconnect
from realtime.client.options import Options
from realtime.client.wire import Codec, Message
from realtime.errors import CloseCode, RealtimeError

logger = logging.getLogger("realtime.client")

Token = str | Callable[[], Awaitable[str]] | None
"""A token, or what brings a new one each time it is called."""


async def fetched(token: Token) -> str | None:
    """Return the token, a new one where there is somebody to ask for it."""
    return await token() if callable(token) else token


class State(Enum):
    """Where a client is. WAITING: for the next attempt to connect."""

    CONNECTING = "connecting"
    ONLINE = "online"
    WAITING = "waiting"
    CLOSED = "closed"


class Owner(Protocol):
    """Who is told; the Client."""

    def on_state(self, state: State) -> None: ...
    def on_greeting(self, greeting: dict[str, Any]) -> None: ...
    def on_message(self, message: Message) -> None: ...
    def on_offline(self) -> None: ...
    def on_end(self, reason: Closed) -> None: ...
    async def probe(self) -> None:
        """Make the server say something. Raises RealtimeError when it does not."""
        ...


class Link:
    """Keeps one connection to `url`. `run` is its life; `send` works while it is ONLINE."""

    def __init__(self, url: str, token: Token, codec: Codec, options: Options, owner: Owner) -> None:
        self.url = url
        self.token = token
        self.state = State.CONNECTING
        self._codec = codec
        self._options = options
        self._clock = options.clock
        self._owner = owner
        self._backoff = Backoff(options.backoff_base_s, options.backoff_cap_s, options.uniform)
        self._connection: Connection | None = None
        self._greeted = asyncio.Event()
        # Work that lives as long as one connection, and connections that are still saying goodbye.
        self._helpers: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def queued(self) -> int:
        """Messages that have not reached the system's send buffer yet."""
        return self._connection.queued if self._connection is not None else 0

    def send(self, message: bytes) -> None:
        """Queue one encoded message; without a connection it is dropped."""
        if self._connection is not None:
            self._connection.send(message)

    async def flush(self) -> None:
        """Return when everything queued is with the system, or the connection is lost."""
        if self._connection is not None and self.state is State.ONLINE:
            await self._connection.flush()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` beside the present connection; it is cancelled when that is lost."""
        return self._keep(work, self._helpers)

    async def run(self) -> None:
        """Connect, serve, wait, and again. Returns after `on_end`; cancel it to close the connection."""
        try:
            while True:
                self._set_state(State.CONNECTING)
                delay_s = await self._attempt()
                self._set_state(State.WAITING)
                await self._clock.sleep(delay_s)
        except Closed as closed:
            self._owner.on_end(closed)
        except Exception as error:
            # A token callback's exception, or a bug: nobody awaits this task, so say it aloud.
            logger.exception("the client stops")
            self._owner.on_end(Closed(f"the client failed: {error!r}"))
        finally:
            if self._closing:
                await asyncio.wait(self._closing)

    def ended(self) -> None:
        """The owner has decided that this is the end."""
        self._set_state(State.CLOSED)

    async def _attempt(self) -> float:
        """Live through one connection, and return how long to wait before the next.

        Raises:
            Closed: there must be no next one.
        """
        try:
            return self._after_loss(await self._live(await self._open()))
        except Disconnected as error:
            delay_s = max(self._backoff.next_s(), error.retry_after_s or 0.0)
            logger.info("%s; next attempt in %.1f s", error, delay_s)
            return delay_s

    async def _open(self) -> Connection:
        options = self._options
        target = Target(
            self.url,
            await fetched(self.token),
            self._codec.subprotocol,
            options.handshake_timeout_s,
            options.message_bytes_max,
            options.ssl,
            renewable=callable(self.token),
        )
        socket = await options.connector(target)
        self._greeted.clear()
        return Connection(socket, self._codec, self._receive)

    async def _live(self, connection: Connection) -> Lost:
        """Serve until the connection is lost, and return how."""
        self._connection = connection

        def judge() -> None:
            if not self._greeted.is_set():
                connection.drop(CloseCode.ABNORMAL, "no greeting in time")

        timer = self._clock.call_later(self._options.handshake_timeout_s, judge)
        try:
            return await connection.lost
        finally:
            timer.cancel()
            self._connection = None
            for task in self._helpers:
                task.cancel()
            self._owner.on_offline()
            # Beside the loop: with a dead network the closing handshake waits for its own timeout.
            self._keep(connection.close(), self._closing)

    def _receive(self, message: Message) -> None:
        if message.type == "connected" and message.id is None:
            self._on_greeting(message.content)
        else:
            self._owner.on_message(message)

    def _on_greeting(self, greeting: dict[str, Any]) -> None:
        assert self._connection is not None
        self._greeted.set()
        window = greeting.get("reconnect") or {}
        self._backoff.succeeded(window_ms(window.get("min_ms"), window.get("max_ms")))
        self._set_state(State.ONLINE)
        self._owner.on_greeting(greeting)
        self.spawn(self._heartbeat(self._connection))

    def _after_loss(self, lost: Lost) -> float:
        text, window = read_close_reason(lost.reason)
        if not may_reconnect(lost.code):
            what = f"closed by the server: {lost.code} {text}".strip()
            raise Closed(what, received_code=lost.code)
        if window is not None:
            self._backoff.advised(window)
        delay_s = self._backoff.next_s()
        logger.info("connection lost (%d %s); next attempt in %.1f s", lost.code, text, delay_s)
        return delay_s

    async def _heartbeat(self, connection: Connection) -> None:
        """Ping now and then; a server that says nothing at all for `pong_timeout_s` after one is dead."""

        def judge() -> None:
            if connection.silent:
                connection.drop(CloseCode.NO_HEARTBEAT, "no answer to a ping")

        while True:
            connection.expect_traffic()
            verdict = self._clock.call_later(self._options.pong_timeout_s, judge)
            try:
                await self._owner.probe()
            except RealtimeError as error:
                # Late or lost: the verdict judges the connection, by any traffic.
                logger.debug("ping: %s", error)
            try:
                await self._clock.sleep(self._options.ping_interval_s)
            finally:
                verdict.cancel()

    def _set_state(self, state: State) -> None:
        if state is not self.state and self.state is not State.CLOSED:
            self.state = state
            self._owner.on_state(state)

    def _keep(self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

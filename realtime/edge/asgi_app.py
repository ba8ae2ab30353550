"""Any ASGI application on the port of the WebSocket, through uvicorn's protocol class. For development.

In production an application runs in a process of its own: beside the hub it takes its time from every
connection of the worker. Needs the extra `api`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uvicorn import Config

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class AsgiFactory:
    """Makes one protocol a connection, all for one application. Call `start` first and `stop` last."""

    def __init__(self, app: AsgiApp | str, *, lifespan: bool = True) -> None:
        """`app` is the application or where to import it from: "package.module:name". One without a
        `lifespan` has neither start-up nor shut-down.

        Raises:
            ImportError: uvicorn is not installed.
        """
        try:
            from uvicorn import Config
            from uvicorn.server import ServerState
        except ImportError as error:
            raise ImportError("an ASGI application needs uvicorn: pip install 'realtime[api]'") from error
        # No logging set-up and no WebSockets of its own: both are ours.
        self._config: Config = Config(
            app, ws="none", lifespan="auto" if lifespan else "off", log_config=None, access_log=False
        )
        self._config.load()
        self._config.loaded_app = _close_after_response(self._config.loaded_app)
        self._lifespan = self._config.lifespan_class(self._config)
        self._state = ServerState()

    async def start(self) -> None:
        """Run the application's start-up.

        Raises:
            RuntimeError: it failed; the application's log says why.
        """
        await self._lifespan.startup()
        if self._lifespan.should_exit:
            raise RuntimeError("the ASGI application did not start")

    async def stop(self) -> None:
        """Let running requests finish, close the connections, run the application's shut-down."""
        for connection in tuple(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(tuple(self._state.tasks))
        await self._lifespan.shutdown()

    def __call__(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self._config.http_protocol_class(  # type: ignore[call-arg]
            config=self._config, server_state=self._state, app_state=self._lifespan.state
        )
        return protocol


def asgi_factory(app: AsgiApp | str) -> AsgiFactory:
    """Return the `fallback` of an `HttpServer` that answers with `app` what no route answers."""
    return AsgiFactory(app)


def _close_after_response(app: Any) -> Any:
    """Wrap `app` so that every response ends its connection.

    A connection that uvicorn has taken over never sees our routes again, and browsers send the requests of
    all pages down the connections they have: a kept one would answer 404 for our own files.
    """

    async def wrapped(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        async def send_closing(message: Message) -> None:
            if message["type"] == "http.response.start":
                date = formatdate(time.time(), usegmt=True).encode()
                own = [
                    pair
                    for pair in message.get("headers", ())
                    if pair[0].lower() not in (b"connection", b"date")
                ]
                message = {**message, "headers": [*own, (b"date", date), (b"connection", b"close")]}
            await send(message)

        await app(scope, receive, send_closing)

    return wrapped

"""The server inside somebody's ASGI application: FastAPI, Starlette, or any other.

`realtime_hub` is the process's own; each event loop has a worker of its own behind it, made by `initialize`.
The application's routes give their WebSockets to `websocket_endpoint`; a native listener may run beside them,
and its clients are in the same rooms. `edge/asgi_app.py` is the reverse: an application behind our port.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from realtime.core.clock import SystemClock
from realtime.core.contracts import Clock
from realtime.core.control import Control
from realtime.core.notifications import NotificationManager
from realtime.edge import listener
from realtime.edge.asgi_app import Message, Receive, Send
from realtime.edge.asgi_connection import AsgiConnection, AsgiRequest, AsgiWebSocket, refuse
from realtime.edge.files import Paths
from realtime.edge.foundation import Foundation, open_foundation
from realtime.edge.process import connections_allowed
from realtime.edge.tls_worker import TlsWorker
from realtime.errors import CloseCode
from realtime.loading import load
from realtime.native.address import pack
from realtime.native.hub import Accept, Refuse
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

UNWELCOME: Final = Refuse(403, "this address may not connect\n")


class AsgiWorker(TlsWorker):
    """A worker that takes an ASGI server's WebSockets beside those that its own hub accepts."""

    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        connections_max: int,
        clock: Clock,
        foundation: Foundation,
    ) -> None:
        super().__init__(settings, loop, connections_max, clock, foundation)
        full = f"max_connections: this server has its {connections_max} connections\n"
        self._full = Refuse(503, full, "Retry-After: 5\r\n")

    async def serve(self, websocket: AsgiWebSocket, user: str | None) -> None:
        """Serve one WebSocket to its end, as `user` where the token says so, or nobody asks for tokens."""
        message = await websocket.receive()
        if message["type"] != "websocket.connect":
            raise RuntimeError(f"expected websocket.connect, not {message['type']}: accept nothing before")
        request = AsgiRequest(websocket.scope, self.hub.take_id())
        address = pack(request.address)
        if not self._arrive(address):
            await refuse(websocket, UNWELCOME)
            return
        try:
            await self._judge(websocket, request, user, address or b"")
        finally:
            if address is not None:
                self.doorkeeper.depart(address)

    async def _judge(
        self, websocket: AsgiWebSocket, request: AsgiRequest, user: str | None, address: bytes
    ) -> None:
        number = request.connection_id
        verdict: Accept | Refuse = self._full
        if not self.full():
            verdict = self.gate.on_request(request, user)
        if isinstance(verdict, Refuse):
            if not verdict.blameless:
                self.guard.offend(address, verdict.status, False)
            await refuse(websocket, verdict)
            return
        # No await between the verdict and `run`: the user's next connection has to find this one.
        connection = AsgiConnection(number, websocket, verdict, self.hub, self.settings, self._on_frame)
        self.hub.take_in(connection)
        code: int = CloseCode.ABNORMAL
        try:
            code = (await connection.run(verdict)).code
        finally:
            self.guard.offend(address, code, connection.admitted)
            self._forget(connection.state, number, code)

    def _arrive(self, address: bytes | None) -> bool:
        """Whether a client may come in from an address, None where the ASGI server says none."""
        if address is not None:
            return self.doorkeeper.arrive(address)
        return not self.network.restricts  # rules that cannot be applied are not met


class Running(NamedTuple):
    """The server of one event loop; `url` is None where it does not listen.

    `keeper` runs as long as it: cancelled, by `shutdown` or by whoever ends the loop, it closes everything.
    """

    worker: AsgiWorker
    url: str | None
    keeper: asyncio.Task[None]


class RealtimeHub:
    """The server of an application, one in each event loop that it is initialized in."""

    def __init__(self) -> None:
        self._running: dict[asyncio.AbstractEventLoop, Running | None] = {}  # None: it is on its way

    async def initialize(self, settings: Settings | None = None, *, listen: bool | None = None) -> None:
        """Build a worker in the running event loop, with `settings` or those of the environment.

        Its durable rooms stand on the store that the settings name. With `listen` (None: the setting
        `asgi_listen`) it also listens natively on `host` and `port`; `url` says where.

        Raises:
            RuntimeError: this loop has one already.
            SettingsError: the environment's settings will not do.
            StartupError: it cannot listen where the settings say, or has no store there.
        """
        loop = asyncio.get_running_loop()
        self._forget_closed_loops()
        if loop in self._running:
            raise RuntimeError("realtime_hub is initialized already; shut it down before it starts anew")
        if settings is None:
            loaded = load(environ=os.environ)
            settings = loaded.settings
            for warning in loaded.warnings:
                log.warning(warning)
        self._running[loop] = None
        try:
            self._running[loop] = await _start(settings, settings.asgi_listen if listen is None else listen)
        except BaseException:
            del self._running[loop]
            raise

    async def shutdown(self) -> None:
        """Close all connections with 1012 and a reconnect window, within `drain_timeout_s`, and stop.

        It does nothing where nothing runs; `initialize` may follow.
        """
        loop = asyncio.get_running_loop()
        running = self._running.get(loop)
        if running is None or running.worker.stopping:
            return
        left = await running.worker.drain()
        if left:
            log.warning("%d connections had not closed in time", left)
        running.keeper.cancel()
        await asyncio.wait([running.keeper])
        del self._running[loop]

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Run it as long as the application: `FastAPI(lifespan=realtime_hub.lifespan)`."""
        await self.initialize()
        try:
            yield
        finally:
            await self.shutdown()

    @property
    def notification_manager(self) -> NotificationManager:
        """What sends notifications to users who are connected here.

        Raises:
            RuntimeError: it is not initialized in the running event loop, or none is running.
        """
        return self._here().worker.core.notifications

    @property
    def control(self) -> Control:
        """What kicks users and revokes their tokens, on all workers.

        Raises:
            RuntimeError: as `notification_manager`.
        """
        return self._here().worker.core.control

    @property
    def url(self) -> str | None:
        """The native endpoint, such as ws://127.0.0.1:8000/ws; None where it does not listen."""
        return self._here().url

    async def serve(self, websocket: AsgiWebSocket, user_id: str | None = None) -> None:
        """Serve one WebSocket to its end, as `websocket_endpoint`."""
        if user_id is not None and not isinstance(user_id, str):
            raise TypeError(f"user_id is {type(user_id).__name__}, not str")
        if getattr(getattr(websocket, "application_state", None), "name", "") == "CONNECTED":
            raise RuntimeError("the WebSocket is accepted already; websocket_endpoint does that by itself")
        await self._here().worker.serve(websocket, user_id)

    async def files(self, scope: Message, receive: Receive, send: Send) -> None:
        """The HTTP side of attachments, to be mounted: `app.mount("/chat", realtime_hub.files)`.

        Raises:
            RuntimeError: as `notification_manager`.
        """
        worker = self._here().worker
        app = Paths({}) if worker.files is None else worker.files.app
        await app(scope, receive, send)

    def _here(self) -> Running:
        try:
            running = self._running.get(asyncio.get_running_loop())
        except RuntimeError:
            raise RuntimeError("realtime_hub is used in an event loop: from `async def`, not `def`") from None
        if running is None:
            where = "in this event loop" if any(self._running.values()) else "yet"
            raise RuntimeError(
                f"realtime_hub is not initialized {where}: await realtime_hub.initialize() at startup"
            )
        return running

    def _forget_closed_loops(self) -> None:
        """Let go of servers that nobody shut down: they ended with their loops."""
        self._running = {loop: each for loop, each in self._running.items() if not loop.is_closed()}


realtime_hub: Final = RealtimeHub()


async def websocket_endpoint(websocket: AsgiWebSocket, user_id: str | None = None) -> None:
    """Serve one WebSocket of an ASGI application to its end. It must not be accepted yet.

    `user_id` has to be the token's subject; in open mode it is taken as it is, and None is a guest.

    Raises:
        RuntimeError: `realtime_hub` is not initialized, or the WebSocket is accepted already.
    """
    await realtime_hub.serve(websocket, user_id)


async def _start(settings: Settings, listen: bool) -> Running:
    """Build and start the server of the running event loop; where that fails, nothing is left of it."""
    clock = SystemClock()
    foundation = await open_foundation(settings, clock)
    try:
        loop = asyncio.get_running_loop()
        worker = AsgiWorker(settings, loop, connections_allowed(_files(), settings), clock, foundation)
        listening = listener.listen(settings, shared=settings.share_port) if listen else None
        worker.start(listening, listener.listen_admin(settings))
        if listen and settings.tls_port:
            worker.listen_tls(listener.listen(settings, settings.tls_port, shared=settings.share_port))
    except BaseException:
        await foundation.close()
        raise
    keeper = loop.create_task(_keep(worker, foundation))
    await asyncio.sleep(0)  # a task that is cancelled before it began would close nothing
    url = None if listening is None else listener.url(settings, listening, "ws") + settings.ws_path
    return Running(worker, url, keeper)


async def _keep(worker: AsgiWorker, foundation: Foundation) -> None:
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        worker.close()
        await worker.closed()
        await foundation.close()


def _files() -> int:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]  # the process is the application's: taken as it is
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft

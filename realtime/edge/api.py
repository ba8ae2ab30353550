"""`realtime api`: the REST API, the dashboard and the HTTP side of features, in a process of its own that no
WebSocket waits for.

It has no rooms and no database, so there may be as many as one likes, behind a proxy that speaks TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import signal
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import uvloop

from realtime import __version__
from realtime.core.blobs import Blobs
from realtime.core.clock import SystemClock
from realtime.core.contracts import Clock
from realtime.core.services import WebApp, WebServices
from realtime.edge import listener, metrics, notify
from realtime.edge.asgi_app import Message, Receive, Send
from realtime.edge.control_socket import control_path
from realtime.edge.files import open_apps, open_blobs
from realtime.edge.process import configure_logging, node_name, raise_file_limit
from realtime.edge.telemetry import api_metrics
from realtime.errors import StartupError, Unavailable
from realtime.features import discover
from realtime.loading import Loaded
from realtime.settings import Settings

if TYPE_CHECKING:
    from realtime.edge.rest.app import Rest

log: Final = logging.getLogger("realtime.edge")

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
PROBE: Final = "probe"
PROBE_TIMEOUT_S: Final = 5.0
KEEP_ALIVE_S: Final = 30
CONNECTIONS_MAX: Final = 2048
WS_BYTES_MAX: Final = 64 * 1024  # of what a dashboard says


class Api:
    """The ASGI application: the REST API, the features' own, and what says how it is."""

    def __init__(
        self, settings: Settings, apps: Mapping[str, WebApp], blobs: Blobs | None, rest: Rest | None
    ) -> None:
        self._settings = settings
        self._apps = apps
        self._blobs = blobs
        self._rest = rest
        self._node = node_name(settings)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._rest is not None and self._rest.serves(scope["path"]):
            await self._rest(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})  # before it is accepted: 403
            return
        for under, app in self._apps.items():
            if scope["path"].startswith(under):
                await app(scope, receive, send)
                return
        status, type, body = await self._own(scope["path"])
        headers = [
            (b"content-type", type),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def close(self) -> None:
        """Bring what is going on to its end."""
        for app in self._apps.values():
            app.close()

    async def _own(self, path: str) -> tuple[int, bytes, bytes]:
        if path == "/health":
            return _told({"ok": True, "node": self._node})
        if path == "/ready":
            checks = {}
            if self._blobs is not None:
                checks["files"] = "ok" if await self._reaches_files(self._blobs) else "failing"
            if self._rest is not None:
                checks["workers"] = await self._rest.check()
            ok = all(state == "ok" for state in checks.values())
            return _told({"ok": ok, "checks": checks}, 200 if ok else 503)
        if path == "/metrics" and self._settings.tells_all:
            stats = {name: value for app in self._apps.values() for name, value in app.stats().items()}
            if self._blobs is not None:
                stats["chat_files_ok"] = int(self._blobs.ok)
            if self._rest is not None:
                stats |= self._rest.stats()
            return 200, metrics.CONTENT_TYPE.encode(), metrics.render(api_metrics(stats), {})
        return 404, b"text/plain; charset=utf-8", b"not found\n"

    async def _reaches_files(self, blobs: Blobs) -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await blobs.stat(PROBE)
        except (Unavailable, TimeoutError):
            return False
        return True


def _told(report: dict[str, object], status: int = 200) -> tuple[int, bytes, bytes]:
    return status, b"application/json", json.dumps(report).encode() + b"\n"


def serve(loaded: Loaded) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code.

    Raises:
        SettingsError, StartupError: it cannot; the message says what to change.
    """
    settings = loaded.settings
    configure_logging(settings, node_name(settings))
    raise_file_limit()
    clock = SystemClock()
    try:
        import uvicorn

        blobs, apps = _open_files(settings, clock)
        rest = _open_rest(settings, clock)
    except ImportError as error:
        raise StartupError(
            f"`realtime api` needs the extras `api` and `chat`: pip install 'realtime[api,chat]' ({error})"
        ) from error
    if rest is None and blobs is None:
        raise StartupError(
            "there is nothing to serve: set redis_url or control_path for the REST API, or chat_files_path "
            "(or s3_bucket) and chat_url_secret for attachments"
        )
    api = Api(settings, apps, blobs, rest)
    listening = listener.listen(settings, settings.chat_api_port, shared=settings.share_port)
    config = uvicorn.Config(
        api,
        ws="none" if rest is None else "websockets-sansio",
        ws_max_size=WS_BYTES_MAX,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=settings.max_head_bytes,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(settings.drain_timeout_s) or 1,
    )
    served = (
        [] if rest is None else ["/v1/ is the REST API", "/docs says how", "/dashboard shows what goes on"]
    )
    served += [] if blobs is None else ["/ takes and gives attachments"]
    url = listener.url(settings, listening)
    print(f"realtime {__version__}: {url}{', '.join(served)}", flush=True)
    uvloop.run(_run(_server(uvicorn, config, api), listening, rest))
    return 0


def _open_files(settings: Settings, clock: Clock) -> tuple[Blobs | None, dict[str, WebApp]]:
    """Return where attachments are kept and what serves them, where both a place and a secret are named."""
    blobs = open_blobs(settings)
    if blobs is None or not settings.chat_url_secret:
        if blobs is not None:
            log.info("no attachments are served here: there is no chat_url_secret, which signs their URLs")
        return None, {}
    services = WebServices(
        settings=settings, clock=clock, blobs=blobs, url_secret=settings.chat_url_secret.encode()
    )
    return blobs, open_apps(discover(), services)


def _open_rest(settings: Settings, clock: Clock) -> Rest | None:
    """Return the REST API; None where the settings name no way to the workers, or it is not installed.

    Raises:
        SettingsError: the policy cannot be followed.
    """
    if not settings.redis_url and control_path(settings) is None:
        return None
    try:
        from realtime.edge.rest.app import Rest
    except ImportError as error:
        log.warning("there is no REST API: pip install 'realtime[api]' (%s)", error)
        return None
    return Rest(settings, clock)


async def _run(server: Any, listening: socket.socket, rest: Rest | None) -> None:
    loop = asyncio.get_running_loop()
    for each in STOP_SIGNALS:
        loop.add_signal_handler(each, server.handle_exit, each, None)
    # Its loop is where it serves: that it turns is all there is to say.
    heart = notify.Heartbeat(
        loop,
        itertools.count().__next__,
        lambda: f"{len(server.server_state.connections)} connections",
        watchdog_s=notify.watchdog_s(os.environ, os.getpid()),
    )
    async with contextlib.AsyncExitStack() as running:
        if rest is not None:
            loop.add_signal_handler(signal.SIGHUP, rest.reload)
            await running.enter_async_context(rest)
        heart.start()
        await server.serve(sockets=[listening])
        heart.stop()


def _server(uvicorn: Any, config: Any, api: Api) -> Any:
    class Server(uvicorn.Server):  # type: ignore[misc]
        def capture_signals(self) -> contextlib.AbstractContextManager[None]:
            """Leave them to `_run`: uvicorn's own ends by the signal, as if it had not been heeded."""
            return contextlib.nullcontext()

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            """Say so once it listens."""
            await super().startup(sockets)
            notify.ready("serving")

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """End what is going on first: nobody would wait for an upload of hours."""
            notify.stopping("draining")
            api.close()
            await super().shutdown(sockets)

    return Server(config)

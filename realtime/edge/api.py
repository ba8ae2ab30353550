"""`realtime api`: the HTTP side of features, in a process of its own that no WebSocket waits for.

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
from typing import Any, Final

import uvloop

from realtime import __version__
from realtime.core.blobs import Blobs
from realtime.core.clock import SystemClock
from realtime.core.services import WebApp, WebServices
from realtime.edge import listener, metrics, notify
from realtime.edge.asgi_app import Message, Receive, Send
from realtime.edge.files import open_apps, open_blobs
from realtime.edge.process import configure_logging, node_name, raise_file_limit
from realtime.edge.telemetry import api_metrics
from realtime.errors import SettingsError, StartupError, Unavailable
from realtime.features import discover
from realtime.loading import Loaded
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
PROBE: Final = "probe"
PROBE_TIMEOUT_S: Final = 5.0
KEEP_ALIVE_S: Final = 30
CONNECTIONS_MAX: Final = 2048


class Api:
    """The ASGI application: the features' own, and what says how it is."""

    def __init__(self, settings: Settings, apps: Mapping[str, WebApp], blobs: Blobs) -> None:
        self._settings = settings
        self._apps = apps
        self._blobs = blobs
        self._node = node_name(settings)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
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
            ok = await self._reaches_files()
            return _told({"ok": ok, "checks": {"files": "ok" if ok else "failing"}}, 200 if ok else 503)
        if path == "/metrics" and self._settings.tells_all:
            stats = {name: value for app in self._apps.values() for name, value in app.stats().items()}
            body = metrics.render(api_metrics({**stats, "chat_files_ok": int(self._blobs.ok)}), {})
            return 200, metrics.CONTENT_TYPE.encode(), body
        return 404, b"text/plain; charset=utf-8", b"not found\n"

    async def _reaches_files(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await self._blobs.stat(PROBE)
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
    if not settings.chat_url_secret:
        raise SettingsError(
            "`realtime api` needs chat_url_secret, the same as the workers': set REALTIME_CHAT_URL_SECRET "
            "(make one with: openssl rand -hex 32)"
        )
    blobs = open_blobs(settings)
    if blobs is None:
        raise StartupError("there is nothing to serve: set chat_files_path, or s3_endpoint and s3_bucket")
    clock = SystemClock()
    services = WebServices(
        settings=settings, clock=clock, blobs=blobs, url_secret=settings.chat_url_secret.encode()
    )
    try:
        import uvicorn

        api = Api(settings, open_apps(discover(), services), blobs)
    except ImportError as error:
        raise StartupError(
            f"`realtime api` needs the extra `chat`: pip install 'realtime[chat]' ({error})"
        ) from error
    listening = listener.listen(settings, settings.chat_api_port, shared=settings.share_port)
    config = uvicorn.Config(
        api,
        ws="none",
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
    print(
        f"realtime {__version__}: {listener.url(settings, listening)}/ takes and gives attachments",
        flush=True,
    )
    uvloop.run(_run(_server(uvicorn, config, api), listening))
    return 0


async def _run(server: Any, listening: socket.socket) -> None:
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

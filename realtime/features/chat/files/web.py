"""The HTTP side of attachments, as an ASGI application: it needs blobs, a secret, limits and a clock alone.

A worker has it on its own port, or it runs in processes of its own (`realtime api`). Who may send or read
what stands in the signed URLs, which the chat gives over the WebSocket; no cookie and no token counts here.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Final

from realtime.core.services import AsgiMessage, WebServices
from realtime.errors import BadMessage, RealtimeError, Unavailable, UnknownType
from realtime.features.chat.files import downloads, tus
from realtime.features.chat.files.downloads import Downloads
from realtime.features.chat.files.exchange import Exchange, Receive, Send
from realtime.features.chat.files.faults import Cut
from realtime.features.chat.files.limits import DOWNLOADS_MAX, IDLE_S
from realtime.features.chat.files.tickets import FILES, UPLOADS, Tickets
from realtime.features.chat.files.uploads import Finisher
from realtime.protocol.origins import OriginRules

log: Final = logging.getLogger("realtime.chat")

_PATH: Final = re.compile(rf"({UPLOADS}|{FILES})([0-9]{{19}})")
_ASKED: Final = (
    "Content-Type, Tus-Resumable, Upload-Offset, Upload-Length, Upload-Checksum, Upload-Metadata, "
    "X-HTTP-Method-Override, X-Requested-With, Range, If-Range"
)
_TOLD: Final = (
    "Tus-Resumable, Tus-Version, Tus-Max-Size, Tus-Extension, Tus-Checksum-Algorithm, Upload-Offset, "
    "Upload-Length, Upload-Expires, Location, Content-Range, Content-Disposition, Accept-Ranges, ETag"
)
PREFLIGHT_S: Final = 600


class FilesApp:
    """A `WebApp`."""

    def __init__(self, services: WebServices, *, idle_s: float = IDLE_S) -> None:
        settings = services.settings
        self._clock = services.clock
        self._tickets = Tickets(services.url_secret)
        self._origins = OriginRules(settings.allowed_origins)
        self._finisher = Finisher(
            services.blobs, pixels_max=settings.chat_image_pixels, thumbnail_px=settings.chat_thumbnail_px
        )
        self._tus = tus.Tus(services.blobs, self._finisher, settings.chat_file_bytes)
        self._downloads = Downloads(services.blobs)
        self._idle_s = idle_s
        self._running: set[Exchange] = set()
        self._closing = False

    async def __call__(self, scope: AsgiMessage, receive: Receive, send: Send) -> None:
        """Answer one request, or live through one life of the server."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send, asyncio.Event(), self._idle_s)
        self._running.add(exchange)
        try:
            if self._closing:
                raise Unavailable("the server is going down", retry_after_s=1.0)
            await self._serve(exchange)
        except Cut:
            return  # nobody is there to be answered
        except RealtimeError as error:
            await self._refuse(exchange, error)
        except Exception:
            log.exception("%s of an attachment failed", exchange.method)
            await self._refuse(exchange, RealtimeError("the server failed"))
        finally:
            self._running.discard(exchange)

    def close(self) -> None:
        """As `WebApp.close`: what uploads have brought is kept."""
        self._closing = True
        for exchange in self._running:
            exchange.stop.set()

    def stats(self) -> dict[str, int]:
        """As `WebApp.stats`."""
        return {
            "chat_upload_bytes_total": self._tus.bytes,
            "chat_uploads_finished_total": self._tus.finished,
            "chat_uploads_refused_total": self._tus.refused,
            "chat_uploads_running": self._tus.running,
            "chat_download_bytes_total": self._downloads.bytes,
            "chat_downloads_running": self._downloads.running,
        }

    async def _serve(self, exchange: Exchange) -> None:
        form = _PATH.fullmatch(exchange.path)
        if form is None:
            raise UnknownType("there is nothing here")
        uploading = form[1] == UPLOADS
        methods = tus.METHODS if uploading else downloads.METHODS
        self._tell_origin(exchange, methods)
        override = exchange.header("x-http-method-override")
        if uploading and exchange.method == "POST" and override in ("PATCH", "DELETE"):
            exchange.method = override
        if exchange.method not in methods:
            await exchange.answer(405, {"Allow": ", ".join(methods)}, f"only {', '.join(methods)}")
        elif exchange.method == "OPTIONS":
            await exchange.answer(204, self._tus.options() if uploading else {"Allow": ", ".join(methods)})
        elif uploading:
            ticket = self._tickets.read_upload(exchange.ticket, form[2], self._clock.time())
            await self._tus.serve(exchange, ticket)
        else:
            await self._download(exchange, form[2])

    async def _download(self, exchange: Exchange, id: str) -> None:
        now_s = self._clock.time()
        ticket = self._tickets.read_file(exchange.ticket, id, now_s)
        if self._downloads.running >= DOWNLOADS_MAX:
            raise Unavailable("as many downloads as may be are running; try again", retry_after_s=1.0)
        await self._downloads.serve(exchange, ticket, now_s)

    def _tell_origin(self, exchange: Exchange, methods: tuple[str, ...]) -> None:
        """Let pages of the origins that may connect use it; no cookie is looked at, so any where any may."""
        origin = exchange.header("origin")
        exchange.extra["X-Content-Type-Options"] = "nosniff"
        if self._origins:
            exchange.extra["Vary"] = "Origin"
            if origin is None or origin not in self._origins:
                return
        exchange.extra["Access-Control-Allow-Origin"] = origin if self._origins and origin else "*"
        exchange.extra["Access-Control-Expose-Headers"] = _TOLD
        if exchange.method == "OPTIONS" and exchange.header("access-control-request-method"):
            exchange.extra |= {
                "Access-Control-Allow-Methods": ", ".join(methods),
                "Access-Control-Allow-Headers": _ASKED,
                "Access-Control-Max-Age": str(PREFLIGHT_S),
            }

    async def _refuse(self, exchange: Exchange, error: RealtimeError) -> None:
        if exchange.answered:
            return  # what began to be sent ends short, and the connection with it
        headers = {"Cache-Control": "no-store"}
        if error.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
        status = 400 if isinstance(error, BadMessage) else error.number
        await exchange.answer(status, headers, error.message)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

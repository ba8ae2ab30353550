"""What the dashboard shows, over a WebSocket: an overview once a second, while anybody looks.

The messages are the wire's: a first frame `connect` with the token, `connected` or `error` and a close code
in answer, `ping` and `pong`. Workers are asked once a second for all who look together, and not at all while
nobody does; whoever reads slowly gets the newest overview when it reads again, never a queue of old ones.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from realtime.core import powers
from realtime.edge.outsider import WallStamp
from realtime.edge.rest.rates import Rates
from realtime.errors import BadMessage, CloseCode, RealtimeError, Unauthorized, Unavailable
from realtime.protocol.admin import Busy, Occurrence, Overview, Point, Watching
from realtime.protocol.messages import Error

if TYPE_CHECKING:
    from realtime.edge.rest.callers import Caller
    from realtime.edge.rest.http import Http
    from realtime.edge.rest.survey import Survey

log: Final = logging.getLogger("realtime.api")

PATH: Final = "/dashboard/live"
INTERVAL_S: Final = 1.0
CONNECT_S: Final = 10.0
RENEW_S: Final = 5.0
"""So often it is asked whether who looks still may."""
VIEWERS_MAX: Final = 64
POINTS_KEPT: Final = 180
"""Points of the charts that somebody who comes later gets too."""
EVENTS_KEPT: Final = 50
SEND_S: Final = 10.0


class Envelope(msgspec.Struct, frozen=True):
    """What a viewer says: `connect` or `ping`."""

    type: str
    content: dict[str, Any] | None = None
    id: int | str | None = None


_decoder = msgspec.json.Decoder(Envelope)


class Live:
    """Asks the workers, and lets viewers know."""

    def __init__(self, http: Http, survey: Survey) -> None:
        self._http = http
        self._survey = survey
        self._viewers = 0
        self._asking: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._newest = b""
        self._number = 0
        self._rates = Rates()
        self._points: deque[Point] = deque(maxlen=POINTS_KEPT)
        self._events: deque[Occurrence] = deque(maxlen=EVENTS_KEPT)
        self._seen: dict[str, int] = {}
        self._overviews = 0

    def routes(self) -> list[BaseRoute]:
        """Where it is."""
        return [WebSocketRoute(PATH, self._serve)]

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics, by name."""
        return {
            "dashboard_viewers": self._viewers,
            "dashboard_asking": int(self._asking is not None and not self._asking.done()),
            "dashboard_overviews_total": self._overviews,
        }

    async def close(self) -> None:
        """Ask nobody any more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    # -- one viewer -----------------------------------------------------------------------------------------

    async def _serve(self, socket: WebSocket) -> None:
        if not _is_own_page(socket):
            await socket.close(CloseCode.FORBIDDEN)  # before it is accepted: 403
            return
        await socket.accept()
        if self._viewers >= VIEWERS_MAX:
            await socket.close(CloseCode.OVERLOADED)
            return
        self._viewers += 1
        try:
            await self._show(socket)
        except WebSocketDisconnect:
            return
        except RealtimeError as error:
            await _end(socket, error)
        finally:
            self._viewers -= 1

    async def _show(self, socket: WebSocket) -> None:
        address = socket.client.host if socket.client is not None else ""
        bearer, caller = await self._greet(socket, address)
        reading = asyncio.create_task(self._read(socket, caller))
        telling = asyncio.create_task(self._tell(socket, bearer, address))
        try:
            done, _ = await asyncio.wait([reading, telling], return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            for each in (reading, telling):
                each.cancel()
            await asyncio.gather(reading, telling, return_exceptions=True)

    async def _greet(self, socket: WebSocket, address: str) -> tuple[str, Caller]:
        """Take the first frame, and answer it."""
        try:
            async with asyncio.timeout(CONNECT_S):
                first = _read_envelope(await socket.receive_text())
        except TimeoutError:
            raise Unauthorized("no `connect` came in time") from None
        token = (first.content or {}).get("token")
        if first.type != "connect" or not isinstance(token, str):
            raise Unauthorized("the first message has to be `connect`, with a token")
        bearer = f"Bearer {token}"
        caller = await self._permitted(bearer, address)
        self._http.note_viewer(caller, address)
        powers_here = sorted(self._http.callers.powers_of(caller))
        watching = Watching(
            user_id=caller.name, tenant=caller.tenant, powers=powers_here, interval_s=INTERVAL_S
        )
        await self._send(socket, "connected", watching)
        await self._send_past(socket)
        return bearer, caller

    async def _permitted(self, bearer: str, address: str) -> Caller:
        caller = await self._http.caller(bearer, address, "dashboard")
        self._http.callers.permit_all(caller, powers.WORKERS)
        return caller

    async def _read(self, socket: WebSocket, caller: Caller) -> None:
        """Answer what a viewer says, which is little."""
        while True:
            said = _read_envelope(await socket.receive_text())
            self._http.spend(caller, 1.0)
            if said.type != "ping":
                raise BadMessage(f"{said.type[:64]!r} is not taken here")
            id = b"" if said.id is None else b',"id":%b' % msgspec.json.encode(said.id)
            stamp = WallStamp().timestamp
            await _send_text(socket, b'{"type":"pong"%b,"content":{"server_time":"%b"}}' % (id, stamp))

    async def _tell(self, socket: WebSocket, bearer: str, address: str) -> None:
        """Send each overview, or the newest where the viewer is behind, as long as it may see them."""
        loop = asyncio.get_running_loop()
        shown, renew_at = self._number, loop.time() + RENEW_S
        if self._asking is None or self._asking.done():
            self._asking = loop.create_task(self._ask_on())
        while True:
            while self._number == shown:
                await self._news.wait()
            shown = self._number
            await _send_text(socket, self._newest)
            if loop.time() >= renew_at:
                renew_at = loop.time() + RENEW_S
                await self._permitted(bearer, address)

    async def _send_past(self, socket: WebSocket) -> None:
        past = {"points": list(self._points), "events": list(self._events)}
        await _send_text(socket, b'{"type":"past","content":%b}' % msgspec.json.encode(past))

    async def _send(self, socket: WebSocket, type: str, content: msgspec.Struct) -> None:
        body = b'{"type":"%b","content":%b}' % (type.encode(), msgspec.json.encode(content))
        await _send_text(socket, body)

    # -- all of them ----------------------------------------------------------------------------------------

    async def _ask_on(self) -> None:
        """Ask once a second, until nobody looks any more."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while self._viewers:
            try:
                overview = await self._overview()
            except Exception:  # whatever it is, the next one may go well
                log.exception("no overview could be made")
            else:
                self._newest = b'{"type":"overview","content":%b}' % msgspec.json.encode(overview)
                self._number += 1
                self._overviews += 1
                self._news.set()
                self._news.clear()
            due = max(due + INTERVAL_S, loop.time())
            await asyncio.sleep(due - loop.time())

    async def _overview(self) -> Overview:
        stamp = WallStamp().timestamp.decode()
        try:
            found = await self._survey.status()
            events = await self._survey.events(self._seen)
        except Unavailable as error:
            return Overview(server_time=stamp, trouble=error.message)
        point = self._rates.point(found.workers, asyncio.get_running_loop().time(), stamp)
        self._points.append(point)
        self._events.extend(events)
        return Overview(
            server_time=stamp,
            point=point,
            workers=self._rates.workers(found.workers),
            silent=tuple(found.silent),
            rooms=_most(each for worker in found.workers for each in worker.busiest_rooms),
            tenants=_most(each for worker in found.workers for each in worker.busiest_tenants),
            events=tuple(events),
        )


def _most(parts: Iterable[Busy]) -> tuple[Busy, ...]:
    """What is busiest over all workers, as far as their own lists say."""
    together: dict[tuple[str, str], int] = {}
    for each in parts:
        key = each.tenant, each.name
        together[key] = together.get(key, 0) + each.connections
    most = sorted(together.items(), key=lambda item: (-item[1], item[0]))[:10]
    return tuple(Busy(name=name, connections=count, tenant=tenant) for (tenant, name), count in most)


def _read_envelope(text: str) -> Envelope:
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadMessage(f"it is no message: {error}") from error


def _is_own_page(socket: WebSocket) -> bool:
    """Whether no other site's page opens it: browsers name theirs, programs need not."""
    origin = socket.headers.get("origin")
    return origin is None or origin.partition("://")[2] == socket.headers.get("host", "")


async def _send_text(socket: WebSocket, body: bytes) -> None:
    """Send a message; who does not read for `SEND_S` is gone."""
    try:
        async with asyncio.timeout(SEND_S):
            await socket.send_text(body.decode())
    except TimeoutError:
        raise WebSocketDisconnect(CloseCode.SLOW_CONSUMER) from None
    except RuntimeError as error:  # Starlette's word for one that is closed
        raise WebSocketDisconnect(CloseCode.GOING_AWAY) from error


async def _end(socket: WebSocket, error: RealtimeError) -> None:
    told = Error(
        code=error.number,
        name=error.code,
        message=error.message,
        temporary=error.retryable,
        retry_after=error.retry_after_s,
    )
    try:
        await _send_text(socket, b'{"type":"error","content":%b}' % msgspec.json.encode(told))
        await socket.close(error.close_code)
    except (WebSocketDisconnect, RuntimeError):
        log.debug("a viewer was gone before it was told why")

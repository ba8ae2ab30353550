"""The API over HTTP: routes, bodies and queries, who asks, how often, and what an error looks like.

Starlette routes and frames; what is asked is decoded by msgspec into the types of `protocol.admin`, and
bounded before it is read. Pages are a table made at the start.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from realtime.core.audit import NO_TENANT, Action, Event, Outcome
from realtime.core.token_audit import NOBODY
from realtime.edge.audit_relay import ACTING, Acting
from realtime.edge.http import SECURITY_HEADERS
from realtime.edge.outsider import Outsider
from realtime.edge.pages import file_routes
from realtime.edge.rest.callers import CALLERS_MAX, Caller, Callers
from realtime.edge.rest.desk import Desk
from realtime.edge.rest.live import Live
from realtime.edge.rest.openapi import document
from realtime.edge.rest.operations import OPERATIONS, Operation
from realtime.edge.rest.problems import MEDIA_TYPE, problem, problem_of
from realtime.edge.rest.survey import Survey
from realtime.errors import (
    BadMessage,
    Forbidden,
    Internal,
    RateLimited,
    RealtimeError,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from realtime.native.ratelimit import KeyedLimiter
from realtime.protocol import admin
from realtime.protocol.admin import Problem
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.api")

REQUEST_TIMEOUT_S: Final = 30.0
QUERY_FIELDS_MAX: Final = 20
# Refusals of one address: beyond, who goes on guessing waits. Who has a key is not held up by them.
FAILURES_PER_S: Final = 1.0
FAILURES_BURST: Final = 20.0
NO_STORE: Final = ("Cache-Control", "no-store")
PAGES: Final = {"/docs": "docs.html", "/dashboard": "dashboard.html"}
STATIC: Final = "/admin"
JSON: Final = "application/json"
HEADERS: Final = dict((*SECURITY_HEADERS, NO_STORE))


class Http:
    """The application."""

    def __init__(
        self,
        settings: Settings,
        outsider: Outsider,
        callers: Callers,
        desk: Desk,
        survey: Survey,
    ) -> None:
        self._body_bytes = settings.api_body_bytes
        self._outsider = outsider
        self.callers = callers
        self._desk = desk
        rate = settings.api_requests_per_second
        self._requests = KeyedLimiter(rate, 2 * rate, CALLERS_MAX)
        self._failures = KeyedLimiter(FAILURES_PER_S, FAILURES_BURST, CALLERS_MAX)
        self.counts = {"api_requests_total": 0, "api_refused_total": 0, "api_failures_total": 0}
        self.live = Live(self, survey)
        self._openapi = msgspec.json.encode(document())
        self._pages = file_routes(files("realtime.web").joinpath("admin"))
        routes: list[BaseRoute] = [
            Route(each.path, self._endpoint(each), methods=[each.method]) for each in OPERATIONS
        ]
        routes += [
            Route("/openapi.json", self._document),
            *(Route(path, self._page(f"/{name}")) for path, name in PAGES.items()),
            *(Route(STATIC + path, self._page(path)) for path in self._pages),
            *self.live.routes(),
        ]
        handlers: Mapping[Any, Any] = {HTTPException: _on_http_error}
        self.app = Starlette(routes=routes, exception_handlers=handlers)

    def serves(self, path: str) -> bool:
        """Whether a path is one of ours, so that what is not is answered in our words too."""
        return path.startswith(("/v1/", "/docs", "/dashboard", f"{STATIC}/")) or path == "/openapi.json"

    async def caller(self, authorization: str, address: str, what: str) -> Caller:
        """Return who asks, by their header.

        Raises:
            Unauthorized: nobody of ours; on record, and RateLimited where the address goes on and on.
            Unavailable: nobody can say.
        """
        try:
            return await self.callers.identify(authorization)
        except Unauthorized as error:
            self.counts["api_refused_total"] += 1
            self._note_stranger(address, what, error)
            wait_s = self._failures.take(address)
            if wait_s:
                raise RateLimited("too many refusals", retry_after_s=wait_s) from None
            raise

    def spend(self, caller: Caller, cost: float) -> None:
        """Count requests of a caller.

        Raises:
            RateLimited: they are more than it may make.
        """
        limiter = self._requests if caller.requests is None else caller.requests
        wait_s = limiter.take(caller.name, min(cost, limiter.burst))
        if wait_s:
            limit = "api_requests_per_second"
            raise RateLimited(
                "too many requests", retry_after_s=wait_s, limit=limit, allowed=limiter.rate_per_s
            )

    def note_viewer(self, caller: Caller, address: str) -> None:
        """Put on record that somebody looks at the dashboard."""
        acting = ACTING.set(Acting(caller.name, address))
        try:
            self._desk.note_viewer(caller)
        finally:
            ACTING.reset(acting)

    # -- operations -----------------------------------------------------------------------------------------

    def _endpoint(self, operation: Operation) -> Callable[[Request], Any]:
        decoder = msgspec.json.Decoder(operation.asked)

        async def answer(request: Request) -> Response:
            self.counts["api_requests_total"] += 1
            address = _address(request)
            try:
                authorization = request.headers.get("authorization", "")
                caller = await self.caller(authorization, address, operation.name)
                self.spend(caller, 1.0)
                if operation.method == "GET":
                    asked: Any = _query(request, operation)
                else:
                    asked = _read(decoder, await self._body(request))
                    asked = _with_key(asked, request.headers.get("idempotency-key"))
                    self.spend(caller, _cost(asked) - 1)
                return _json(await self._act(operation, caller, asked, address))
            except RealtimeError as error:
                return problem_response(problem_of(error))
            except _Refused as refused:
                return problem_response(refused.problem)
            except Exception:  # whatever it is, it is this request's alone
                log.exception("%s failed", operation.name)
                self.counts["api_failures_total"] += 1
                return problem_response(problem_of(Internal()))

        return answer

    async def _act(self, operation: Operation, caller: Caller, asked: Any, address: str) -> msgspec.Struct:
        acting = ACTING.set(Acting(caller.name, address))
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                return await operation.act(self._desk, caller, asked)
        except Forbidden as error:
            self.counts["api_refused_total"] += 1
            self._desk.note_refusal(caller, operation.name, error)
            raise
        except TimeoutError:
            raise Unavailable("it took too long; it may have been done", retry_after_s=1.0) from None
        finally:
            ACTING.reset(acting)

    async def _body(self, request: Request) -> bytes:
        """Return the body, which is JSON by its header and bounded.

        Raises:
            TooLarge: it is not. _Refused: it is something else.
        """
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
            # So no page of another site can have a browser send it without asking first.
            raise _Refused(problem(415, "unsupported_media_type", f"the body has to be {JSON}"))
        body = bytearray()
        length = request.headers.get("content-length", "")
        over = length.isascii() and length.isdigit() and int(length) > self._body_bytes
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                async for piece in request.stream():
                    body += piece
                    if over or len(body) > self._body_bytes:
                        raise self._too_large()
        except TimeoutError:
            raise _Refused(problem(408, "bad_message", "the request took too long")) from None
        except ClientDisconnect:
            raise _Refused(problem(400, "bad_message", "the request is not whole")) from None
        return bytes(body)

    def _too_large(self) -> TooLarge:
        most = self._body_bytes
        return TooLarge(f"a request has at most {most} bytes", limit="api_body_bytes", allowed=most)

    def _note_stranger(self, address: str, what: str, error: RealtimeError) -> None:
        self._outsider.record(
            Event(
                tenant=NO_TENANT,
                action=Action.CONNECT,
                outcome=Outcome.DENIED,
                actor=NOBODY,
                source=address,
                target=what,
                detail={"carrier": "api", "what": what, "reason": error.code},
            )
        )

    # -- pages ----------------------------------------------------------------------------------------------

    async def _document(self, request: Request) -> Response:
        return Response(self._openapi, headers=HEADERS, media_type=JSON)

    def _page(self, path: str) -> Callable[[Request], Any]:
        handler = self._pages[path]

        async def show(request: Request) -> Response:
            found = handler(_Headers(request))  # type: ignore[arg-type]
            headers = {**dict(SECURITY_HEADERS), **dict(found.headers)}
            return Response(found.body, found.status, headers, found.content_type)

        return show


class _Headers:
    """A request as `pages` reads it."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def header(self, name: str) -> str | None:
        return self._request.headers.get(name)


class _Refused(Exception):  # noqa: N818 - it is an answer
    """Answered with a problem that the wire does not have."""

    def __init__(self, answer: Problem) -> None:
        super().__init__(answer.detail)
        self.problem = answer


def problem_response(told: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """Return a problem as an answer."""
    more = dict(headers or {})
    if told.retry_after is not None and math.isfinite(told.retry_after):
        more["Retry-After"] = str(math.ceil(told.retry_after))
    if told.status == 401:
        more["WWW-Authenticate"] = "Bearer"
    return Response(msgspec.json.encode(told), told.status, {**HEADERS, **more}, MEDIA_TYPE)


async def _on_http_error(request: Request, error: HTTPException) -> Response:
    name = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_message")
    return problem_response(problem(error.status_code, name, f"{error.detail}"), error.headers)


def _json(answer: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(answer), headers=HEADERS, media_type=JSON)


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _read(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadMessage(f"the body is not what is taken here: {error}") from error


def _query(request: Request, operation: Operation) -> Any:
    try:
        given = parse_qsl(
            request.url.query, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX, errors="strict"
        )
    except ValueError as error:
        raise BadMessage(f"the query cannot be read: {error}") from error
    fields = dict(given)
    if len(fields) < len(given):
        raise BadMessage("the query has a field twice")
    try:
        return msgspec.convert(fields, operation.asked, strict=False)
    except msgspec.ValidationError as error:
        raise BadMessage(f"the query is not what is taken here: {error}") from error


def _with_key(asked: Any, header: str | None) -> Any:
    """Let the header give the key of what has one."""
    if header is None or "key" not in asked.__struct_fields__:
        return asked
    if asked.key not in (None, header):
        raise BadMessage("the header Idempotency-Key and `key` differ")
    if not 0 < len(header) <= 64:
        raise BadMessage("the header Idempotency-Key has 1 to 64 characters")
    return msgspec.structs.replace(asked, key=header)


def _cost(asked: Any) -> float:
    """How many requests it counts as: as many as it has parts."""
    if isinstance(asked, admin.Broadcast):
        return len(asked.rooms)
    if isinstance(asked, admin.Batch):
        return sum(_cost(each.broadcast) if each.broadcast else 1 for each in asked.commands)
    return 1

"""What the hand-made HTTP side shows: the files of `realtime.web`, health, readiness, metrics."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import Final

import msgspec

from realtime.edge import metrics
from realtime.edge.http import Handler, Response
from realtime.native.handshake import Request

# Only these are served; what else lies in the folder (Python, maps, editors' droppings) is not.
CONTENT_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/vnd.microsoft.icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}

_NOT_STORED: Final = (("Cache-Control", "no-store"),)
# Who has read of them looks for them here first.
_ELSEWHERE: Final = Response(
    404,
    body=b"not found here: the dashboard (/dashboard) and the reference of the API (/docs) are pages of\n"
    b"`realtime api`, a process of its own, which says where it listens: by default on port 8001\n",
)


@dataclass(frozen=True, slots=True)
class Report:
    """What a probe found: `ok` decides between 200 and 503, `details` is the JSON shown beside it."""

    ok: bool
    details: Mapping[str, object]


Probe = Callable[[], Report]


def web_routes() -> dict[str, Handler]:
    """Return the routes of `realtime.web`: "/" is index.html, every other file is "/" and its name."""
    return file_routes(files("realtime.web"))


def file_routes(folder: Traversable) -> dict[str, Handler]:
    """Read the files that lie directly in `folder` and return one exact route for each.

    The table is made once, at start, and holds every byte: no request ever becomes a path on the disk.
    """
    routes: dict[str, Handler] = {}
    for file in folder.iterdir():
        content_type = CONTENT_TYPES.get(PurePosixPath(file.name).suffix)
        if content_type is None or not file.is_file():
            continue
        handler = _file_handler(content_type, file.read_bytes())
        routes["/" if file.name == "index.html" else f"/{file.name}"] = handler
    return routes


def elsewhere_routes() -> dict[str, Handler]:
    """Return routes for pages that another process has: they say which."""
    return dict.fromkeys(("/dashboard", "/docs"), lambda request: _ELSEWHERE)


def system_routes(
    *, health: Probe, ready: Probe, render_metrics: Callable[[], bytes] | None
) -> dict[str, Handler]:
    """Return /health (is the process alive), /ready (may it take traffic) and, unless it is None, /metrics.

    Each probe is called once a request, on the loop: it looks at what is known and waits for nothing.
    """

    routes = {"/health": _probe_handler(health), "/ready": _probe_handler(ready)}
    if render_metrics is not None:
        render = render_metrics
        routes["/metrics"] = lambda request: Response(200, metrics.CONTENT_TYPE, render(), _NOT_STORED)
    return routes


def _probe_handler(probe: Probe) -> Handler:
    def show(request: Request) -> Response:
        report = probe()
        body = msgspec.json.encode({"ok": report.ok, **report.details}) + b"\n"
        return Response(200 if report.ok else 503, "application/json", body, _NOT_STORED)

    return show


def _file_handler(content_type: str, body: bytes) -> Handler:
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    # The names carry no version: a browser keeps the file but asks, and gets 304 until it changes.
    headers = (("Cache-Control", "no-cache"), ("ETag", etag))
    whole = Response(200, content_type, body, headers)
    unchanged = Response(304, content_type, b"", headers)

    def show(request: Request) -> Response:
        return unchanged if _names(request.header("if-none-match"), etag) else whole

    return show


def _names(condition: str | None, etag: str) -> bool:
    """Does If-None-Match name `etag`? Weakly compared (RFC 9110, 13.1.2); our tags hold no comma."""
    if condition is None:
        return False
    tags = [tag.strip(" \t").removeprefix("W/") for tag in condition.split(",")]
    return etag in tags or tags == ["*"]

"""The files of features: where the settings say they are kept, and their HTTP side on a worker's port."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from realtime.backends.blobs_directory import DirectoryBlobs
from realtime.core.blobs import Blobs
from realtime.core.contracts import Clock
from realtime.core.feature import Feature
from realtime.core.services import WebApp, WebServices
from realtime.edge.asgi_app import AsgiFactory, Message, Receive, Send
from realtime.errors import StartupError
from realtime.settings import Settings

if TYPE_CHECKING:
    from realtime.backends import blobs_s3

log: Final = logging.getLogger("realtime.edge")

AUTO: Final = "auto"
NEEDED: Final = ("PIL", "puremagic", "uvicorn")
SECRET_BYTES: Final = 32


def files_path(settings: Settings) -> Path | None:
    """Return the folder that the settings name; None where they name none."""
    if settings.chat_files_path != AUTO:
        return Path(settings.chat_files_path) if settings.chat_files_path else None
    beside = settings.sqlite_path and not settings.redis_url and not settings.postgres_url
    return Path(f"{settings.sqlite_path}.files") if beside else None


def open_blobs(settings: Settings) -> Blobs | None:
    """Return where files are kept; None where the settings name no place. It waits for nothing.

    Raises:
        StartupError: S3 is asked for, and boto3 is not installed.
    """
    if settings.s3_bucket:
        try:
            module: blobs_s3 = importlib.import_module("realtime.backends.blobs_s3")  # type: ignore[valid-type]
        except ImportError as error:
            raise StartupError("s3_bucket needs boto3: pip install 'realtime[s3]'") from error
        return module.S3Blobs(  # type: ignore[attr-defined, no-any-return]
            settings.s3_endpoint,
            settings.s3_bucket,
            region=settings.s3_region,
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key,
        )
    path = files_path(settings)
    return None if path is None else DirectoryBlobs(path)


def finding(settings: Settings) -> str:
    """Say where attachments would be kept; nothing is made.

    Raises:
        StartupError: as `open_blobs`.
    """
    if open_blobs(settings) is None:
        return "none are kept"
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return f"none are kept: {', '.join(missing)} not installed (pip install 'realtime[chat]')"
    where = f"in bucket {settings.s3_bucket}" if settings.s3_bucket else f"in {files_path(settings)}"
    return f"{where}, over HTTP {f'by {settings.chat_files_url}' if settings.chat_files_url else 'here'}"


def open_apps(features: Sequence[Feature], services: WebServices) -> dict[str, WebApp]:
    """Return the HTTP sides of features, by the paths that they are under. Raises ImportError."""
    return {each.web.under: each.web.open(services) for each in features if each.web is not None}


class Paths:
    """Several applications as one, by the paths that they are under."""

    def __init__(self, apps: Mapping[str, WebApp]) -> None:
        self.apps = apps

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Give a request to whom its path belongs."""
        app = next((app for under, app in self.apps.items() if scope["path"].startswith(under)), None)
        if app is not None:
            await app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})


class WorkerFiles:
    """The files of one worker. `blobs` is None where none are kept; then nothing of HTTP is served either."""

    def __init__(self, settings: Settings, clock: Clock, features: Sequence[Feature]) -> None:
        self.url_secret = settings.chat_url_secret.encode() or secrets.token_bytes(SECRET_BYTES)
        self.blobs = open_blobs(settings)
        self.factory: AsgiFactory | None = None
        self._apps: dict[str, WebApp] = {}
        self.app = Paths({})
        if self.blobs is None:
            return
        services = WebServices(settings=settings, clock=clock, blobs=self.blobs, url_secret=self.url_secret)
        try:
            apps = open_apps(features, services)
            app = Paths(apps)
            factory = AsgiFactory(app, lifespan=False)
        except ImportError as error:
            named = bool(settings.s3_bucket) or settings.chat_files_path != AUTO
            log.log(
                logging.WARNING if named else logging.INFO,
                "no attachments are taken: pip install 'realtime[chat]' (%s)",
                error,
            )
            self.blobs = None
            return
        if not settings.chat_files_url:  # else `realtime api` has them
            self._apps, self.app, self.factory = apps, app, factory

    @property
    def under(self) -> tuple[str, ...]:
        """The paths that are served here."""
        return tuple(self._apps)

    def checks(self) -> dict[str, str]:
        """What /ready tells of it. It does not make a worker unready: all of them would be, over S3, while
        all but attachments works.
        """
        return {} if self.blobs is None else {"files": "ok" if self.blobs.ok else "failing"}

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics, by name."""
        return {name: value for app in self._apps.values() for name, value in app.stats().items()}

    def close(self) -> None:
        """Bring what is going on to its end."""
        for app in self._apps.values():
            app.close()

    async def closed(self) -> None:
        """Wait for that, and let go of the files."""
        if self.factory is not None:
            await self.factory.stop()
        if self.blobs is not None:
            await self.blobs.close()

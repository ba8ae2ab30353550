"""Where the HTTP side of attachments is, for whoever serves it."""

from __future__ import annotations

from typing import Final

from realtime.core.services import Web, WebApp, WebServices


def open_web(services: WebServices) -> WebApp:
    """Return the application. Raises ImportError: the extra `chat` is not installed."""
    from realtime.features.chat.files.web import FilesApp  # Pillow and puremagic: not every worker has them

    return FilesApp(services)


WEB: Final = Web(under="/chat/", open=open_web)

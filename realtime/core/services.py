"""What a feature that keeps more than its rooms is opened with, and what it then is to the core."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from realtime.core.auth import Identity
from realtime.core.blobs import Blobs
from realtime.core.contracts import Clock
from realtime.core.database import Database
from realtime.core.posting import Post
from realtime.core.router import Spawn
from realtime.ids import RoomId
from realtime.policy import Policy
from realtime.settings import Settings

if TYPE_CHECKING:
    from realtime.core.core import Core

AsgiMessage = MutableMapping[str, Any]
AsgiApp = Callable[
    [AsgiMessage, Callable[[], Awaitable[AsgiMessage]], Callable[[AsgiMessage], Awaitable[None]]],
    Awaitable[None],
]

Gate = Callable[[Identity, RoomId], Awaitable[bool]]
"""(who, where) -> whether they may be in the room, by what the feature keeps: asked of every join of its
kind, after the policy. The answer has to be the same for a room that there is not and for one that is
hidden."""


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker that has a store gives its features. `blobs` is None where no files are kept, and `post`
    where no other service may be asked; `url_secret` signs the URLs by which files come and go.
    """

    settings: Settings
    clock: Clock
    spawn: Spawn
    database: Database
    blobs: Blobs | None = None
    post: Post | None = None
    url_secret: bytes = b""


class WebServices(msgspec.Struct, frozen=True, kw_only=True):
    """What a feature's HTTP side is opened with, on a worker or in a process of its own. It has no database:
    what it is to know, URLs say that are signed with `url_secret`.
    """

    settings: Settings
    clock: Clock
    blobs: Blobs
    url_secret: bytes


class WebApp(Protocol):
    """A feature's HTTP side: an ASGI application."""

    async def __call__(
        self,
        scope: AsgiMessage,
        receive: Callable[[], Awaitable[AsgiMessage]],
        send: Callable[[AsgiMessage], Awaitable[None]],
    ) -> None: ...

    def close(self) -> None:
        """Bring what is going on to its end soon, and begin nothing more."""
        ...

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics, by name."""
        ...


class Web(msgspec.Struct, frozen=True, kw_only=True):
    """Where a feature answers HTTP, and by what. `open` raises ImportError: an extra is not installed."""

    under: str  # a path, with a slash at its end
    open: Callable[[WebServices], WebApp]


class Running(Protocol):
    """A feature at work on one worker, from the worker's start to its end."""

    @property
    def gates(self) -> Mapping[str, Gate]:
        """Who may be in its rooms, by kind."""
        ...

    def prepare(self, policy: Policy) -> Callable[[], None]:
        """Do all that may fail over a policy, and return what lets it hold: called at the start, and for each
        policy that is read later.

        Raises:
            SettingsError: it cannot be followed; nothing has changed.
        """
        ...

    def tick(self) -> None:
        """Look at the clock. About ten times a second; it never blocks."""
        ...

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics, by name."""
        ...

    async def close(self) -> None:
        """Write what is still to be written."""
        ...


Open = Callable[["Core", Services], Running]
"""Opens a feature on a worker. It is called while the core is being made: it keeps it, and asks it later."""

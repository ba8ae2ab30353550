"""The REST API at work in a process: what it stands on, until it is closed."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Final, Self

from realtime.core.auth import Identity
from realtime.core.contracts import Clock
from realtime.edge.asgi_app import Message, Receive, Send
from realtime.edge.lone import outsider_of
from realtime.edge.policies import Policies
from realtime.edge.publisher import Publisher
from realtime.edge.rest.callers import Callers
from realtime.edge.rest.desk import Desk
from realtime.edge.rest.http import Http
from realtime.edge.rest.survey import Survey
from realtime.errors import Unavailable
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.api")

TICK_S: Final = 1.0
REVOKED_KNOWN_S: Final = 1.0
REVOKED_KNOWN_MAX: Final = 10_000


class Rest:
    """The API as an ASGI application. An async context manager; of one event loop.

    Raises:
        SettingsError: the settings do not say how workers are reached, or the policy cannot be followed.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._outsider = outsider_of(settings)
        if isinstance(self._outsider, Publisher):
            self._outsider.patient = True  # Redis may come after us
        self._clock = clock
        self.survey = Survey(self._outsider)
        self._revoked: dict[Identity, tuple[float, bool]] = {}
        self._policies = Policies(settings, self._outsider)
        current = self._policies.current
        callers = Callers(settings, current, self._outsider.catalog, clock, self._is_revoked)
        self._policies.follow(callers.prepare)
        self._policies.follow(lambda policy: partial(self._outsider.rules.replace, policy.rooms))
        self.callers = callers
        self.desk = Desk(settings, self._outsider, callers, self.survey)
        self.http = Http(settings, self._outsider, callers, self.desk, self.survey)
        self._running = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Begin to reach for the workers.

        Raises:
            StartupError: Redis will not have us.
        """
        if not self.callers.any:
            log.warning(
                "nobody may use the REST API: no key is in the policy ([[api.keys]], made by `realtime "
                "api-key`), and no jwt_secret and no issuer is configured"
            )
        await self._running.enter_async_context(self._outsider)
        ticking = asyncio.create_task(self._keep_ticking())
        self._running.callback(ticking.cancel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.live.close()
        self.callers.close()
        await self._running.aclose()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self.http.app(scope, receive, send)

    def serves(self, path: str) -> bool:
        """Whether a path is the API's."""
        return self.http.serves(path)

    def reload(self) -> None:
        """Read the policy anew."""
        self._policies.reload()

    async def check(self) -> str:
        """Return `ok` where a worker answers, or what is wrong."""
        try:
            found = await self.survey.status()
        except Unavailable as error:
            return error.message
        return "ok" if found.workers else "no worker answers"

    def stats(self) -> dict[str, int]:
        """Counters for /metrics, by name."""
        return {**self.http.counts, **self.http.live.stats()}

    async def _is_revoked(self, identity: Identity) -> bool:
        """Whether a token is, as it was within the last second."""
        now = self._clock.monotonic()
        known = self._revoked.get(identity)
        if known is not None and known[0] > now:
            return known[1]
        revoked = await self.survey.is_revoked(identity)
        if len(self._revoked) >= REVOKED_KNOWN_MAX:
            self._revoked.clear()
        self._revoked[identity] = now + REVOKED_KNOWN_S, revoked
        return revoked

    async def _keep_ticking(self) -> None:
        while True:
            try:
                self.callers.tick()
            except Exception:
                log.exception("a tick failed")
            await asyncio.sleep(TICK_S)
